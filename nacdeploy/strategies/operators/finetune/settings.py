"""F: the recipe of a training."""

from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from nacdeploy.profile.tables.training import TrainTable
from nacdeploy.strategies.operators.letter import Letter


class FinetuneTable(TrainTable):
    """The recipe of F; a table given in part keeps these defaults."""

    epochs: int = Field(10, ge=0)
    learning_rate: float = Field(0.001, gt=0)
    batch_size: int = Field(256, ge=1)
    schedule: Literal["plateau", "cosine", "constant"] = "plateau"
    early_stop_patience: int | None = Field(1, ge=0)
    distill: float = Field(0.0, ge=0, le=1)
    distill_temperature: float = Field(4.0, gt=0, le=1000)

    @model_serializer(mode="wrap")
    def _written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Keys that older versions did not have are written only if they say something: no record and no key of a run
        without them changes."""
        return {key: value for key, value in write(self).items() if _LATER.get(key, ...) != value}


_LATER = {"distill": 0.0, "distill_temperature": 4.0}


LETTER = Letter("F", "finetune", FinetuneTable, "nacdeploy.strategies.operators.finetune.operator:Finetune")
