"""The layers that Q leaves in float so that the network keeps what is asked of it, and the reason for each.

Asked is a ratio of signal to noise (`min_snr_db`), a score (`max_drop`), or both. Each layer is quantized alone, and
its error in the answers counted. Those with the most error for the time that their integers save stay float, as few as
are needed: a search by halves over that order asks the network itself. Times are the task's clock's; without a clock
multiplications stand for them. Ranges, and weights chosen by data, are those of the whole network in integers, found
once: the network keeps them.
"""

import copy
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from nacdeploy.base import heap
from nacdeploy.base.errors import NacdeployError
from nacdeploy.metrics import drop
from nacdeploy.network.attachments import placement
from nacdeploy.network.attachments.fake_quant import Rule
from nacdeploy.network.attachments.placement import Plan
from nacdeploy.network.cost import layer_costs
from nacdeploy.network.network import Network, no_grad_eval
from nacdeploy.strategies.calibration import calibrate_ranges, ranges_of
from nacdeploy.strategies.operators.quantize.reconstruct import reconstruct
from nacdeploy.strategies.operators.quantize.settings import QuantizeTable
from nacdeploy.strategies.range_search import Harms, Range, noises
from nacdeploy.strategies.settle import calibration_batch, calibration_images, unquantized
from nacdeploy.task import Task
from nacdeploy.task import evaluate as evaluation
from nacdeploy.task.clock import Sizes

N_JUDGED = 32  # validation inputs, drawn: folders are sorted
_SEED = 0
N_PARTS = 4  # of these inputs, each of which must keep the ratio; the part that loses most orders the layers
MARGIN_DB = 2.0  # above the ratio that is asked for, for the same reason
N_BLOCKS = 16  # of the layers in float, of which each is tried in integers again
LEAST_SAVED_MS = 1e-5  # what integers that save nothing count as


@dataclass(frozen=True)
class Kept:
    """A layer that stays float: the ratio that the answers would have with it alone in integers, and the time that its
    integers would save (None: not measured)."""

    db: float
    saved_ms: float | None

    def __str__(self) -> str:
        saved = "" if self.saved_ms is None else f" to save {1000 * self.saved_ms:.1f} us"
        return f"alone it would leave {self.db:.1f} dB{saved}"


@dataclass(frozen=True)
class Control:
    """The outcome: the layers that stay float, and the ranges of all tensors of the network in integers."""

    floats: Mapping[str, Kept]
    ranges: Mapping[str, Range]


def kept_float(network: Network, rule: Rule, table: QuantizeTable, task: Task) -> Control:
    """Return the layers that stay float, none if the whole network keeps what the table asks for, and the ranges."""
    whole = copy.deepcopy(network)
    whole.quantize(rule)
    calibrate_ranges(whole, task.data, calibration_images(task.data, table.n_calibration), table)
    heap.give_back()
    if table.reconstruct:
        reconstruct(whole, calibration_batch(task))
        heap.give_back()
    trial = _Trial(network, whole, task)
    floats = {} if trial.holds((), table) else _fewest(network, whole, trial, table, task)
    return Control(floats, ranges_of(whole))


def _fewest(network: Network, whole: Network, trial: "_Trial", table: QuantizeTable, task: Task) -> dict[str, Kept]:
    layers = tuple(whole.plan.weight_bits)
    alone = trial.alone(layers)
    saved = _saved(network, whole, task)
    worth = saved or {cost.layer: max(cost.macs, 1) for cost in layer_costs(network, network.example_input())}
    least = sum(alone.values()) / (100 * len(layers))
    felt = [name for name in layers if alone[name] > least] or list(layers)
    order = sorted(felt, key=lambda name: alone[name] / worth.get(name, 1), reverse=True)
    low, high = 0, len(order)  # `high` of the order in float are enough, `low` are not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if trial.holds(order[:middle], table) else (middle, high)
    free = [name for name in order[:high] if saved.get(name) == LEAST_SAVED_MS]
    costly = [name for name in order[:high] if name not in free]
    kept = {*free, *_thinned(costly, lambda floats: trial.holds([*free, *floats], table))}
    return {name: Kept(_decibels(alone[name]), saved.get(name)) for name in order if name in kept}


