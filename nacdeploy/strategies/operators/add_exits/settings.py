"""E: the number of exits, their places, the training of their heads, and the gate."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from nacdeploy.profile.tables.table import Table
from nacdeploy.profile.tables.training import TrainTable
from nacdeploy.strategies.operators.letter import Letter


class ExitRecipe(TrainTable):
    """The recipe of the exits' heads; a table given in part keeps these defaults."""

    epochs: int = Field(5, ge=0)
    optimizer: Literal["sgd", "adamw"] = "adamw"
    learning_rate: float = Field(5e-3, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    schedule: Literal["plateau", "cosine", "constant"] = "constant"

    @model_validator(mode="after")
    def _of_a_head(self) -> Self:
        for key in ("label_smoothing", "mixup", "cutmix", "layer_decay", "processes"):
            if getattr(self, key) != self.later[key]:
                raise ValueError(f"{key} is for whole networks: a head is a linear layer that reads their features")
        return self


class ExitTable(Table):
    n_exits: int = Field(2, ge=1)
    places: tuple[str, ...] = ()
    order: Literal["breadth-first", "deepest-first", "measured", "auto"] = "auto"
    grid: Annotated[int, Field(ge=1)] | Literal["auto"] = 4
    head: Literal["linear", "bag"] = "linear"
    threshold: float | None = Field(None, gt=0, le=1)
    max_drop: float = Field(0.5, ge=0)
    nac_rho: float = Field(0.136, ge=0)
    recipe: ExitRecipe = ExitRecipe()
    distill: float = Field(0.0, ge=0, le=1)
    distill_temperature: float = Field(4.0, gt=0, le=1000)

    @model_serializer(mode="wrap")
    def _written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Keys that older versions do not know are not written where they say what those did."""
        return {key: value for key, value in write(self).items() if _LATER.get(key, ...) != value}


_LATER = {"head": "linear", "distill": 0.0, "distill_temperature": 4.0}


LETTER = Letter("E", "exits", ExitTable, "nacdeploy.strategies.operators.add_exits.operator:AddExits")
