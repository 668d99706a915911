"""Zero runs: where the values that are not zero stand, as the number of zeros before each (Han et al., 2016, figure 2).

A run index of r bits holds a gap of up to 2^r - 2 zeros as it is; 2^r - 1 says "2^r - 2 zeros, no value, go on".
The zeros behind the last value are implied by the size of the tensor.
"""

import numpy as np
from numpy.typing import NDArray

MIN_BITS, MAX_BITS = 2, 16


def gaps(present: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The number of zeros before each value that is not zero; `present` (n,) says where these stand."""
    return np.diff(np.flatnonzero(present), prepend=-1) - 1


def run_symbols(zeros: NDArray[np.int64], run_bits: int) -> NDArray[np.uint16]:
    """Gaps as symbols of `run_bits` bits."""
    longest = 2**run_bits - 2
    n_escapes = _n_escapes(zeros, longest)
    symbols = np.full(int(n_escapes.sum()) + len(zeros), longest + 1, np.uint16)
    symbols[np.cumsum(n_escapes + 1) - 1] = zeros - n_escapes * longest
    return symbols


def places(symbols: NDArray[np.integer], run_bits: int) -> NDArray[np.int64]:
    """The inverse of `run_symbols` and `gaps`: where the values stand."""
    escape = 2**run_bits - 1
    steps = symbols.astype(np.int64)
    is_value = steps != escape
    steps[is_value] += 1
    steps[~is_value] = escape - 1
    return np.cumsum(steps)[is_value] - 1


def symbol_counts(zeros: NDArray[np.int64], counts: NDArray[np.int64], run_bits: int) -> NDArray[np.int64]:
    """How often each symbol (2^run_bits,) stands where gaps of `zeros` stand `counts` times."""
    longest = 2**run_bits - 2
    n_escapes = _n_escapes(zeros, longest)
    found = np.zeros(longest + 2, np.int64)
    np.add.at(found, zeros - n_escapes * longest, counts)
    found[longest + 1] += int((n_escapes * counts).sum())
    return found


def _n_escapes(zeros: NDArray[np.int64], longest: int) -> NDArray[np.int64]:
    return np.maximum(zeros - 1, 0) // longest
