"""Settle: the values that follow from data without training.

After every surgery and every training, activation ranges are found from training images and the exits' thresholds from
validation images. Both follow from the network and the data alone, never from earlier values.

Batch-norm statistics belong to the weights that were trained with them. They stay if nothing in front of them changed
(Q, E). After a letter that changes the function of the float network (P, D, S, C) there are two candidates: the
network's present statistics, learned from all its training, and new statistics of its training images. The new ones are
taken only if they answer more validation images better, by more than chance would have it, or if neither answers better
than one who looks at no image: what a lost network remembers is worth nothing, and ranges found with it would hold the
network where it is, whatever the training. The float network decides, without quantizers, so that P decides alike
before and behind Q. After training the roles are reversed: the running averages of the last batches are taken only if
they are surely better.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nacdeploy.data import Dataset, ImageSet
from nacdeploy.metrics import Metric, drop, is_surely_better
from nacdeploy.network.attachments.early_exit import take_exits
from nacdeploy.network.attachments.placement import Plan
from nacdeploy.network.cost import cost
from nacdeploy.network.network import Network
from nacdeploy.profile import Profile
from nacdeploy.strategies.calibration import Observing, Ranges, calibrate_ranges, set_ranges
from nacdeploy.strategies.operators.add_exits.settings import ExitTable
from nacdeploy.strategies.operators.quantize.settings import QuantizeTable
from nacdeploy.task import Task
from nacdeploy.task import evaluate as evaluation

SETTLE_VERSION = 2  # part of the keys of a search's memory: raise it when what settles comes out differently
SETTLED_BY = {"settle", "quantize"}  # the tables of a profile that `settle` reads: part of these keys too
N_JUDGED = 1024
N_FITTED = 32  # images that channels and weights are fitted to
KEPT, ANEW = "kept", "re-estimated"


def settle(network: Network, task: Task, profile: Profile, known: Ranges | None = None) -> None:
    """Calibrate ranges in place; `calibrate_gates` follows the exits' training.

    Ranges that a letter has found already are `known`; they are taken if they are those of all tensors.
    """
    if known and network.quantizers.keys() <= known.keys():
        set_ranges(network, {key: known[key] for key in network.quantizers})
    elif network.quantizers:
        few = calibration_images(task.data, profile.of(QuantizeTable).n_calibration)
        calibrate_ranges(network, task.data, few, profile.of(QuantizeTable))


def choose_statistics(network: Network, task: Task, profile: Profile) -> str:
    """Re-estimate batch norms in place if that is surely better on validation, or if the network is lost either way;
    return "re-estimated", "kept", or "".

    "" says that the network has no batch norms. The float network decides, masks and shared values included.
    """
    if not running_norms(network):
        return ""
    kept = unquantized(network)
    anew = reestimated(kept, task, profile)
    of_kept, of_anew = (_Answers.of(each, task) for each in (kept, anew))
    is_lost = of_kept.are_chance(task.metric) and not of_kept.are_better(of_anew, task.metric)
    if not is_lost and not of_anew.are_better(of_kept, task.metric):
        return KEPT
    take_statistics(network, anew)
    return ANEW


def settle_trained(network: Network, task: Task, profile: Profile) -> None:
    """Settle a network after its training, in place.

    Batch norms get the statistics of the training images in the network's present precision, or keep the running
    averages of the training if these are surely better.
    """
    settle(network, task, profile)
    if not running_norms(network):
        return
    anew = reestimated(network, task, profile)
    settle(anew, task, profile)
    of_running, of_anew = (_Answers.of(each, task) for each in (network, anew))
    if not of_running.are_better(of_anew, task.metric):
        network.load_state_dict(anew.state_dict())


@dataclass(frozen=True)
class _Answers:
    """The outputs (N, K) of a network for the validation images that judge, and their labels."""

    outputs: Tensor
    labels: Any

    @classmethod
    def of(cls, network: Network, task: Task) -> Self:
        images = task.data.validation.drawn(N_JUDGED, task.data.split_seed)
        return cls(evaluation.predict(network, task.data, images), images.labels)

    def are_better(self, other: Self, metric: Metric) -> bool:
        """Tell whether they are surely better than those of another network for the same images."""
        return is_surely_better(metric, *(metric.values(each.outputs, each.labels) for each in (self, other)))

    def are_chance(self, metric: Metric) -> bool:
        """Tell whether one who looks at no image may answer as well."""
        score, chance = metric.score(self.outputs, self.labels), metric.chance(self.labels)
        return metric.is_near_chance(score, chance, len(self.outputs))


def unquantized(network: Network) -> Network:
    """Return a copy without quantizers and exits: float, with its masks, shared values and attachments."""
    plain = copy.deepcopy(network)
    plain.rule, plain.plan, plain.quantizers, plain.exits = None, Plan(), nn.ModuleDict(), nn.ModuleDict()
    return plain


def running_norms(network: Network) -> dict[str, nn.Module]:
    """Return the batch norms with running statistics that a node of the graph calls."""
    norms = {name: m for name, m in network.backbone.named_modules() if isinstance(m, _BatchNorm)}
    called = None if network.graph is None else {n.target for n in network.graph.nodes if n.op == "call_module"}
    return {name: m for name, m in norms.items() if m.track_running_stats and (called is None or name in called)}


def take_statistics(network: Network, other: Network) -> None:
    """Copy the statistics of another network's batch norms."""
    for name, norm in running_norms(network).items():
        norm.load_state_dict(other.backbone.get_submodule(name).state_dict())


