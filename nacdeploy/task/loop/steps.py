"""Steps of an optimizer: clipped gradients, a rate that warms up, and an average of the values that follows them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.optim.swa_utils import get_ema_multi_avg_fn

from nacdeploy.profile.tables.training import TrainTable

T = TypeVar("T")


@dataclass
class Steps:
    """The steps of a training: `n_taken` so far, and the exponential average of the floating values, if asked for."""

    optimizer: torch.optim.Optimizer
    recipe: TrainTable
    warm_up: lr_scheduler.LinearLR | None = None
    average: dict[str, Tensor] | None = None
    n_taken: int = 0

    @classmethod
    def of(cls, optimizer: torch.optim.Optimizer, recipe: TrainTable, module: nn.Module) -> "Steps":
        """Begin: to be called before a schedule changes the optimizer's rates."""
        n = recipe.warmup_steps
        warm_up = lr_scheduler.LinearLR(optimizer, 1 / (n + 1), total_iters=n) if n else None
        average = {name: value.clone() for name, value in _averaged(module).items()} if recipe.ema else None
        return cls(optimizer, recipe, warm_up, average)

    def take(self, module: nn.Module) -> None:
        """Step by the gradients that the parameters of the module have now."""
        if self.recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(module.parameters(), self.recipe.clip_norm)
        self.optimizer.step()
        self.n_taken += 1
        if self.warm_up is not None and self.n_taken <= self.recipe.warmup_steps:
            self.warm_up.step()
        if self.average is not None:
            now = _averaged(module)
            follow = get_ema_multi_avg_fn(self.recipe.ema)
            follow([*self.average.values()], [now[name] for name in self.average], self.n_taken)

    def state(self) -> dict[str, Any]:
        """Return all that decides the steps to come."""
        warm_up = None if self.warm_up is None else self.warm_up.state_dict()
        return {
            "optimizer": self.optimizer.state_dict(),
            "warm_up": warm_up,
            "average": self.average,
            "n": self.n_taken,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.n_taken = state["n"]
        if self.warm_up is not None:
            self.warm_up.load_state_dict(state["warm_up"])
        if self.average is not None:
            for name, value in self.average.items():
                value.copy_(state["average"][name])


def _averaged(module: nn.Module) -> dict[str, Tensor]:
    """Return what an average follows: parameters and the statistics of norms; masks and labels stay as they are."""
    return {name: value for name, value in module.state_dict().items() if value.is_floating_point()}


def grouped(batches: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield the batches of each step, `size` at once and in the end what is left."""
    passing = iter(batches)
    while group := [*islice(passing, size)]:
        yield group
