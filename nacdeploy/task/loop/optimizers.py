"""Optimizers and schedules of a recipe."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import lr_scheduler

from nacdeploy.base.errors import UsageError
from nacdeploy.profile.tables.training import TrainTable

_BLOCK = re.compile(r"(?:backbone\.)?((?:.*?\.)?\d+|[^.]+)(?:\.|$)")


def optimizer(module: nn.Module, recipe: TrainTable) -> torch.optim.Optimizer:
    """Make the optimizer; weight decay spares biases, norms and other vectors.

    Raises:
        UsageError: nothing can be trained.
    """
    groups = [*_groups(module, recipe)] if recipe.layer_decay < 1 else _both(module.parameters(), recipe)
    if not any(group["params"] for group in groups):
        raise UsageError("the network has no trainable parameter")
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum)
    return torch.optim.AdamW(groups, lr=recipe.learning_rate)


def _both(parameters: Any, recipe: TrainTable) -> list[dict[str, Any]]:
    trained = [p for p in parameters if p.requires_grad]
    return [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]


def _groups(module: nn.Module, recipe: TrainTable) -> Iterator[dict[str, Any]]:
    """Yield groups of parameters whose rate falls by `layer_decay` with each block before the last one (Clark et al.,
    2020, section 4.1 of ELECTRA).

    A block is what lies below the first number of a name (`blocks.3`, `layer1.0`), or below its first part (`head`), in
    the order of the module.
    """
    blocks: dict[str, list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        found = _BLOCK.match(name)
        blocks.setdefault(found[1] if found else name, []).append(parameter)
    for depth, parameters in enumerate(reversed(blocks.values())):
        rate = recipe.learning_rate * recipe.layer_decay**depth
        yield from ({**group, "lr": rate} for group in _both(parameters, recipe) if group["params"])


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
