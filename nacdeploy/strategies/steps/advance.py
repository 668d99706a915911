"""advance(): one letter applied to one state. Everything that follows chains goes through here.

refuse? -> decide -> perform on a copy -> refit -> settle -> guard -> recover -> settle -> measure
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from nacdeploy.base import heap, records
from nacdeploy.base.errors import NacdeployError, RefusedError, UnexpectedError
from nacdeploy.base.progress import nobody
from nacdeploy.metrics import DEFAULT, is_better
from nacdeploy.network.network import Network, content
from nacdeploy.profile import Profile
from nacdeploy.profile.tables.training import TrainTable
from nacdeploy.strategies.chain import Link
from nacdeploy.strategies.operators.base import Calibrates, Operator, Recovery, Refits, Undoes, kept_by
from nacdeploy.strategies.settle import (
    SETTLE_VERSION,
    SETTLED_BY,
    calibrate_gates,
    choose_statistics,
    settle,
)
from nacdeploy.strategies.state import MEASURE_VERSION, CompressionState, Metrics, Step, measure, plain_key, state_key
from nacdeploy.strategies.steps import guard, letters
from nacdeploy.strategies.steps.training import Lesson, train_heads, trained_backbone
from nacdeploy.task import Task, training
from nacdeploy.task.loop.unfinished import Unfinished

# What results depend on besides settings and the operators' own versions.
VERSIONS = {"train": training.VERSION, "settle": SETTLE_VERSION, "measure": MEASURE_VERSION}


@dataclass(frozen=True)
class Trained:
    """The values of a backbone and its quantizers after a training, and the epochs it took.

    `start` holds the values before a training that ran just now: a memory may keep the difference.
    """

    values: dict[str, Tensor]
    n_epochs: int
    start: dict[str, Tensor] = field(default_factory=dict)


class Memory(Protocol):
    """The results of earlier trainings and measurements, by the content that each started from.

    `training` and `metrics` call `make` only if the key is new.

        >>> memory: Memory = NoMemory()
        >>> memory.training("key", lambda: Trained({}, n_epochs=3)).n_epochs
        3
    """

    def training(self, key: str, make: Callable[[], Trained]) -> Trained: ...
    def metrics(self, key: str, make: Callable[[], Metrics]) -> Metrics: ...


@runtime_checkable
class KeepsUnfinished(Protocol):
    """A memory that also keeps trainings under way, by the same keys.

    >>> isinstance(NoMemory(), KeepsUnfinished)
    False
    """

    def unfinished(self, key: str) -> Unfinished: ...


class Meter(Protocol):
    """A way to measure a network on validation; `key` (plain data) holds all else that its result depends on.

    >>> class Whole:
    ...     key = "all images"
    ...     def __call__(self, network, task):
    ...         return measure(network, task)
    >>> meter: Meter = Whole()
    >>> meter.key
    'all images'
    """

    @property
    def key(self) -> Any: ...

    def __call__(self, network: Network, task: Task) -> Metrics: ...


class NoMemory:
    """A memory that keeps nothing."""

    def training(self, key: str, make: Callable[[], Trained]) -> Trained:
        return make()

    def metrics(self, key: str, make: Callable[[], Metrics]) -> Metrics:
        return make()


def advance(
    state: CompressionState,
    link: Link,
    task: Task,
    profile: Profile,
    memory: Memory | None = None,
    report: training.Report = nobody,
    meter: Meter | None = None,
) -> CompressionState:
    """Return the state after one more letter; `state` itself is left bit-identical.

    Without a `meter`, and after every training, all validation images are counted.

    Raises:
        RefusedError: the operator does not apply; the text says why.
        DivergedError: its training produced no number.
        UnexpectedError: the operator failed in a way that nobody foresaw.
    """
    memory = memory or NoMemory()
    operator = letters.make(link, profile)
    reason = letters.refusal(operator, state)
    if reason is not None:
        where = f"after '{state.chain}'" if state.steps else "at the start"
        raise RefusedError(f"{operator.letter} ({operator.name}) is refused {where}: {reason}")
    with _named_exceptions(operator, state, task):
        return _advance(state, link, _Work(operator, task, profile, memory, report), meter)


@dataclass(frozen=True)
class _Work:
    """One letter, and what it works with."""

    operator: Operator[Any]
    task: Task
    profile: Profile
    memory: Memory
    report: training.Report


def _advance(state: CompressionState, link: Link, work: _Work, meter: Meter | None) -> CompressionState:
    operator, task, profile, memory = work.operator, work.task, work.profile, work.memory
    decision = operator.decide(state, task)
    heap.give_back()
    network = operator.perform(state.network, decision)
    statistics = ""
    if state_key(network, with_exits=False) != state_key(state.network, with_exits=False):
        if isinstance(operator, Refits):
            operator.refit(network, state.network, decision, task)
        if plain_key(network) != plain_key(state.network):
            statistics = choose_statistics(network, task, profile)
        known = operator.ranges(decision) if isinstance(operator, Calibrates) else None
        settle(network, task, profile, known)  # exits alone change nothing that is settled
    if network is state.network:
        network = copy.deepcopy(network)
    guard.check(operator, state.network, network, task)
    heap.give_back()
    network, n_epochs = _recover(network, state.origin, work, (*state.steps, Step(link, decision)))
    trains = kept_by(operator) == "score"
    metrics = measured(network, task, memory, None if trains else meter)
    if trains and is_better(task.metric, state.metrics.score, metrics.score):
        before = state.metrics
        if before.half_width:  # of a part of the images: the training must not lose to luck
            before = measured(state.network, task, memory)
        if is_better(task.metric, before.score, metrics.score):
            network, metrics = state.network, before
            decision = operator.undone(decision) if isinstance(operator, Undoes) else decision
    step = Step(link, decision, n_epochs, statistics)
    return replace(state, network=network, metrics=metrics, steps=(*state.steps, step))


@contextmanager
def _named_exceptions(operator: Operator[Any], state: CompressionState, task: Task) -> Iterator[None]:
    """Turn unforeseen errors of a letter into one line that names letter, place and network.

    Raises:
        UnexpectedError: the message names the file with the traceback.
    """
    try:
        yield
    except NacdeployError:
        raise
    except Exception as error:
        place = f"after '{state.chain}'" if state.steps else "at the start"
        what = f"{operator.letter} ({operator.name}) fails {place} on model '{task.spec.name}'"
        raise UnexpectedError(what, error) from error


def measured(network: Network, task: Task, memory: Memory, meter: Meter | None = None) -> Metrics:
    """Return the metrics of a network on validation, once for each content: by `meter`, or of all images."""
    how = {} if meter is None else {"meter": meter.key}
    parts = {"state": state_key(network), "code": MEASURE_VERSION, **context(task), **how}
    return memory.metrics(
        records.sha256_data(parts), lambda: measure(network, task) if meter is None else meter(network, task)
    )


def _recover(network: Network, origin: Network | None, work: _Work, steps: tuple[Step, ...]) -> tuple[Network, int]:
    """Train the network in place, then heads and gates; the backbone's training does not see the exits."""
    recovery, n_epochs = work.operator.recovery(work.profile) or Recovery(), 0
    if recovery.backbone:
        lesson = Lesson(origin, recovery.taught) if recovery.taught and origin is not None else None
        trained = _trained(network, recovery.backbone, lesson, work, steps)
        network.load_state_dict({**content(network), **trained.values})
        n_epochs = trained.n_epochs
    if recovery.heads and network.exits:
        seed = training.seed_of(work.profile.seed, state_key(network, False), "heads")
        train_heads(network, recovery.heads, recovery.taught or recovery.heads_taught, work.task, seed)
    calibrate_gates(network, work.task, work.profile)
    return network, n_epochs


