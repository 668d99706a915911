"""Custom: the metric of a user's own task. Its facts travel as text in every file; its functions are the task's."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from nacdeploy.base.errors import UsageError
from nacdeploy.metrics.base import Interval
from nacdeploy.metrics.distillation import squared_error

SPELLED = re.compile(r"([a-z][a-z0-9_]{0,39}):(higher|lower):([^\x00-\x1f:]{0,20})")
TOLERANCE = 0.1


@dataclass(frozen=True)
class Functions:
    """The functions of a task's metric over joined answers `(N, K)` and the targets of `N` samples; `apart` takes
    answers apart, and `trains` says whether there is a loss."""

    score: Callable[[Tensor, Any], float]
    loss: Callable[[Tensor, Any], Tensor]
    values: Callable[[Tensor, Any], Tensor]
    apart: Callable[[Tensor], Any]
    n_outputs: int
    trains: bool = True
    version: int = 1


@dataclass(frozen=True)
class Custom:
    """A metric by its facts: `name` spells them as `NAME:higher:UNIT` or `NAME:lower:UNIT`.

    A metric that was read from a file has no functions: it prints and compares scores, and cannot score.
    """

    name: str
    functions: Functions | None = field(default=None, compare=False)
    bounds: tuple[float, float] = (-math.inf, math.inf)
    scale: float = 1.0
    n_digits: str = ".4g"
    answer: tuple[str, str] = ("answer", "answers")
    agreement: str = "answers within a tenth of their spread"
    no_exits: str = "an exit answers early by the confidence of a class; the metric of this task has none"

    @property
    def title(self) -> str:
        """The name without direction and unit."""
        return self.name.partition(":")[0]

    @property
    def column(self) -> str:
        return self.title

    @property
    def unit(self) -> str:
        return self.name.rpartition(":")[2]

    @property
    def drop_unit(self) -> str:
        return self.unit or self.title

    @property
    def higher_is_better(self) -> bool:
        return ":higher:" in self.name

    @property
    def version(self) -> int:
        return self.functions.version if self.functions else 1

    @property
    def trains(self) -> bool:
        """Whether networks can be trained by the task's own loss."""
        return self.functions is not None and self.functions.trains

    def labels(self, classes: Tensor, class_names: tuple[str, ...]) -> tuple[Tensor, tuple[str, ...]]:
        raise UsageError(f"metric '{self.title}' is that of a task of one's own: give --task")

    def loss(self, outputs: Tensor, labels: Any) -> Tensor:
        """Return the task's loss."""
        return self._own.loss(outputs, labels)

    def distilled(self, outputs: Tensor, answers: Tensor, temperature: float) -> Tensor:
        """Return the squared error of each output, in variances of the teacher's."""
        return squared_error(self._own.apart(outputs), self._own.apart(answers))

    def values(self, outputs: Tensor, labels: Any) -> Tensor:
        """Return each sample's loss, or its score where the task has no loss, in the direction of the score."""
        return self._own.values(outputs, labels)

    def score(self, outputs: Tensor, labels: Any) -> float:
        return self._own.score(outputs, labels)

    def chance(self, labels: Any) -> float:
        """Return the score of answers that are zero everywhere, or 0 where these have none."""
        try:
            found = self.score(torch.zeros(len(labels), self._own.n_outputs), labels)
        except UsageError:
            return 0.0
        return found if math.isfinite(found) else 0.0

    def is_near_chance(self, score: float, chance: float, n_images: int) -> bool:
        if self.higher_is_better:
            return not score > chance
        return chance > 0 and not score < chance  # an error of 0 is no chance: it is not known then

    def quality(self, score: float, chance: float) -> float:
        """Return the score itself, or of an error the share of chance's that is gone."""
        if self.higher_is_better:
            return score
        return 1 - score / chance if chance > 0 else -score

    def of_quality(self, quality: float, chance: float) -> float:
        if self.higher_is_better:
            return quality
        return (1 - quality) * chance if chance > 0 else -quality

    def point(self, chance: float) -> float:
        return 0.01 if self.higher_is_better or chance <= 0 else chance / 100

    def drop_interval(self, before: Tensor, now: Tensor, n_total: int, confidence: float) -> Interval:
        """Nothing is known from a part: a score of one's own need not be a mean over samples."""
        return Interval(0.0, -math.inf, math.inf)

    def agrees(self, reference: Tensor, outputs: Tensor, noise: float | None = None) -> Tensor:
        """Tell for each row whether its error is at most a tenth of how the row's values spread (root mean square).

        With `noise`, an error of up to three standard deviations of it agrees too.
        """
        error = (reference - outputs).double().square().mean(1).sqrt()
        spread = (reference - reference.mean(1, keepdim=True)).double().square().mean(1).sqrt()
        allowed = TOLERANCE * torch.where(spread > 0, spread, reference.double().abs().amax(1))
        return error <= (allowed if noise is None else allowed.clamp(min=3 * noise))

    def confidence(self, outputs: Tensor) -> Tensor:
        raise UsageError(self.no_exits)

    def with_functions(self, functions: Functions) -> "Custom":
        """Return the metric with its task's functions."""
        return replace(self, functions=functions)

    @property
    def _own(self) -> Functions:
        if self.functions is None:
            raise UsageError(
                f"metric '{self.title}' is a function of the user's task, which is not at hand: give --task"
            )
        return self.functions


def spelled(name: str, *, higher_is_better: bool, unit: str = "") -> str:
    """Return the text of a metric's facts.

    Raises:
        UsageError: the name is no identifier in small letters, or the unit cannot be told apart.
    """
    text = f"{name}:{'higher' if higher_is_better else 'lower'}:{unit}"
    if SPELLED.fullmatch(text) is None:
        raise UsageError(
            f"metric '{name}' in '{unit}': a name has small letters, digits and _ (40 at most), a unit no colon (20)"
        )
    return text
