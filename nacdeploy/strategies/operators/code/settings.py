"""C: the sharing of values, and the form of their codes."""

import re
from dataclasses import dataclass
from typing import Literal, get_args

from pydantic import Field, field_validator

from nacdeploy.profile.tables.table import Table
from nacdeploy.strategies.operators.letter import Letter

Method = Literal["kmeans", "linear", "fixed_point"]
Init = Literal["kmeans++", "linear", "random", "density"]


@dataclass(frozen=True)
class SharedAs:
    """The sharing of one layer's weights."""

    method: str
    bits: int
    int_bits: int | None
    init: str


class CodeTable(Table):
    method: Method = "kmeans"
    bits: int = Field(4, ge=1, le=16)
    int_bits: int | None = Field(None, ge=-32, le=32)
    init: Init = "kmeans++"
    fix_zeros: bool = True
    codes: Literal["smallest", "huffman", "plain", "fixed_point"] = "smallest"
    run_bits: int | None = Field(None, ge=0, le=16)
    exclude: tuple[str, ...] = ()
    layers: dict[str, str] = Field({})

    def shared_as(self, layer: str) -> SharedAs:
        """Return the sharing of a layer.

        The layer's own entry of `layers` decides, such as `kmeans:5`, `kmeans:5:linear`, `linear:4` or
        `fixed_point:8:1` (integer bits); without one, the settings of all other layers.
        """
        if layer not in self.layers:
            return SharedAs(self.method, self.bits, self.int_bits, self.init)
        method, bits, *more = self.layers[layer].split(":")
        int_bits = int(more[0]) if more and method == "fixed_point" else None
        init = more[0] if more and method == "kmeans" else self.init
        return SharedAs(method, int(bits), int_bits, init)

    @field_validator("layers")
    @classmethod
    def _entries(cls, layers: dict[str, str]) -> dict[str, str]:
        inits = "|".join(map(re.escape, get_args(Init)))
        shape = re.compile(rf"kmeans:\d+(:({inits}))?|linear:\d+|fixed_point:\d+(:-?\d+)?")
        for layer, text in layers.items():
            numbers = [int(part) for part in text.split(":")[1:] if part.lstrip("-").isdigit()]
            if not shape.fullmatch(text) or not 1 <= numbers[0] <= 16 or not all(-32 <= n <= 32 for n in numbers):
                raise ValueError(
                    f"'{text}' of {layer} is none of kmeans:BITS, kmeans:BITS:INIT, linear:BITS, fixed_point:BITS, "
                    "fixed_point:BITS:INTEGER_BITS with 1 to 16 bits, -32 to 32 of them before the point"
                )
        return layers


LETTER = Letter("C", "code", CodeTable, "nacdeploy.strategies.operators.code.operator:Code")
