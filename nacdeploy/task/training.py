"""The only training loop: minimise the metric's loss, keep a real copy of the best epoch by validation."""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from nacdeploy.base.errors import DivergedError, NacdeployError
from nacdeploy.base.latency import Stopwatch
from nacdeploy.base.progress import nobody
from nacdeploy.data import Dataset, ImageSet, augmented
from nacdeploy.metrics import Metric, is_better
from nacdeploy.network.network import lay_out
from nacdeploy.profile.tables.training import TrainTable
from nacdeploy.task import evaluate as evaluation
from nacdeploy.task.loop import optimizers
from nacdeploy.task.loop.optimizers import Schedule
from nacdeploy.task.loop.steps import Steps, grouped
from nacdeploy.task.loop.together import Alone, Together
from nacdeploy.task.loop.unfinished import Unfinished

_NARROW, _LARGE = 16, 44  # channels, pixels: see `_is_narrow`
VERSION = 1  # part of the keys of a search's memory: raise it when trainings come out differently

Batches = Callable[[int], Iterable[tuple[Tensor, Any]]]
Loss = Callable[[Any, Any], Tensor]
Report = Callable[[int, int, float], None]
Penalty = Callable[[nn.Module], Tensor]


@dataclass(frozen=True)
class Fit:
    """The outcome of a training: epochs run, the best epoch (0 is the start) and its score on validation."""

    n_epochs: int
    best_epoch: int
    score: float


def seed_of(run_seed: int, state_key: str, purpose: str) -> int:
    """Return a seed for one purpose in one state: nothing draws from a global stream."""
    return int.from_bytes(hashlib.sha256(f"{run_seed}/{state_key}/{purpose}".encode()).digest()[:6])


def fit(
    module: nn.Module,
    batches: Batches,
    score: Callable[[], float],
    metric: Metric,
    recipe: TrainTable,
    seed: int,
    report: Report = nobody,
    penalty: Penalty | None = None,
    loss: Loss | None = None,
    unfinished: Unfinished | None = None,
    together: Together | None = None,
) -> Fit:
    """Train `module` (inputs to outputs (N, K)) in place and leave it at its best epoch by `score`, the start included.

    A `penalty` of the module is added to the loss. The loss of outputs and targets (a tensor or a tree of tensors, as
    the batches yield them) is `loss`, or the metric's. What is `unfinished` goes on, and is kept from epoch to epoch.
    The processes of a training (`together`) all call this alike.

    Raises:
        DivergedError: the loss is not a number; the module is back at its best epoch.
    """
    lesson = _Lesson(module, batches, score, metric, recipe, report, penalty, loss or metric.loss, together or Alone())
    with torch.random.fork_rng(devices=[]), evaluation.accelerated(module):
        return _fit(lesson, seed, unfinished or Unfinished())


@dataclass(frozen=True)
class _Lesson:
    """The arguments of `fit`: the module that is trained, and how."""

    module: nn.Module
    batches: Batches
    score: Callable[[], float]
    metric: Metric
    recipe: TrainTable
    report: Report
    penalty: Penalty | None
    loss: Loss
    together: Together


@dataclass
class _Course:
    """A training under way: steps, schedule, the epochs run, and the best of them with its values; the seconds that it
    took before an interruption, and a watch for those since."""

    steps: Steps
    schedule: Schedule
    best: Fit
    kept: dict[str, Tensor]
    together: Together
    epoch: int = 0
    is_over: bool = False
    seconds: float = 0.0
    watch: Stopwatch = field(default_factory=Stopwatch)

    def is_late(self, recipe: TrainTable) -> bool:
        """Tell whether the minutes of the recipe are over, by the clock of the first process."""
        if recipe.minutes is None:
            return False
        return self.together.agreed(self.seconds + self.watch.seconds()) >= 60 * recipe.minutes

    def state(self, module: nn.Module) -> dict[str, Any]:
        """Return all that decides the rest of the training; the values of the best epoch only if they are others."""
        seconds = self.seconds + self.watch.seconds()
        facts = {"epoch": self.epoch, "is_over": self.is_over, "best": vars(self.best), "seconds": seconds}
        if self.is_over:
            return {**facts, "kept": self.kept}
        course = {"steps": self.steps.state(), "schedule": self.schedule.state()}
        is_newest = self.epoch == self.best.best_epoch and self.steps.average is None
        return {**facts, **course, "values": module.state_dict(), "kept": None if is_newest else self.kept}

    def restore(self, state: dict[str, Any], module: nn.Module) -> None:
        """Set a course that has begun to a state, and the values of the module with it."""
        module.load_state_dict(state["kept"] if state["is_over"] else state["values"])
        self.kept = _copy(module) if state["kept"] is None else state["kept"]
        if not state["is_over"]:
            self.steps.restore(state["steps"])
            self.schedule.restore(state["schedule"])
        self.best, self.epoch, self.is_over = Fit(**state["best"]), state["epoch"], state["is_over"]
        self.seconds = state["seconds"]

    def after(self, now: float, module: nn.Module, metric: Metric, recipe: TrainTable) -> None:
        """Count an epoch that ended with a score of the module's values."""
        self.epoch += 1
        if is_better(metric, now, self.best.score):
            self.best, self.kept = Fit(self.epoch, self.epoch, now), _copy(module)
        self.schedule.step(now)
        patience = recipe.early_stop_patience
        is_stopped = patience is not None and self.epoch - self.best.best_epoch > patience
        is_late = self.is_late(recipe)
        self.is_over = is_stopped or self.epoch >= recipe.epochs or is_late


