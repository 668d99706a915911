"""Q: the ladder of precisions, the layers, and the rule for ranges."""

from itertools import pairwise
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer

from nacdeploy.base.errors import UsageError, unknown
from nacdeploy.base.precision import Precision
from nacdeploy.exporters import targets
from nacdeploy.profile.tables.table import Table
from nacdeploy.strategies.operators.letter import Letter

_LATER = (("equalize", "auto"), ("max_drop", None), ("reconstruct", False))


class QuantizeTable(Table):
    ladder: tuple[str, ...] = ("w8a8", "w4a8")
    calibration: Literal["auto", "minmax", "percentile", "mse", "answers"] = "auto"
    percentile: float = Field(99.99, gt=50, le=100)
    n_calibration: int = Field(512, ge=1)
    grid: str = "measured"
    exclude: tuple[str, ...] = ()
    min_channels: int = Field(1, ge=1)
    layer_bits: dict[str, str] = Field({})
    min_snr_db: float | None = Field(None, ge=0, le=120)
    max_drop: float | None = Field(None, ge=0)
    equalize: Literal["auto", "on", "off"] = "auto"
    reconstruct: bool = False
    weights: Literal["symmetric", "balanced", "dorefa", "binary"] = "balanced"

    @model_serializer(mode="wrap")
    def _written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what older versions do not know, at its default."""
        return {key: value for key, value in write(self).items() if (key, value) not in _LATER}

    @field_validator("grid")
    @classmethod
    def _grid(cls, given: str) -> str:
        # Of a target that has one there is nothing to choose.
        choices = (grid.name for t in targets.every() if len(t.grids) > 1 for grid in t.grids)
        known = ["measured"]
        while given not in known:  # one by one: looking for other packages' targets takes milliseconds
            name = next(choices, None)
            if name is None:
                raise ValueError(str(unknown("grid", given, known)))
            known.append(name)
        return given

    @field_validator("layer_bits")
    @classmethod
    def _rungs(cls, layer_bits: dict[str, str]) -> dict[str, str]:
        try:
            return {layer: str(Precision.rung(text)) for layer, text in layer_bits.items()}
        except UsageError as error:
            raise ValueError(str(error)) from error

    @field_validator("ladder")
    @classmethod
    def _descending(cls, ladder: tuple[str, ...]) -> tuple[str, ...]:
        try:
            rungs = [Precision.rung(text) for text in ladder]
        except UsageError as error:
            raise ValueError(str(error)) from error
        if not rungs or any(a <= b for a, b in pairwise(rungs)):
            raise ValueError("the ladder must fall from rung to rung, such as ['w8a8', 'w4a8']")
        return tuple(map(str, rungs))


LETTER = Letter("Q", "quantize", QuantizeTable, "nacdeploy.strategies.operators.quantize.operator:Quantize")
