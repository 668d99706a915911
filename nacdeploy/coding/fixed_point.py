"""Fixed-point numbers: b bits of which i stand before the point, in steps of 2^(i - b + 1), two's complement.

The range is [-2^i, 2^i - step]: the code below -2^i does not exist (an older system wrote it, and read it with the
other sign).
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from nacdeploy.base.errors import NacdeployError
from nacdeploy.coding.distinct import Codes

_NUMBERS = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "I8": "i1", "U8": "u1", "I16": "<i2", "I32": "<i4", "I64": "<i8"}
MAX_BITS = 16


@dataclass(frozen=True)
class FixedPoint:
    """`bits` in all, `int_bits` of them before the point, the sign not counted."""

    bits: int
    int_bits: int

    @property
    def step(self) -> float:
        return float(2.0 ** (self.int_bits - self.bits + 1))

    @property
    def limits(self) -> tuple[int, int]:
        """The lowest and the highest code, in steps."""
        return -(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1

    @property
    def details(self) -> dict[str, int]:
        return {"bits": self.bits, "int_bits": self.int_bits}

    @classmethod
    def of(cls, details: dict[str, Any]) -> Self:
        return cls(details["bits"], details["int_bits"])

    @classmethod
    def fitting(cls, name: str, dtype: str, patterns: NDArray[np.unsignedinteger]) -> Self:
        """The fewest bits for the integers of a tensor.

        Raises:
            NacdeployError: it holds no integers, or some of more than 16 bits.
        """
        values = _numbers(name, dtype, patterns)
        if values.dtype.kind == "f":
            raise NacdeployError(f"'{name}' holds floats: fixed_point needs its bits and integer bits (--rules)")
        low, high = int(values.min(initial=0)), int(values.max(initial=0))
        bits = max(high.bit_length(), (-low - 1).bit_length() if low < 0 else 0) + 1
        if bits > MAX_BITS:
            raise NacdeployError(f"'{name}' holds integers of {bits} bits: fixed_point takes {MAX_BITS} at most")
        return cls(bits, bits - 1)

    def codes(self, name: str, dtype: str, patterns: NDArray[np.unsignedinteger]) -> Codes:
        """The codes of numbers that lie on the grid, as unsigned integers of `bits` bits.

        Raises:
            NacdeployError: some do not.
        """
        low, high = self.limits
        steps = _numbers(name, dtype, patterns) / self.step
        inside = np.isfinite(steps) & (steps >= low) & (steps <= high)
        codes = np.where(inside, steps, 0).astype(np.int64) & (2**self.bits - 1)
        back = np.frombuffer(self.patterns(codes, dtype), patterns.dtype)
        if not np.array_equal(back, patterns):
            n_off = int((back != patterns).sum())
            raise NacdeployError(
                f"'{name}' is not on the fixed-point grid of {self.bits} bits, {self.int_bits} of them integer: "
                f"{n_off} of {len(patterns)} values differ; share it by fixed_point first (C)"
            )
        return Codes(np.arange(2**self.bits, dtype=np.uint32), codes.astype(np.uint16))

    def patterns(self, codes: NDArray[np.integer], dtype: str) -> bytes:
        """The numbers of unsigned codes, as the bytes of their type."""
        signed = codes.astype(np.int64)
        signed[signed >= 2 ** (self.bits - 1)] -= 2**self.bits
        return (signed * self.step).astype(_NUMBERS[dtype]).tobytes()


def _numbers(name: str, dtype: str, patterns: NDArray[np.unsignedinteger]) -> NDArray[Any]:
    if dtype not in _NUMBERS:
        raise NacdeployError(f"'{name}' is of type {dtype}, and fixed_point is for numbers: {', '.join(_NUMBERS)}")
    values = patterns.view(_NUMBERS[dtype])
    return values.astype(np.float64) if values.dtype.kind == "f" else values
