"""The settings of the operators, letter by letter."""

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, field_validator
from pydantic_core import PydanticCustomError

from nacdeploy.errors import UsageError, unknown
from nacdeploy.exporters import targets
from nacdeploy.precision import Precision
from nacdeploy.profile.table import Table
from nacdeploy.profile.training import EXIT_RECIPE, TrainTable, over


class PruneTable(Table):
    ratio: float = Field(0.025, gt=0, lt=1)
    multiple: Annotated[int, Field(ge=1)] | Literal["target"] = "target"
    scope: Literal["global", "uniform"] = "global"
    ratios: dict[str, Annotated[float, Field(ge=0, lt=1)]] = Field({})
    importance: Literal[
        "magnitude", "l1", "l2", "fpgm", "slim", "random", "apoz", "mean-activation", "taylor", "greedy", "lasso"
    ] = "magnitude"
    reconstruct: bool = False
    n_calibration: int = Field(256, ge=2)


class QuantizeTable(Table):
    ladder: tuple[str, ...] = ("w8a8", "w4a8")
    calibration: Literal["minmax", "percentile", "mse"] = "percentile"
    percentile: float = Field(99.99, gt=50, le=100)
    n_calibration: int = Field(512, ge=1)
    grid: str = "measured"
    exclude: tuple[str, ...] = ()
    min_channels: int = Field(1, ge=1)
    layer_bits: dict[str, str] = Field({})
    weights: Literal["symmetric", "dorefa", "binary"] = "symmetric"

    @field_validator("grid")
    @classmethod
    def _grid(cls, given: str) -> str:
        # Of a target that has one there is nothing to choose.
        known = ["measured", *(grid.name for t in targets.every() if len(t.grids) > 1 for grid in t.grids)]
        if given not in known:
            raise ValueError(str(unknown("grid", given, known)))
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


def _below_one(given: float | tuple[float, ...]) -> float | tuple[float, ...]:
    for share in given if isinstance(given, tuple) else (given,):
        if share < 0:
            raise PydanticCustomError("share", "Input should be greater than or equal to 0")
        if share >= 1:
            raise PydanticCustomError("share", "Input should be less than 1")
    if given == ():
        raise PydanticCustomError("share", "A list of shares should hold at least one")
    return given


# A fraction from 0 to below 1, or one for each time that a letter comes.
Stages = Annotated[float | tuple[float, ...], Field(union_mode="left_to_right"), AfterValidator(_below_one)]


class SparsifyTable(Table):
    pattern: Literal["2:4", "element", "kernel", "filter"] = "2:4"
    ratio: Stages = 0.5
    ratios: dict[str, Stages] = Field({})
    patterns: dict[str, Literal["element", "kernel", "filter"]] = Field({})
    importance: Literal["l1", "l2"] = "l1"
    rounding: Literal["floor", "ceil"] = "floor"
    permute: bool = True
    exclude: tuple[str, ...] = ()
    min_channels: int = Field(1, ge=1)


Method = Literal["kmeans", "linear", "fixed_point"]
Init = Literal["kmeans++", "linear", "random", "density"]


@dataclass(frozen=True)
class SharedAs:
    """How the weights of one layer are shared."""

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
        """How a layer is shared: by its own entry of `layers`, such as `kmeans:5`, `kmeans:5:linear`, `linear:4` or
        `fixed_point:8:1` (integer bits), else as the others."""
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
            if not shape.fullmatch(text) or not 1 <= int(text.split(":")[1]) <= 16:
                raise ValueError(
                    f"'{text}' of {layer} is none of kmeans:BITS, kmeans:BITS:INIT, linear:BITS, fixed_point:BITS, "
                    "fixed_point:BITS:INTEGER_BITS with 1 to 16 bits"
                )
        return layers


Rank = Annotated[int, Field(ge=1)]


class DecomposeTable(Table):
    method: Literal["auto", "svd", "tucker2", "cp3", "cp4"] = "auto"
    rank: Literal["evbmf", "rate", "ratio"] = "evbmf"
    weaken: float = Field(0.8, ge=0, le=1)
    rate: float = Field(2.0, gt=1)
    ratio: float = Field(0.5, gt=0, lt=1)
    min_rank: Rank | None = None
    multiple: Annotated[int, Field(ge=1)] | Literal["target"] = "target"
    ranks: dict[str, Annotated[tuple[Rank, ...] | tuple[tuple[Rank, ...], ...], Field(min_length=1)]] = Field({})
    exclude: tuple[str, ...] = ()
    layers_per_step: int = Field(0, ge=0)
    config: str = ""


class ExitTable(Table):
    n_exits: int = Field(2, ge=1)
    places: tuple[str, ...] = ()
    order: Literal["breadth-first", "deepest-first", "auto"] = "auto"
    grid: int = Field(4, ge=1)
    threshold: float | None = Field(None, gt=0, le=1)
    max_drop: float = Field(0.5, ge=0)
    nac_rho: float = Field(0.136, ge=0)
    recipe: TrainTable = EXIT_RECIPE

    @field_validator("recipe", mode="before")
    @classmethod
    def _recipe(cls, given: Any) -> Any:
        return over(EXIT_RECIPE, given)
