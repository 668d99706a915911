"""P: the number of channels to cut or the time to leave, the choice of channels, and their units."""

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from nacdeploy.profile.tables.table import Table
from nacdeploy.strategies.operators.letter import Letter

# Keys that older versions do not know: at these values they say what those did, and are not written.
_LATER = {"time": None, "target_ms": None, "latency_table": None, "runs_as": "now", "depth": False}


class PruneTable(Table):
    """`runs_as` is the precision in which times are asked for: that of the network now, or "int8" for a Q to come;
    `depth` lets a P that leaves a time drop residual branches too."""

    ratio: float = Field(0.025, gt=0, lt=1)
    multiple: Annotated[int, Field(ge=1)] | Literal["target"] = "target"
    scope: Literal["global", "uniform"] = "global"
    ratios: dict[str, Annotated[float, Field(ge=0, lt=1)]] = Field({})
    importance: Literal[
        "magnitude",
        "l1",
        "l2",
        "fpgm",
        "slim",
        "random",
        "apoz",
        "mean-activation",
        "taylor",
        "greedy",
        "lasso",
        "fisher",
        "answers",
    ] = "magnitude"
    reconstruct: bool = False
    n_calibration: int = Field(256, ge=2)
    time: float | None = Field(None, gt=0, lt=1)
    target_ms: float | None = Field(None, gt=0, le=1e9)
    latency_table: str | None = None
    runs_as: Literal["now", "int8"] = "now"
    depth: bool = False

    @property
    def is_by_time(self) -> bool:
        """Whether a P leaves a time, in place of removing a share."""
        return self.time is not None or self.target_ms is not None

    @property
    def may_drop(self) -> bool:
        """Whether a P that leaves a time may drop residual branches; `uniform` keeps a share of each layer."""
        return self.depth and self.scope == "global"

    @model_validator(mode="after")
    def _one_measure(self) -> "PruneTable":
        if self.time is not None and self.target_ms is not None:
            raise ValueError("prune.time leaves a share of the time, prune.target_ms a time: give one of them")
        return self

    @model_serializer(mode="wrap")
    def _written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in write(self).items() if key not in _LATER or value != _LATER[key]}


LETTER = Letter("P", "prune", PruneTable, "nacdeploy.strategies.operators.prune.operator:Prune")
