"""Sizes in bits by the formulas of Han et al., 2016; run lengths are those of the older system."""

import numpy as np
import pytest

from nacdeploy.coding import run_lengths, sizes
from nacdeploy.coding.sizes import FIXED_POINT, HUFFMAN, PLAIN, Layout


def bits(symbols: np.ndarray, width: int) -> str:
    return "".join(format(int(symbol), f"0{width}b") for symbol in symbols)


@pytest.mark.parametrize(
    ("gaps", "width", "expected"),
    [
        ([0, 0, 0], 2, "000000"),
        ([14], 4, "1110"),
        ([15], 4, "11110001"),
        ([28], 4, "11111110"),
        ([5, 20, 0, 44], 4, "01011111011000001111111111110010"),
    ],
)
def test_run_lengths_are_written_as_the_golden_ones(gaps: list[int], width: int, expected: str) -> None:
    assert bits(run_lengths.run_symbols(np.array(gaps), width), width) == expected


@pytest.mark.parametrize("width", range(run_lengths.MIN_BITS, 9))
def test_places_come_back_from_runs(width: int) -> None:
    present = np.random.default_rng(width).random(3000) < 0.03
    symbols = run_lengths.run_symbols(run_lengths.gaps(present), width)
    assert np.array_equal(run_lengths.places(symbols, width), np.flatnonzero(present))
    zeros, counts = np.unique(run_lengths.gaps(present), return_counts=True)
    assert np.array_equal(run_lengths.symbol_counts(zeros, counts, width), np.bincount(symbols, minlength=2**width))


def sparse(n: int = 4000, kept: float = 0.1) -> sizes.Histogram:
    generator = np.random.default_rng(3)
    codes = np.where(generator.random(n) < kept, generator.integers(1, 8, n), 0)
    return sizes.histogram(codes, 8, 0)


def test_size_adds_up_as_in_the_paper() -> None:
    codes = np.array([0, 0, 0, 1, 0, 2, 0, 0, 1, 1])
    found = sizes.histogram(codes, 3, 0)
    plain = sizes.size(found, Layout(PLAIN, run_bits=2))
    assert (plain.param_bits, plain.index_bits, plain.codebook_bits) == (4 * 1, 2 * 5, 2 * (32 + 1))
    whole = sizes.size(found, Layout(HUFFMAN))
    assert (whole.param_bits, whole.index_bits, whole.codebook_bits) == (6 + 2 * 4, 0, 3 * 32 + 1 + 2 + 2)
    fixed = sizes.size(found, Layout(FIXED_POINT, 2, value_bits=4))
    assert (fixed.param_bits, fixed.codebook_bits) == (16, 0)


@pytest.mark.parametrize("kept", [0.02, 0.1, 0.5, 0.95])
def test_best_layout_is_the_smallest_of_all(kept: float) -> None:
    found = sparse(kept=kept)
    best = sizes.size(found, sizes.best(found)).total_bits
    every = [Layout(c, r, k) for c in (HUFFMAN, PLAIN) for r in (0, *range(2, 17)) for k in (PLAIN, HUFFMAN)]
    assert best <= min(sizes.size(found, each).total_bits for each in every if each.runs == PLAIN or each.run_bits < 11)


def test_no_runs_are_written_where_nothing_is_zero() -> None:
    assert sizes.best(sizes.histogram(np.array([0, 1, 2, 1]), 3, None)).run_bits == 0


def test_width_of_runs_can_be_asked_for() -> None:
    assert sizes.best(sparse(), run_bits=6).run_bits == 6
    assert sizes.best(sparse(), run_bits=0).run_bits == 0
