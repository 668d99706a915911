"""P: how many channels go, which, and in which units."""

from typing import Annotated, Literal

from pydantic import Field

from nacdeploy.profile.tables.table import Table
from nacdeploy.strategies.operators.letter import Letter


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


LETTER = Letter("P", "prune", PruneTable, "nacdeploy.strategies.operators.prune.operator:Prune")
