"""F: the recipe of a training."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

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
    distill_temperature: float = Field(2.0, gt=0, le=1000)

    later: ClassVar[Mapping[str, Any]] = {**TrainTable.later, "distill": 0.0}

    @model_serializer(mode="wrap")
    def _written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Write the temperature where there is a teacher: its default was 4 once."""
        said: dict[str, Any] = super()._written(write)
        if not self.distill and self.distill_temperature == type(self).model_fields["distill_temperature"].default:
            del said["distill_temperature"]
        return said


LETTER = Letter("F", "finetune", FinetuneTable, "nacdeploy.strategies.operators.finetune.operator:Finetune")
