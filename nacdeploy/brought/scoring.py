"""Scoring: a user's metric, loss and post-processing as the functions of a `Custom` metric, checked at every call."""

import copy
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from nacdeploy.base.errors import UsageError
from nacdeploy.brought import identity as identities
from nacdeploy.brought.sealed import sealed
from nacdeploy.brought.sources import tried
from nacdeploy.brought.targets import Targets
from nacdeploy.brought.task import Measure, Task
from nacdeploy.metrics import ACCURACY, Custom, Metric
from nacdeploy.metrics.custom import Functions, spelled
from nacdeploy.models.ports import Ports

AT_ONCE = 64  # samples at once in a metric that is fed in parts


@dataclass(frozen=True)
class TrainedBy:
    """A metric of this package whose networks are trained by a user's loss."""

    metric: Metric
    own_loss: Callable[[Any, Any], Any]
    ports: Ports

    def loss(self, outputs: Tensor, labels: Any) -> Tensor:
        """Return the user's loss."""
        return _loss(self.own_loss, self.ports.restored(outputs), _batch(labels))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.metric, name)


def metric_of(task: Task, ports: Ports, targets: Any) -> Metric:
    """Return the metric of a task whose validation targets are known.

    Raises:
        UsageError: there is no metric, and the targets are no classes.
    """
    if task.metric is None:
        if not is_classes(targets, ports):
            raise UsageError(
                "Task(metric=) is missing: targets that are no classes (int64, one per sample, for outputs (N, K)) "
                "need a Measure, a torchmetrics metric or a function (predictions, targets) -> number" + _keys(targets)
            )
        return ACCURACY if task.loss is None else cast(Metric, TrainedBy(ACCURACY, task.loss, ports))
    measure = measure_of(task.metric)
    name = spelled(measure.name, higher_is_better=not measure.lower_is_better, unit=measure.unit)
    scoring = _Scoring(task, ports, measure)
    trains = task.loss is not None or task.trainer is not None or is_classes(targets, ports)
    own = Functions(scoring.score, scoring.loss, scoring.values, ports.apart, ports.n_outputs, trains)
    return Custom(name).with_functions(own)


def _keys(targets: Any) -> str:
    """Say which keys targets have: a batch may hold more than labels."""
    if not isinstance(targets, Mapping):
        return ""
    return (
        f"; these hold {', '.join(map(str, targets))}: if one is the classes, Task(unpack=) returns (inputs, classes)"
    )


def is_classes(targets: Any, ports: Ports) -> bool:
    """Tell whether targets `(N,)` name classes of the only output `(N, K)`, which may stand in a dictionary."""
    is_integer = isinstance(targets, Tensor) and targets.dim() == 1 and not targets.is_floating_point()
    return is_integer and len(ports.outputs) == 1 and len(ports.outputs[0].shape) == 1


def measure_of(given: Any) -> Measure:
    """Return a metric with its facts: a torchmetrics metric by its class, a function by its name.

    Raises:
        UsageError: it can be neither called nor fed.
    """
    if isinstance(given, Measure):
        return given
    if not callable(given):
        raise UsageError(
            f"Task(metric=) takes a Measure, a torchmetrics metric or a function, not {type(given).__name__}"
        )
    name = getattr(given, "__name__", type(given).__name__)
    plain = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", str(name)).lower()
    plain = re.sub(r"[^a-z0-9_]", "", plain).lstrip("_0123456789")[:40] or "score"
    return Measure(given, plain, lower_is_better=getattr(given, "higher_is_better", True) is False)


def identity(task: Task) -> str:
    """Return a hash of the code of a task's functions, as far as it can be read."""
    measure = task.metric.function if isinstance(task.metric, Measure) else task.metric
    return identities.of(task.loss, measure, task.postprocess, task.deployable, task.unpack, task.trainer)


@dataclass(frozen=True)
class _Scoring:
    task: Task
    ports: Ports
    measure: Measure

    def score(self, outputs: Tensor, targets: Targets) -> float:
        """Score joined answers `(N, K)` of a split.

        Raises:
            UsageError: the user's code fails, or gives no single finite number.
        """
        with torch.no_grad(), sealed(self.task):
            given = self._fed(outputs, targets) if _is_fed(self.measure.function) else self._called(outputs, targets)
        return _number(given, self.measure)

    def values(self, outputs: Tensor, targets: Targets) -> Tensor:
        """Rate each sample, float64 `(N,)`, by the loss, or by the metric where there is none."""
        sign = 1.0 if self.measure.lower_is_better or self.task.loss is None else -1.0
        rate = self.score if self.task.loss is None else lambda y, t: float(self.loss(y, t))
        with torch.no_grad():
            found = [rate(outputs[i : i + 1], targets[i : i + 1]) for i in range(len(outputs))]
        return sign * torch.tensor(found, dtype=torch.float64)

    def loss(self, outputs: Tensor, targets: Any) -> Tensor:
        """Return the user's loss of joined answers `(N, K)`.

        Raises:
            UsageError: there is none, it fails, or it is no scalar.
        """
        batch = _batch(targets)
        own = self.task.loss
        if own is None and is_classes(batch, self.ports):
            return functional.cross_entropy(outputs, batch)
        if own is None:
            raise UsageError("Task(loss=) is missing: F trains by it, and P's 'taylor' ranks by it")
        with sealed(self.task):
            return _loss(own, self.ports.restored(outputs), batch)

    def _fed(self, outputs: Tensor, targets: Targets) -> Any:
        metric = copy.deepcopy(self.measure.function)
        metric.reset()
        for start in range(0, len(outputs), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            tried(metric.update, self._what, self._predicted(outputs[part]), targets[part].batch())
        return tried(metric.compute, self._what)

    def _called(self, outputs: Tensor, targets: Targets) -> Any:
        return tried(self.measure.function, self._what, self._predicted(outputs), targets.batch())

    def _predicted(self, outputs: Tensor) -> Any:
        restored, after = self.ports.restored(outputs), self.task.postprocess
        return restored if after is None else tried(after, "Task(postprocess=)", restored)

    @property
    def _what(self) -> str:
        return f"metric '{self.measure.name}'"


def _is_fed(function: Any) -> bool:
    return all(callable(getattr(function, name, None)) for name in ("reset", "update", "compute"))


def _batch(targets: Any) -> Any:
    return targets.batch() if hasattr(targets, "batch") else targets


def _loss(own: Callable[[Any, Any], Any], outputs: Any, batch: Any) -> Tensor:
    found = tried(own, "Task(loss=)", outputs, batch)
    if not isinstance(found, Tensor) or found.numel() != 1:
        what = f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise UsageError(f"Task(loss=) returns {what}; needed: a scalar tensor, such as losses.mean() or a sum of them")
    return found.reshape(())


def _number(given: Any, measure: Measure) -> float:
    what = f"metric '{measure.name}'"
    if isinstance(given, dict):
        if measure.key not in given:
            keys = ", ".join(map(str, given))
            raise UsageError(
                f"{what} gives several numbers ({keys[:200]}); pick one: Measure(..., key='{next(iter(given))}')"
            )
        given = given[measure.key]
    if isinstance(given, Tensor) and given.numel() != 1:
        raise UsageError(f"{what} gives a tensor of shape {tuple(given.shape)}; needed: one number")
    try:
        number = float(given)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{what} gives {type(given).__name__}; needed: one number") from error
    if not math.isfinite(number):
        raise UsageError(f"{what} gives {number}; needed: a finite number for every split, also for a poor network")
    return number