class _Trial:
    """The network in integers with some layers in float, against the float network on validation inputs."""

    def __init__(self, network: Network, whole: Network, task: Task) -> None:
        self._whole, self._task, self._all = whole, task, task.data.validation
        self._judged = self._all.drawn(N_JUDGED, _SEED)
        self._plain = unquantized(network)
        self._reference = evaluation.predict(self._plain, task.data, self._judged)

    def holds(self, floats: Sequence[str], table: QuantizeTable) -> bool:
        """Tell whether the network keeps what the table asks for."""
        if table.min_snr_db is not None and self.noise(floats) > 10 ** (-(table.min_snr_db + MARGIN_DB) / 10):
            return False
        return table.max_drop is None or self._lost(self._with(floats)) <= table.max_drop + 1e-9

    def noise(self, floats: Sequence[str]) -> float:
        """Return the ratio of noise to signal on the judged inputs."""
        part = self._with(floats)
        return _noise(evaluation.predict(part, self._task.data, self._judged), self._reference, part)

    def alone(self, layers: Sequence[str]) -> dict[str, float]:
        """Return the ratio of noise to signal that each layer brings by itself."""
        probe = copy.deepcopy(self._whole)
        probe.backbone.load_state_dict(self._plain.backbone.state_dict())
        with no_grad_eval(probe), evaluation.accelerated(probe) as device:
            few = self._judged.subset(self._worst_part())
            harms = Harms(probe, next(evaluation.batches(self._task.data, few, len(few), device)))
            whole = copy.deepcopy(self._whole).to(device).eval()
            return {name: harms.of_layer(name, whole, self._plan_of(name)) for name in layers}

    def _worst_part(self) -> Tensor:
        """Return the places of the part of the judged inputs whose answers the whole network in integers changes most:
        it decides whether the ratio holds, so it orders the layers."""
        answers = evaluation.predict(self._whole, self._task.data, self._judged)
        places = torch.arange(len(self._judged)).chunk(N_PARTS)
        return max(places, key=lambda at: max(noises(answers[at], self._reference[at], self._whole)))

    def _plan_of(self, name: str) -> Plan:
        """Return the plan in which a layer is the only one in integers."""
        whole, others = self._whole, [each for each in self._whole.layers if each != name]
        assert whole.rule is not None
        rule = replace(whole.rule, exclude=(*whole.rule.exclude, *others))
        return placement.plan(whole.graph, whole.backbone, whole.layers, rule, whole.grid)

    def _lost(self, part: Network) -> float:
        before, now = (evaluation.own_score(each, self._task, self._all) for each in (self._plain, part))
        return drop(self._task.metric, before, now)

    def _with(self, floats: Sequence[str]) -> Network:
        part = copy.deepcopy(self._whole)
        assert part.rule is not None
        part.quantize(replace(part.rule, exclude=(*part.rule.exclude, *floats)))
        for name in floats:
            part.layers[name].load_state_dict(self._plain.layers[name].state_dict())
        return part


def _saved(network: Network, whole: Network, task: Task) -> dict[str, float]:
    """Return the time in ms that the integers of each layer save, by the task's clock; nothing if it has no times."""
    if task.clock is None:
        return {}
    sizes = {name: _widths(layer) for name, layer in network.layers.items()}
    try:
        before, now = (task.clock.layers_ms(each, sizes) for each in (unquantized(network), whole))
    except NacdeployError:
        return {}
    return {name: max(before[name][0][0] - now[name][0][0], LEAST_SAVED_MS) for name in sizes if name in before}


def _widths(layer: Any) -> Sizes:
    """Return the numbers of input and of output channels of a layer, as the clock wants them."""
    return (layer.weight.shape[1] * getattr(layer, "groups", 1),), (layer.weight.shape[0],)


def _thinned(order: list[str], holds: Callable[[list[str]], bool]) -> list[str]:
    """Return the layers without those that need not be float: halves of them are tried, then quarters and so on, the
    last of the order (least error for the time that they save) first."""
    found, n_blocks = list(order), 2
    while n_blocks <= min(N_BLOCKS, len(order)):
        for block in reversed(_blocks(order, n_blocks)):
            without = [name for name in found if name not in block]
            if len(without) < len(found) and holds(without):
                found = without
        n_blocks *= 2
    return found


def _blocks(order: list[str], n: int) -> list[list[str]]:
    ends = [len(order) * k // n for k in range(n + 1)]
    return [order[start:end] for start, end in itertools.pairwise(ends)]


def _noise(answers: Tensor, reference: Tensor, network: Network) -> float:
    """Return the ratio of noise to signal, the largest of any output and any part of the inputs."""
    parts = zip(answers.chunk(N_PARTS), reference.chunk(N_PARTS), strict=True)
    return max(each for a, b in parts for each in noises(a, b, network))


def _decibels(noise: float) -> float:
    return float(-10 * torch.log10(torch.tensor(max(noise, 1e-15))))
