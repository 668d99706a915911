"""Images, training recipes, and what follows every letter."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from nacdeploy.profile.tables.table import Table

Normalization = float | tuple[float, ...] | Literal["imagenet", "data", "model"] | None
NORMALIZATIONS = ("imagenet", "data", "model")


class DataTable(Table):
    n_train: int | None = Field(None, ge=2)
    n_validation: int | None = Field(None, ge=2)
    n_test: int | None = Field(None, ge=2)
    input_size: int | None = Field(None, ge=4, le=2**15)
    resize: int | None = Field(None, ge=4, le=2**15)
    crop: int | None = Field(None, ge=4, le=2**15)
    interpolation: Literal["bilinear", "bicubic", "nearest"] = "bilinear"
    preprocess: str | None = Field(None, min_length=1)
    channel_order: Literal["rgb", "bgr"] = "rgb"
    value_range: Literal["0..1", "0..255"] = "0..1"
    in_memory_mib: int = Field(1024, ge=0)
    cache_mib: int = Field(8192, ge=0)
    broken: Literal["refuse", "skip"] = "refuse"
    augment: Literal["none", "shift", "crop-flip"] = "none"
    split_seed: int = 0
    mean: Normalization = None
    std: Normalization = None
    classes: str | None = Field(None, min_length=1)
    n_classes: int | None = Field(None, ge=2, le=10**7)

    def seen(self, scale: tuple[float, ...]) -> tuple[float, ...]:
        """Return values of red, green and blue in [0, 1] in the order and range in which the network takes pixels."""
        ordered = scale[::-1] if self.channel_order == "bgr" else scale
        return ordered if self.value_range == "0..1" else tuple(255 * value for value in ordered)

    @field_validator("mean", "std", mode="before")
    @classmethod
    def _numbers(cls, given: Any, info: ValidationInfo) -> Any:
        if given is None or given in NORMALIZATIONS:
            return given
        numbers = given if isinstance(given, list | tuple) else [given]
        is_number = all(isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x) for x in numbers)
        if not is_number or len(numbers) not in (1, 3) or (info.field_name == "std" and min(numbers) <= 0):
            above = " above 0" if info.field_name == "std" else ""
            raise ValueError(f"takes a number{above}, a list of three, or one of {', '.join(NORMALIZATIONS)}")
        return tuple(map(float, numbers)) if len(numbers) == 3 else float(numbers[0])

    @model_validator(mode="after")
    def _both(self) -> Self:
        if (self.mean is None) != (self.std is None):
            given, missing = ("mean", "std") if self.std is None else ("std", "mean")
            raise ValueError(f"{given} is given without {missing}; give both")
        if self.input_size is not None and (self.resize or self.crop):
            raise ValueError("input_size squashes an image to a square, resize and crop keep its shape; give one way")
        return self


class TrainTable(Table):
    """A training recipe: the baseline's; F and the exit heads have defaults of their own."""

    epochs: int = Field(30, ge=0, le=10**6)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = Field(0.1, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)
    batch_size: int = Field(128, ge=1, le=2**24)
    schedule: Literal["plateau", "cosine", "constant"] = "cosine"
    plateau_factor: float = Field(0.5, gt=0, lt=1)
    plateau_patience: int = Field(1, ge=0)
    early_stop_patience: int | None = Field(None, ge=0)
    minutes: float | None = Field(None, gt=0)
    precision: Literal["fp32", "bf16"] = "fp32"
    accumulate: int = Field(1, ge=1, le=2**16)
    clip_norm: float | None = Field(None, gt=0)
    ema: float = Field(0.0, ge=0, lt=1)
    warmup_steps: int = Field(0, ge=0, le=10**9)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    mixup: float = Field(0.0, ge=0, le=100)
    cutmix: float = Field(0.0, ge=0, le=100)
    layer_decay: float = Field(1.0, gt=0, le=1)
    processes: int = Field(1, ge=1, le=1024)

    later: ClassVar[Mapping[str, Any]] = {
        "minutes": None,
        "precision": "fp32",
        "accumulate": 1,
        "clip_norm": None,
        "ema": 0.0,
        "warmup_steps": 0,
        "label_smoothing": 0.0,
        "mixup": 0.0,
        "cutmix": 0.0,
        "layer_decay": 1.0,
        "processes": 1,
    }

    @model_serializer(mode="wrap")
    def _written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Keys that older versions did not have are written only if they say something: no record and no key of a run
        without them changes."""
        return {key: value for key, value in write(self).items() if self.later.get(key, ...) != value}


class SettleTable(Table):
    n_images: int = Field(2048, ge=1)
    batch_size: int = Field(128, ge=1)
