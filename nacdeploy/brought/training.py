"""Training: what a training loop of the user's own is told (`Task(trainer=)`), and what is kept of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class TrainingSettings:
    """The recipe of a training, as far as a loop of one's own wants to follow it.

        >>> from nacdeploy import TrainingSettings
        >>> settings = TrainingSettings(learning_rate=0.01, batch_size=32)
        >>> settings.learning_rate, settings.teacher is None
        (0.01, True)

    Attributes:
        optimizer: "sgd" or "adamw".
        schedule: of the learning rate, "plateau", "cosine" or "constant".
        seed: of this training; torch, numpy and Python are seeded by it already.
        teacher: the network whose answers are to be learned where F distils, called as the model is; no gradient
            reaches it.
        distill: the weight of the teacher's part in the loss, from 0 to 1.
        temperature: of the teacher's answers.
        precision: "fp32", or "bf16" for mixed precision; `accumulate`: batches per step; `clip_norm`: of gradients;
            `ema`: decay of an average of the values; `warmup_steps`; `label_smoothing`; `mixup` and `cutmix`: alpha,
            0 for none; `layer_decay`: of the learning rate by block. They are off unless the profile's recipe has them.
    """

    optimizer: str = "sgd"
    learning_rate: float = 0.001
    momentum: float = 0.9
    weight_decay: float = 0.0
    batch_size: int = 128
    schedule: str = "constant"
    seed: int = 0
    teacher: nn.Module | None = None
    distill: float = 0.0
    temperature: float = 1.0
    precision: str = "fp32"
    accumulate: int = 1
    clip_norm: float | None = None
    ema: float = 0.0
    warmup_steps: int = 0
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    layer_decay: float = 1.0


@dataclass(frozen=True)
class Budget:
    """How much a training may take: epochs, the samples that the model may see in training mode, and minutes.

        >>> from nacdeploy import Budget
        >>> Budget(epochs=2, samples=600).epochs
        2

    `samples` is None where the training data have no known length: epochs cannot be counted there. `minutes` is None
    where the recipe has none.
    """

    epochs: int
    samples: int | None = None
    minutes: float | None = None


@dataclass(frozen=True, eq=False)
class Trainer:
    """The training loop of a task, the task whose test data are kept from it, and the samples of an epoch."""

    function: Callable[[nn.Module, TrainingSettings, Budget], Any]
    task: Any
    n_samples: int | None

    def budget(self, epochs: int, minutes: float | None = None) -> Budget:
        """Return the budget of a training of `epochs` within `minutes`."""
        return Budget(epochs, None if self.n_samples is None else epochs * self.n_samples, minutes)
