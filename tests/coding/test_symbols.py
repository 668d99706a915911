"""Huffman codes and fixed-width indices: sizes of the textbook, and a way back for every symbol."""

import numpy as np
import pytest

from nacdeploy.base.errors import NacdeployError
from nacdeploy.coding import symbols


def test_code_lengths_are_those_of_the_textbook() -> None:
    counts = np.array([5, 9, 12, 13, 16, 45])  # Cormen et al., Introduction to Algorithms, figure 16.3
    code = symbols.huffman_code(counts)
    assert code.lengths == (4, 4, 3, 3, 3, 1)
    assert code.n_bits(counts) == 224


def test_code_stays_short_when_counts_grow_like_fibonacci_numbers() -> None:
    counts = [1, 1]
    while len(counts) < 40:
        counts.append(counts[-1] + counts[-2])
    code = symbols.huffman_code(np.array(counts))
    assert max(code.lengths) <= symbols.MAX_LENGTH
    assert sum(2.0**-length for length in code.lengths) == 1  # Kraft, with equality: no code is wasted


@pytest.mark.parametrize("n_symbols", [2, 3, 16, 255, 4096])
def test_huffman_text_is_read_back(n_symbols: int) -> None:
    text = np.minimum(np.random.default_rng(0).geometric(0.2, 20_000) - 1, n_symbols - 1).astype(np.uint16)
    text[:n_symbols] = np.arange(n_symbols)
    counts = np.bincount(text)
    code = symbols.huffman_code(counts)
    data = symbols.huffman_encode(text, code)
    assert len(data) == -(-code.n_bits(counts) // 8)
    assert np.array_equal(symbols.huffman_decode(data, code, len(text)), text)


def test_cut_off_huffman_text_is_refused() -> None:
    text = np.array([0, 1, 2, 3] * 50)
    code = symbols.huffman_code(np.bincount(text))
    with pytest.raises(NacdeployError, match="damaged"):
        symbols.huffman_decode(symbols.huffman_encode(text, code)[:-5], code, len(text))


@pytest.mark.parametrize("width", [0, 1, 3, 4, 7, 8, 9, 16])
def test_indices_are_read_back(width: int) -> None:
    values = np.random.default_rng(1).integers(0, 2**width, 1001)
    data = symbols.pack(values, width)
    assert len(data) == -(-1001 * width // 8)
    assert np.array_equal(symbols.unpack(data, width, 1001), values)


@pytest.mark.parametrize(("n_values", "width"), [(0, 0), (1, 0), (2, 1), (3, 2), (16, 4), (17, 5)])
def test_index_width_is_the_logarithm_rounded_up(n_values: int, width: int) -> None:
    assert symbols.index_bits(n_values) == width
