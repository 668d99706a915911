"""Images, training recipes, and what follows every letter."""

from typing import Any, Literal

from pydantic import Field

from nacdeploy.profile.table import Table


class DataTable(Table):
    n_train: int | None = Field(None, ge=2)
    n_validation: int | None = Field(None, ge=2)
    n_test: int | None = Field(None, ge=2)
    input_size: int | None = Field(None, ge=4)
    augment: Literal["none", "shift", "crop-flip"] = "none"
    split_seed: int = 0


class TrainTable(Table):
    """A training recipe: the baseline's, F's, or the exit heads'."""

    epochs: int = Field(30, ge=0)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = Field(0.1, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)
    batch_size: int = Field(128, ge=1)
    schedule: Literal["plateau", "cosine", "constant"] = "cosine"
    plateau_factor: float = Field(0.5, gt=0, lt=1)
    plateau_patience: int = Field(1, ge=0)
    early_stop_patience: int | None = Field(None, ge=0)


FINETUNE = TrainTable(epochs=10, learning_rate=0.001, batch_size=256, schedule="plateau", early_stop_patience=1)
EXIT_RECIPE = TrainTable(epochs=5, optimizer="adamw", learning_rate=5e-3, weight_decay=0.0, schedule="constant")


def over(default: TrainTable, given: Any) -> Any:
    """A recipe given in part keeps the rest of its own default, not of the baseline's."""
    return {**default.model_dump(), **given} if isinstance(given, dict) else given


class SettleTable(Table):
    n_images: int = Field(2048, ge=1)
    batch_size: int = Field(128, ge=1)
