"""The state of a compression: a network, the steps that led to it, its cost and the quality of its answers."""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from nacdeploy.base import records
from nacdeploy.base.errors import UsageError
from nacdeploy.base.latency import Latency
from nacdeploy.metrics import DEFAULT, drop, named, scored, spelled
from nacdeploy.network.attachments.early_exit import ExitHead
from nacdeploy.network.attachments.fake_quant import Rule
from nacdeploy.network.attachments.sparsity import Sparsity
from nacdeploy.network.cost import Cost, cost
from nacdeploy.network.network import Network, content
from nacdeploy.strategies.chain import Chain, Link
from nacdeploy.task import Task
from nacdeploy.task import evaluate as evaluation

_LATER: dict[str, Any] = {"layer_bits": {}, "weights": "symmetric"}  # of Rule
_LATER |= {"ratios": {}, "patterns": {}, "importance": "l1", "rounding": "floor"}  # of Sparsity
# Part of the keys of a search's memory: raise it when evaluation or cost come out differently.
MEASURE_VERSION = 1
_LARGEST_COST = 1e24


@scored
@dataclass(frozen=True)
class Metrics:
    """The score of the named metric on the named split, analytic cost, and measured latency if there is one.

    The score is from `n_images`; `half_width` bounds its distance from the score of the whole split, 0 if all were
    counted. `chance` is the score of the best answer that looks at no image.
    """

    score: float
    split: str
    n_images: int
    cost: Cost
    exit_fractions: tuple[float, ...] = (1.0,)
    latency: Latency | None = None
    half_width: float = 0.0
    chance: float = 0.0
    metric: str = DEFAULT

    @property
    def quality(self) -> float:
        """The score on the scale on which more is better and 1 is perfect."""
        return named(self.metric).quality(self.score, self.chance)


def check_metrics(metrics: Metrics) -> None:
    """Check that metrics from a file are possible.

    Raises:
        UsageError: a score is outside the metric's bounds, or a count or a share is none.
    """
    low, high = named(metrics.metric).bounds
    for key in ("score", "chance"):
        if not low <= (value := getattr(metrics, key)) <= high:
            raise UsageError(f"{spelled(key, metrics.metric)} is {value:g}, and lies from {low:g} to {high:g}")
    costs = vars(metrics.cost)
    if strange := next((key for key, value in costs.items() if not 0 <= value < _LARGEST_COST), None):
        raise UsageError(f"{strange} is {costs[strange]:g}, and no network costs that")
    if metrics.n_images < 0 or not all(0 <= share <= 1 for share in metrics.exit_fractions):
        raise UsageError(f"metrics of {metrics.n_images} images with exits {metrics.exit_fractions} cannot be")


@dataclass(frozen=True)
class Step:
    """One performed letter.

    Attributes:
        link: the link of the chain.
        decision: the operator's decision.
        n_epochs: the epochs of its recovery.
        statistics: "kept" or "re-estimated" if the letter changed something in front of batch norms, else "".
    """

    link: Link
    decision: Any
    n_epochs: int = 0
    statistics: str = ""


@dataclass(frozen=True)
class CompressionState:
    """A network with its history; it is never changed, only followed by another state.

    `origin` is the network that the chain started from, None where it is not at hand: a checkpoint does not hold it.
    """

    network: Network
    metrics: Metrics
    baseline: Metrics
    steps: tuple[Step, ...] = field(default=())
    origin: Network | None = None

    def __post_init__(self) -> None:
        if self.origin is None and not self.steps:
            object.__setattr__(self, "origin", self.network)

    @property
    def chain(self) -> Chain:
        return Chain(tuple(step.link for step in self.steps))

    @property
    def key(self) -> str:
        return state_key(self.network)

    @property
    def drop(self) -> float:
        """The loss of score since the baseline, in the metric's own unit."""
        return drop(named(self.metrics.metric), self.baseline.score, self.metrics.score)

    @property
    def n_epochs(self) -> int:
        """Training epochs spent along the chain."""
        return sum(step.n_epochs for step in self.steps)


def state_key(network: Network, with_exits: bool = True) -> str:
    """Return the sha256 of a network's content: structure (precision, grid, attachments) and all its values in
    order."""
    digest = hashlib.sha256(json.dumps(_structure(network, with_exits), sort_keys=True).encode())
    for name, tensor in sorted(content(network, with_exits).items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def plain_key(network: Network) -> str:
    """Return the sha256 of the values of the float network: weights, masks, shared values, attachments."""
    digest = hashlib.sha256()
    for name, tensor in sorted(content(network).items()):
        if name.startswith(("backbone.", "masks.", "sharing.", "attachments.")):
            digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            digest.update(_bytes(tensor))
    return digest.hexdigest()


def structure_key(network: Network) -> str:
    """Return the sha256 of all facts that decide a network's time: shapes, precision of every edge and layer, exits and
    zeros.

    No values count. A network before and after a training has the same key.
    """
    shapes = {name: [list(tensor.shape), str(tensor.dtype)] for name, tensor in content(network).items()}
    plan = {"weights": dict(network.plan.weight_bits), "kinds": dict(network.plan.kinds)}
    data = {**_structure(network, True), **plan, "shapes": shapes, "edges": edges(network)}
    return records.sha256_data(data)


def edges(network: Network) -> dict[str, dict[str, str]]:
    """Return the quantized tensors by the node that reads them and their position."""
    return {reader: {str(at): key for at, key in keys.items()} for reader, keys in network.plan.inputs.items()}


def measure(network: Network, task: Task, split: str = "validation") -> Metrics:
    """Evaluate a network on a whole split and count its costs."""
    images = getattr(task.data, split)
    outcome = evaluation.evaluate(network, task, images)
    fractions = outcome.exit_fractions
    costs = cost(network, task.example_input(), fractions)
    likely = task.metric.chance(images.labels)
    return Metrics(outcome.score, split, len(images), costs, fractions, chance=likely, metric=task.metric.name)


def _structure(network: Network, with_exits: bool) -> dict[str, Any]:
    rule = _spoken(network.rule) if network.rule else None
    exits = [_named(head) for head in network.heads.values()] if with_exits else []
    masked = {"sparsity": _spoken(network.sparsity)} if network.sparsity else {}
    books = {layer: records.to_data(book) for layer, book in network.sharing.books.items()}
    shared = {"sharing": books} if books else {}
    modules = {key: [each.node, str(each)] for key, each in network.attached.items()}
    attached = {"attachments": modules} if modules else {}
    return {"rule": rule, "grid": network.grid.name, "exits": exits, **masked, **shared, **attached}


def _named(head: ExitHead) -> str:
    return head.node if head.kind == "linear" else f"{head.node} {head.kind}"


def _spoken(rule: Rule | Sparsity) -> dict[str, Any]:
    """Return the rule as a dict, without fields added after v1 that hold their default or only place quantizers (which
    have names), so that old cache keys and seeds stay valid."""
    data = {key: value for key, value in records.to_data(rule).items() if value != _LATER.get(key, ...)}
    for each in ("integers_between", "every_convolution"):
        data.pop(each, None)
    return data


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().cpu().numpy().tobytes()