def _trained(
    network: Network, recipe: TrainTable, lesson: Lesson | None, work: _Work, steps: tuple[Step, ...]
) -> Trained:
    """Return the values of a trained copy of the backbone: those of an earlier training of the same content, if the
    memory has any."""
    operator, task, profile = work.operator, work.task, work.profile
    start = state_key(network, with_exits=False)
    settings = {"start": start, "recipe": recipe.model_dump(mode="json"), **_training_context(operator, profile)}
    settings |= lesson.context if lesson else {}
    seed = training.seed_of(profile.seed, start, operator.letter)

    key, memory = records.sha256_data({**settings, **context(task)}), work.memory

    def train() -> Trained:
        unfinished = memory.unfinished(key) if isinstance(memory, KeepsUnfinished) else None
        how = task, profile, seed, work.report, unfinished, steps
        trained, n_epochs = trained_backbone(network, recipe, lesson, *how)
        values = {k: v.clone() for k, v in content(trained, with_exits=False).items()}
        return Trained(values, n_epochs, content(network, with_exits=False))

    return memory.training(key, train)


def context(task: Task) -> dict[str, Any]:
    """Return the facts of a task that decide how a state of a given content is trained, settled and measured.

    They are the network's own code, which its values do not show, the images as the network sees them, and the metric.
    """
    data, spec = task.data, task.spec.content
    if task.spec.source_sha256 is not None:  # a user's file is its content, wherever it lies
        spec["name"] = task.spec.name.rpartition(":")[2]
    seen = {"mean": data.mean, "std": data.std, "augment": data.augment, "split_seed": data.split_seed}
    trained_for = {} if task.metric.name == DEFAULT else {"metric": [task.metric.name, task.metric.version]}
    answered = {"answered_by": data.answered_by} if data.answered_by else {}
    return {"model": spec, "data": data.fingerprint, **seen, **data.as_taken, **trained_for, **answered}


def _training_context(operator: Operator[Any], profile: Profile) -> dict[str, Any]:
    """Return all that decides a training, which settles at its end, besides the start, the recipe and the task."""
    settings = profile.model_dump(mode="json", include={"seed", *SETTLED_BY})
    versions = {operator.letter: operator.version, "train": training.VERSION, "settle": SETTLE_VERSION}
    return {"settings": settings, "code": versions}
