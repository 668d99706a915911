"""D: the formats of factors, and where their ranks come from."""

from typing import Annotated, Literal

from pydantic import Field

from nacdeploy.profile.tables.table import Table
from nacdeploy.strategies.operators.letter import Letter

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


LETTER = Letter("D", "decompose", DecomposeTable, "nacdeploy.strategies.operators.decompose.operator:Decompose")
