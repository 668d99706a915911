"""Sizes: the bits that a tensor of few distinct values takes under each layout, and the layout that takes fewest.

The formulas are those of Deep Compression (Han et al., 2016, sections 3 and 4): a codebook of 32-bit values, the codes
of the values, and either zeros among them or the lengths of zero runs.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from nacdeploy.coding import run_lengths as runs
from nacdeploy.coding.symbols import HuffmanCode, huffman_code, index_bits

HUFFMAN, PLAIN, FIXED_POINT = "huffman", "plain", "fixed_point"
_LARGEST_RUN_CODE = 10  # bits of a run index up to which a Huffman code of them is tried
LENGTH_BITS = 5


@dataclass(frozen=True)
class Layout:
    """How values are coded: by Huffman codes, by indices of one width, or by fixed-point numbers of `value_bits`;
    zero runs of `run_bits` (0: zeros are values like others), their indices plain or Huffman coded."""

    codes: str = HUFFMAN
    run_bits: int = 0
    runs: str = PLAIN
    value_bits: int = 0


@dataclass(frozen=True)
class Size:
    """Bits of the values' codes, of the zero runs, and of the codebook with its code."""

    param_bits: int
    index_bits: int
    codebook_bits: int

    @property
    def total_bits(self) -> int:
        return self.param_bits + self.index_bits + self.codebook_bits


@dataclass(frozen=True)
class Histogram:
    """What sizes follow from: how often each code stands (k,), which of them is zero, and the distinct gaps of zeros
    before the other values (g,) with how often each occurs."""

    counts: NDArray[np.int64]
    zero: int | None
    zeros: NDArray[np.int64]
    n_gaps: NDArray[np.int64]

    @cached_property
    def nonzero_counts(self) -> NDArray[np.int64]:
        """The counts with that of zero set to 0."""
        counts = self.counts.copy()
        if self.zero is not None:
            counts[self.zero] = 0
        return counts

    def stored_counts(self, run_bits: int) -> NDArray[np.int64]:
        """How often each code is written: zeros are not where runs tell of them."""
        return self.nonzero_counts if run_bits else self.counts

    @cached_property
    def _value_codes(self) -> dict[bool, HuffmanCode]:
        return {}

    def value_code(self, run_bits: int) -> HuffmanCode:
        """The Huffman code of the values that are written."""
        found = self._value_codes
        if bool(run_bits) not in found:
            found[bool(run_bits)] = huffman_code(self.stored_counts(run_bits))
        return found[bool(run_bits)]

    def run_counts(self, run_bits: int) -> NDArray[np.int64]:
        """How often each run index is written."""
        return runs.symbol_counts(self.zeros, self.n_gaps, run_bits)


def histogram(codes: NDArray[np.integer], n_codes: int, zero: int | None) -> Histogram:
    """The histogram of codes (n,) below `n_codes`, of which `zero` (None: none) stands for zero."""
    counts = np.bincount(codes, minlength=n_codes)
    if zero is None or not counts[zero]:
        return Histogram(counts, None, np.zeros(0, np.int64), np.zeros(0, np.int64))
    zeros, n_gaps = np.unique(runs.gaps(codes != zero), return_counts=True)
    return Histogram(counts, zero, zeros, n_gaps)


def size(found: Histogram, layout: Layout, codebook_value_bits: int = 32) -> Size:
    """The bits of a tensor under `layout`."""
    counts = found.stored_counts(layout.run_bits)
    n_used, n_values = int((counts > 0).sum()), int(counts.sum())
    index = _index_size(found, layout)
    if layout.codes == FIXED_POINT:
        return Size(layout.value_bits * n_values, index, 0)
    if layout.codes == PLAIN:
        width = index_bits(n_used)
        return Size(width * n_values, index, (codebook_value_bits + width) * n_used)
    code = found.value_code(layout.run_bits)
    return Size(code.n_bits(counts), index, codebook_value_bits * n_used + sum(code.lengths))


def _index_size(found: Histogram, layout: Layout) -> int:
    if not layout.run_bits:
        return 0
    counts = found.run_counts(layout.run_bits)
    if layout.runs == PLAIN:
        return layout.run_bits * int(counts.sum())
    return huffman_code(counts).n_bits(counts) + LENGTH_BITS * len(counts)


def best(found: Histogram, codes: tuple[str, ...] = (HUFFMAN, PLAIN), run_bits: int | None = None) -> Layout:
    """The smallest layout among those of `codes`; `run_bits` fixes the width of the runs (0: none), None tries all."""
    widths = range(runs.MIN_BITS, runs.MAX_BITS + 1) if run_bits is None else [run_bits] if run_bits else []
    has_runs = found.zero is not None and bool(found.nonzero_counts.any())
    layouts = [Layout(each) for each in codes] if run_bits is None or run_bits == 0 or not has_runs else []
    if has_runs:
        kinds = [(r, kind) for r in widths for kind in (PLAIN, HUFFMAN) if kind == PLAIN or r <= _LARGEST_RUN_CODE]
        # the runs are the same whatever codes the values
        r, kind = min(kinds, key=lambda k: _index_size(found, Layout(PLAIN, *k)), default=(0, PLAIN))
        layouts += [Layout(each, r, kind) for each in codes if r]
    return min(layouts, key=lambda layout: size(found, layout).total_bits)
