"""advance(): one letter applied to one state. Everything that follows chains goes through here.

refuse? -> decide -> perform on a copy -> settle -> recover -> settle -> measure
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from nacdeploy import evaluate as evaluation
from nacdeploy import records, train
from nacdeploy.errors import RefusedError
from nacdeploy.layers.early_exit import ExitHead
from nacdeploy.layers.network import Network, content
from nacdeploy.profile import Profile, TrainTable
from nacdeploy.strategies import operators
from nacdeploy.strategies.chain import Link
from nacdeploy.strategies.operators.base import Operator, Recovery
from nacdeploy.strategies.settle import calibrate_gates, settle
from nacdeploy.strategies.state import CompressionState, Metrics, Step, measure, state_key
from nacdeploy.task import Task


@dataclass(frozen=True)
class Trained:
    """The values of a backbone and its quantizers after a training, and the epochs it took."""

    values: dict[str, Tensor]
    n_epochs: int


class Memory(Protocol):
    """What was trained or measured before, by the content it started from."""

    def training(self, key: str, make: Callable[[], Trained]) -> Trained: ...
    def metrics(self, key: str, make: Callable[[], Metrics]) -> Metrics: ...


class Meter(Protocol):
    """A way to measure a network on validation; `key` (plain data) says what its result depends on besides."""

    @property
    def key(self) -> Any: ...

    def __call__(self, network: Network, task: Task) -> Metrics: ...


class NoMemory:
    """Remembers nothing."""

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
    report: train.Report = lambda epoch, n_epochs, accuracy: None,
    meter: Meter | None = None,
) -> CompressionState:
    """The state after one more letter; `state` itself is left bit-identical.

    Without a `meter`, and after every training, all validation images are counted.

    Raises:
        RefusedError: the operator does not apply; the text says why.
        DivergedError: its training produced no number.
    """
    memory = memory or NoMemory()
    operator = operators.make(link, profile)
    reason = operator.refusal(state)
    if reason is not None:
        where = f"after '{state.chain}'" if state.steps else "at the start"
        raise RefusedError(f"{operator.letter} ({operator.name}) is refused {where}: {reason}")
    decision = operator.decide(state, task)
    network = operator.perform(state.network, decision)
    if state_key(network, with_exits=False) != state_key(state.network, with_exits=False):
        settle(network, task, profile)  # exits alone change nothing that is settled
    network, n_epochs = _recover(network, operator.recovery(profile), operator, task, profile, memory, report)
    trains = operator.letter == "F"
    metrics = measured(network, task, profile, memory, None if trains else meter)
    if trains and metrics.accuracy < state.metrics.accuracy:
        before = state.metrics
        if before.half_width:  # of a part of the images: the training must not lose to luck
            before = measured(state.network, task, profile, memory)
        if metrics.accuracy < before.accuracy:
            network, metrics = state.network, before
    return replace(state, network=network, metrics=metrics, steps=(*state.steps, Step(link, decision, n_epochs)))


def measured(network: Network, task: Task, profile: Profile, memory: Memory, meter: Meter | None = None) -> Metrics:
    """The metrics of a network on validation, once for each content: by `meter`, or of all images."""
    how = {} if meter is None else {"meter": meter.key}
    key = _key({"state": state_key(network), **_context(task, profile), **how})
    return memory.metrics(key, lambda: measure(network, task) if meter is None else meter(network, task))


def _recover(
    network: Network,
    recovery: Recovery | None,
    operator: Operator[Any],
    task: Task,
    profile: Profile,
    memory: Memory,
    report: train.Report,
) -> tuple[Network, int]:
    """The network after its training, heads and gates; the backbone's training does not see the exits."""
    network, n_epochs = copy.deepcopy(network), 0
    if recovery and recovery.backbone:
        recipe = recovery.backbone
        start = state_key(network, with_exits=False)
        settings = {"start": start, "recipe": recipe.model_dump(), "version": operator.version}
        seed = train.seed_of(profile.seed, start, operator.letter)
        trained = memory.training(
            _key({**settings, **_context(task, profile)}),
            lambda: _trained_backbone(network, recipe, task, profile, seed, report),
        )
        network.load_state_dict({**content(network), **trained.values})
        n_epochs = trained.n_epochs
    if recovery and recovery.heads and network.exits:
        _train_heads(network, recovery.heads, task, train.seed_of(profile.seed, state_key(network, False), "heads"))
    calibrate_gates(network, task, profile)
    return network, n_epochs


def _trained_backbone(
    network: Network, recipe: TrainTable, task: Task, profile: Profile, seed: int, report: train.Report
) -> Trained:
    """Train and settle; the start is kept where that is not worse on validation."""

    def accuracy_of(candidate: Network) -> float:
        logits = evaluation.predict(candidate, task.data, task.data.validation)
        return float((logits.argmax(1) == task.data.validation.labels).double().mean())

    trained = copy.deepcopy(network)
    images = train.image_batches(task.data, task.data.train, recipe.batch_size, seed)
    done = train.fit(trained, images, lambda: accuracy_of(trained), recipe, seed, report)
    settle(trained, task, profile)
    better = trained if accuracy_of(trained) >= accuracy_of(network) else network
    return Trained({k: v.clone() for k, v in content(better, with_exits=False).items()}, done.n_epochs)


def _train_heads(network: Network, recipe: TrainTable, task: Task, seed: int) -> None:
    """Train every head from zero on the features it reads, the backbone in evaluation mode and out of reach."""
    features = {name: _head_inputs(network, task, name) for name in ("train", "validation")}
    for node, head in network.heads.items():
        torch.nn.init.zeros_(head.linear.weight)
        torch.nn.init.zeros_(head.linear.bias)
        (inputs, labels), (held_out, truth) = ((features[s][0][node], features[s][1]) for s in ("train", "validation"))

        def score(head: ExitHead = head, held_out: Tensor = held_out, truth: Tensor = truth) -> float:
            with torch.no_grad():
                device = head.linear.weight.device
                return float((head.linear(held_out.to(device)).argmax(1).cpu() == truth).double().mean())

        batches = train.tensor_batches(inputs, labels, recipe.batch_size, seed)
        train.fit(head.linear, batches, score, recipe, seed)


def _head_inputs(network: Network, task: Task, split: str) -> tuple[dict[str, Tensor], Tensor]:
    """What each head's linear layer reads, (N, features) by node, and the labels (N,)."""
    images = getattr(task.data, split)
    parts: dict[str, list[Tensor]] = {node: [] for node in network.heads}
    with torch.no_grad(), evaluation.accelerated(network) as device:
        for x in evaluation.batches(task.data, images, device=device):
            values, _ = network.features(x)
            for node, head in network.heads.items():
                parts[node].append(head.reduced(values[node]).cpu())
    return {node: torch.cat(values) for node, values in parts.items()}, images.labels


def _context(task: Task, profile: Profile) -> dict[str, Any]:
    """What besides the state's content decides a training or a measurement."""
    settings = profile.model_dump(mode="json", include={"seed", "settle", "quantize", "exits"})
    return {"data": task.data.fingerprint, "augment": task.data.augment, "settings": settings}


def _key(data: dict[str, Any]) -> str:
    return records.sha256_data(data)