def reestimated(network: Network, task: Task, profile: Profile) -> Network:
    """Return a copy with batch-norm means and variances as plain averages over training images, with float
    activations."""
    made = copy.deepcopy(network)
    images = calibration_images(task.data, profile.settle.n_images)
    size = min(profile.settle.batch_size, evaluation.batch_size(images))
    with torch.no_grad(), _averaging(list(running_norms(made).values())), evaluation.accelerated(made) as device:
        observation = Observing(made, {})
        for x in evaluation.batches(task.data, images, size, device):
            made.run(x, observation)
    for name, norm in running_norms(made).items():
        did_run = int(norm.num_batches_tracked) > 0  # type: ignore[arg-type]
        if not did_run:  # as some of an uncaptured network
            norm.load_state_dict(network.backbone.get_submodule(name).state_dict())
    return made


def calibration_images(data: Dataset, n_images: int, labelled: bool = False) -> ImageSet:
    """Return the same `n_images` every time: of the training split, or of a task's own inputs for calibration unless
    they are to be `labelled`."""
    images = data.train if labelled or data.calibration is None else data.calibration
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(data.split_seed))
    return images.subset(order[:n_images])


def calibration_batch(task: Task, n_images: int = N_FITTED) -> Tensor:
    """Return a batch (N, ...) of the images that calibrate, on the CPU."""
    images = calibration_images(task.data, n_images)
    return next(evaluation.batches(task.data, images, len(images), torch.device("cpu")))


def calibrate_gates(network: Network, task: Task, profile: Profile) -> None:
    """Set one confidence threshold for all exits, from validation images.

    It is the profile's own, or else the threshold of least expected MACs whose score stays within the profile's
    `exits.max_drop` of the network's own end.
    """
    heads = list(network.heads.values())
    if not heads:
        return
    table = profile.of(ExitTable)
    threshold = table.threshold or _cheapest_threshold(network, task, table.max_drop)
    for head in heads:
        head.threshold.fill_(threshold)


def _cheapest_threshold(network: Network, task: Task, max_drop: float) -> float:
    images, metric = task.data.validation, task.metric
    outputs = evaluation.predict_exits(network, task.data, images)
    own = metric.score(outputs[-1], images.labels)
    # the MACs of each way out: all images leaving there
    macs = [cost(network, task.example_input(), one).expected_macs for one in torch.eye(len(outputs)).tolist()]
    best = (macs[-1], 2.0)
    for threshold in [i / 100 for i in range(30, 100)] + [0.995, 0.999]:
        answer, taken = take_exits(outputs, [threshold] * (len(outputs) - 1), metric.confidence)
        expected = float(torch.tensor(macs, dtype=torch.float64)[taken].mean())
        if drop(metric, own, metric.score(answer, images.labels)) <= max_drop + 1e-7:
            best = min(best, (expected, threshold))
    return best[1]


@contextmanager
def _averaging(norms: Sequence[nn.Module]) -> Iterator[None]:
    """Set only batch norms to training mode, with cumulative averages, and restore their former settings at the end."""
    former = [(m, m.momentum, m.training) for m in norms]
    for m in norms:
        m.reset_running_stats()  # type: ignore[operator]
        m.momentum = None  # type: ignore[assignment]
        m.train()
    try:
        yield
    finally:
        for m, momentum, was_training in former:
            m.momentum = momentum
            m.train(was_training)