def _fit(lesson: _Lesson, seed: int, unfinished: Unfinished) -> Fit:
    module, recipe = lesson.module, lesson.recipe
    lay_out(module, torch.channels_last)  # a fifth faster on a CPU
    course = _resumed(lesson, unfinished)
    if course is None:
        torch.manual_seed(seed + lesson.together.rank)
        course = _begun(lesson, Fit(0, 0, lesson.score()))
    while not course.is_over and course.epoch < recipe.epochs:
        _tried(lesson, course, unfinished)
        with _averaged(module, course.steps.average):
            now = lesson.together.agreed(lesson.score())
            lesson.report(course.epoch + 1, recipe.epochs, now)
            course.after(now, module, lesson.metric, recipe)
        unfinished.keep(course.state(module))
    module.load_state_dict(course.kept)
    lay_out(module, torch.contiguous_format)
    return Fit(course.epoch, course.best.best_epoch, course.best.score)


def _begun(lesson: _Lesson, start: Fit) -> _Course:
    optimizer = optimizers.optimizer(lesson.module, lesson.recipe)
    steps = Steps.of(optimizer, lesson.recipe, lesson.module)
    schedule = optimizers.schedule(optimizer, lesson.recipe, lesson.metric.higher_is_better)
    return _Course(steps, schedule, start, _copy(lesson.module), lesson.together)


@contextmanager
def _averaged(module: nn.Module, average: dict[str, Tensor] | None) -> Iterator[None]:
    """Give a module the averaged values within the block, if there are any."""
    if average is None:
        yield
        return
    own = _copy(module)
    module.load_state_dict({**own, **average})
    yield
    module.load_state_dict(own)


def _resumed(lesson: _Lesson, unfinished: Unfinished) -> _Course | None:
    """Return the course of a training that was interrupted, or None where there is none; its seeds are set with it."""
    state, module = unfinished.state(), lesson.module
    if state is None:
        return None
    course = _begun(lesson, Fit(0, 0, 0.0))
    start = course.kept
    try:
        course.restore(state, module)
    except (RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
        module.load_state_dict(start)
        unfinished.useless(f"it does not fit: {type(error).__name__}")
        return None
    unfinished.say(
        f"a training that was interrupted goes on behind epoch {course.epoch} of {lesson.recipe.epochs}"
        if not course.is_over
        else f"a training that had come to its end before an interruption ({course.epoch} epochs) is taken over"
    )
    return course


def _tried(lesson: _Lesson, course: _Course, unfinished: Unfinished) -> None:
    """Train one epoch; after a failure the module is at its best epoch."""
    module, epoch = lesson.module, course.epoch + 1
    try:
        _epoch(lesson, course, lesson.batches(epoch))
    except (DivergedError, RuntimeError, ValueError, OverflowError) as error:
        module.load_state_dict(course.kept)
        module.eval()
        if isinstance(error, DivergedError):
            unfinished.drop()
            raise
        raise NacdeployError(f"training fails in epoch {epoch}: {error}; see the recipe in the profile") from error


def image_batches(data: Dataset, images: ImageSet, batch_size: int, seed: int, targets: Any = None) -> Batches:
    """Return a function from an epoch to shuffled, augmented, normalised batches, which follow from the seed and the
    epoch.

    `targets`, a tree of tensors (N, ...), stand in place of the labels.
    """
    own = data.epochs
    if own is not None:
        return lambda epoch: own(batch_size, seed, epoch)
    wanted = images.labels if targets is None else targets

    def epoch_batches(epoch: int) -> Iterator[tuple[Tensor, Any]]:
        generator = torch.Generator().manual_seed(seed + epoch)
        order = torch.randperm(len(images), generator=generator)
        for index in _whole_batches(order, batch_size):
            pictures = augmented(images.batch(index), data.augment, generator)
            yield data.normalize(pictures), _at(wanted, index)

    return epoch_batches


def tensor_batches(inputs: Tensor, targets: Any, batch_size: int, seed: int) -> Batches:
    """Return a function from an epoch to shuffled batches of tensors (N, ...) in memory, such as the features that an
    exit head reads, and of their targets, a tensor or a tree of tensors (N, ...)."""

    def epoch_batches(epoch: int) -> Iterator[tuple[Tensor, Any]]:
        order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed + epoch))
        for index in _whole_batches(order, batch_size):
            yield inputs[index], _at(targets, index)

    return epoch_batches


