"""Precision: the bit widths of a layer's weights and of its input activations."""

import re
from dataclasses import dataclass

from nacdeploy.base.errors import UsageError

_PATTERN = re.compile(r"w(\d+)a(\d+)")


@dataclass(frozen=True, order=True)
class Precision:
    """Weight and activation bits of one multiply; 32 means float."""

    weight_bits: int = 32
    activation_bits: int = 32

    @classmethod
    def parse(cls, text: str) -> "Precision":
        """Read `w8a8`.

        Raises:
            UsageError: the text has another form, or a width that no target here can hold.
        """
        precision = cls.recorded(text)
        if precision.weight_bits not in (*range(2, 9), 32) or precision.activation_bits not in (*range(4, 9), 32):
            raise UsageError(f"precision '{text}': weights take 2 to 8 or 32 bits, activations 4 to 8 or 32")
        return precision

    @classmethod
    def recorded(cls, text: str) -> "Precision":
        """Read the precision of a record, of any width, such as the `w1a8` of binary weights.

        Raises:
            UsageError: the text has another form.
        """
        match = _PATTERN.fullmatch(text.strip().lower())
        if match is None:
            raise UsageError(f"precision '{text}' is not of the form w8a8 (weight bits, activation bits)")
        return cls(int(match[1]), int(match[2]))

    @classmethod
    def rung(cls, text: str) -> "Precision":
        """Read a precision that a layer can be quantized to.

        Raises:
            UsageError: as `parse`, or weights or activations stay float, which no target here can multiply.
        """
        precision = cls.parse(text)
        if 32 in (precision.weight_bits, precision.activation_bits):
            raise UsageError(f"precision '{text}': a rung has integer weights and activations, such as w8a8")
        return precision

    def __str__(self) -> str:
        return f"w{self.weight_bits}a{self.activation_bits}"


FLOAT32 = Precision()


@dataclass(frozen=True)
class Grid:
    """The integers that a target's kernels take: a grid fixes the numbers, not only their encoding.

    Attributes:
        max_weight_bits: the width of weights; 7 leaves one bit unused, since pairs of 8-bit products saturate the
            16-bit sums of x86 kernels without VNNI.
        affine_inputs: the kinds of layer whose input activations are unsigned with a zero point.
        integer_biases: whether biases are int32 on the product of the scales (TensorRT wants float).
        fuses_outputs: whether a convolution's kernel includes the following addition and activation, and so need not
            write integers itself.
    """

    name: str
    max_weight_bits: int
    affine_inputs: tuple[str, ...]
    integer_biases: bool = False
    fuses_outputs: bool = False

    def weight_maximum(self, bits: int) -> int:
        """Return the largest weight integer: 127 for 8 bits, 63 for 7, 7 for 4."""
        return 2 ** (min(bits, self.max_weight_bits) - 1) - 1
