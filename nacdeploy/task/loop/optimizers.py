"""Optimizers and schedules of a recipe."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import lr_scheduler

from nacdeploy.base.errors import UsageError
from nacdeploy.profile.tables.training import TrainTable


def optimizer(module: nn.Module, recipe: TrainTable) -> torch.optim.Optimizer:
    """Make the optimizer; weight decay spares biases, norms and other vectors.

    Raises:
        UsageError: nothing can be trained.
    """
    matrices = [p for p in module.parameters() if p.requires_grad and p.dim() > 1]
    vectors = [p for p in module.parameters() if p.requires_grad and p.dim() <= 1]
    if not matrices and not vectors:
        raise UsageError("the network has no trainable parameter")
    groups = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum)
    return torch.optim.AdamW(groups, lr=recipe.learning_rate)


@dataclass(frozen=True)
class Schedule:
    """The learning rate from epoch to epoch: a step takes the score on validation. `state` and `restore` keep it."""

    step: Callable[[float], None]
    state: Callable[[], dict[str, Any]]
    restore: Callable[[dict[str, Any]], None]


def schedule(made: torch.optim.Optimizer, recipe: TrainTable, higher_is_better: bool) -> Schedule:
    """Make the schedule of an optimizer's learning rate."""
    if recipe.schedule == "plateau":
        mode: Literal["max", "min"] = "max" if higher_is_better else "min"
        plateau = lr_scheduler.ReduceLROnPlateau(
            made, mode=mode, factor=recipe.plateau_factor, patience=recipe.plateau_patience
        )
        return Schedule(plateau.step, plateau.state_dict, plateau.load_state_dict)
    if recipe.schedule == "cosine":
        cosine = lr_scheduler.CosineAnnealingLR(made, max(recipe.epochs, 1))
        return Schedule(lambda score: cosine.step(), cosine.state_dict, cosine.load_state_dict)
    return Schedule(lambda score: None, dict, lambda state: None)