def _at(targets: Any, index: Tensor) -> Any:
    return tree_map_only(Tensor, lambda values: values[index], targets)


def _whole_batches(order: Tensor, batch_size: int) -> list[Tensor]:
    """Split into batches of `batch_size`; a last batch of one image joins its neighbour, since batch norm needs two."""
    parts = list(order.split(batch_size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def _epoch(lesson: _Lesson, course: _Course, batches: Iterable[tuple[Tensor, Any]]) -> None:
    """Train until the batches or the minutes are over, with at least one step."""
    module, recipe, together = lesson.module, lesson.recipe, lesson.together
    module.train()
    is_narrow = any(map(_is_narrow, module.modules()))
    for group in grouped(batches, recipe.accumulate * together.size):
        n_samples, total = sum(len(inputs) for inputs, _ in group), 0.0
        course.steps.optimizer.zero_grad(set_to_none=True)
        for inputs, targets in together.share(group):
            loss = _loss(lesson, inputs, targets, is_narrow)
            loss = loss if len(group) == 1 else loss * (len(inputs) / n_samples)
            total += loss.item()
            if together.size == 1:
                _check_finite(total)
            loss.backward()
        _check_finite(together.joined(module, total))
        course.steps.take(module)
        if course.is_late(recipe):
            break
    together.averaged(module)
    module.eval()


def _check_finite(loss: float) -> None:
    if not math.isfinite(loss):
        raise DivergedError("the loss is not a number; a lower learning_rate in the profile's recipe would work")


def _loss(lesson: _Lesson, inputs: Tensor, targets: Any, is_narrow: bool) -> Tensor:
    """Return the loss of a batch, in float32 whatever the network ran in."""
    module = lesson.module
    device = next(module.parameters()).device
    layout = torch.channels_last if inputs.dim() == 4 else torch.contiguous_format
    if is_narrow and inputs.dim() == 4 and max(inputs.shape[2:]) >= _LARGE:
        layout = torch.contiguous_format
        lay_out(module, layout)
    is_mixed = lesson.recipe.precision == "bf16"
    with torch.autocast(device.type, torch.bfloat16, enabled=is_mixed):
        outputs = module(inputs.to(device).contiguous(memory_format=layout))
    if is_mixed:
        outputs = tree_map_only(Tensor, lambda value: value.float() if value.is_floating_point() else value, outputs)
    loss = lesson.loss(outputs, tree_map_only(Tensor, lambda values: values.to(device), targets))
    return loss if lesson.penalty is None else loss + lesson.penalty(module)


def _is_narrow(layer: nn.Module) -> bool:
    """Tell whether torch would write beyond its memory in a layer's backward run, in the layout of channels last.

    Its 1x1 convolutions with a stride do so on a CPU (torch 2.14 with oneDNN 3.12 and AVX512) for up to ten input
    channels and images from 48 px on, and take the process with them. The bounds here leave some room.
    """
    if not isinstance(layer, nn.Conv2d):
        return False
    return max(layer.kernel_size) == 1 and max(layer.stride) > 1 and layer.in_channels < _NARROW


def _copy(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
