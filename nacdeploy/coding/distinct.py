"""The distinct values of a tensor, found without sorting all of it, and every element's place among them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MOST = 4096
_SAMPLE = 1 << 16


@dataclass(frozen=True)
class Codes:
    """A codebook (k,) of rising bit patterns and each element's index in it (n,)."""

    book: NDArray[np.unsignedinteger]
    codes: NDArray[np.integer]

    @property
    def zero(self) -> int | None:
        """The code of the bit pattern of zeros, or None without such a code."""
        return 0 if len(self.book) and self.book[0] == 0 else None


def distinct(patterns: NDArray[np.unsignedinteger], most: int = MOST) -> Codes | None:
    """Return the codes of bit patterns (n,), or None if there are more than `most` distinct ones."""
    book = np.unique(patterns[:: max(1, len(patterns) // _SAMPLE)])
    while len(book) <= most:
        codes = _places(book, patterns)
        missed = patterns[book[codes] != patterns] if len(book) else patterns
        if not len(missed):
            return Codes(book, codes)
        book = np.union1d(book, missed[:_SAMPLE])
    return None


def _places(book: NDArray[np.unsignedinteger], patterns: NDArray[np.unsignedinteger]) -> NDArray[np.integer]:
    """Return the index in `book` of each pattern; the index of a pattern that `book` lacks is arbitrary."""
    if patterns.itemsize <= 2:
        table = np.zeros(1 << (8 * patterns.itemsize), np.uint16)
        table[book] = np.arange(len(book))
        return table[patterns]
    return np.minimum(np.searchsorted(book, patterns), max(len(book) - 1, 0)).astype(np.uint16)
