"""The layers that Q leaves in float so that the answers keep a ratio of signal to noise, and the reason for each.

Each layer is quantized alone, and its error in the answers counted. Those with the most error for the time that their
integers would save (counted as multiplications) stay float, as few as the ratio needs: a search by halves over that
order asks the network itself. Ranges are those of the whole network in integers, found once.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from nacdeploy.models.ports import ports_of
from nacdeploy.network.attachments.fake_quant import Rule
from nacdeploy.network.cost import layer_costs
from nacdeploy.network.network import Network
from nacdeploy.strategies.calibration import calibrate_ranges
from nacdeploy.strategies.operators.quantize.settings import QuantizeTable
from nacdeploy.strategies.settle import calibration_images, unquantized
from nacdeploy.task import Task
from nacdeploy.task import evaluate as evaluation

N_JUDGED = 32  # validation inputs
N_ALONE = 8  # of them, that order the layers
N_PARTS = 4  # of these inputs, each of which must keep the ratio: it is to hold on other inputs too
MARGIN_DB = 1.0  # above the ratio that is asked for, for the same reason


def kept_float(network: Network, rule: Rule, table: QuantizeTable, min_snr_db: float, task: Task) -> dict[str, float]:
    """Return the layers that stay float, and the ratio in decibels that the answers would have with that layer alone in
    integers; none if the whole network keeps the ratio."""
    judged = task.data.validation.subset(torch.arange(min(N_JUDGED, len(task.data.validation))))
    reference = evaluation.predict(unquantized(network), task.data, judged)
    whole = copy.deepcopy(network)
    whole.quantize(rule)
    calibrate_ranges(whole, task.data, calibration_images(task.data, table.n_calibration), table)
    layers = tuple(whole.plan.weight_bits)

    def noise(floats: Sequence[str], n: int = N_JUDGED) -> float:
        part, few = copy.deepcopy(whole), judged.subset(torch.arange(min(n, len(judged))))
        part.quantize(replace(rule, exclude=(*rule.exclude, *floats)))
        return _noise(evaluation.predict(part, task.data, few), reference[: len(few)], part)

    most = 10 ** (-(min_snr_db + MARGIN_DB) / 10)
    if noise(()) <= most:
        return {}
    alone = {name: noise([other for other in layers if other != name], N_ALONE) for name in layers}
    macs = {cost.layer: max(cost.macs, 1) for cost in layer_costs(network, network.example_input())}
    felt = [name for name in layers if alone[name] > most / (10 * len(layers))] or list(layers)
    order = sorted(felt, key=lambda name: alone[name] / macs.get(name, 1), reverse=True)
    low, high = 0, len(order)  # `high` of the order in float are enough, `low` are not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if noise(order[:middle]) <= most else (middle, high)
    kept = _thinned(order[:high], alone, lambda floats: noise(floats) <= most)
    return {name: _decibels(alone[name]) for name in order if name in kept}


def _thinned(floats: list[str], alone: Mapping[str, float], holds: Callable[[list[str]], bool]) -> list[str]:
    """Return the layers without those that need not be float, the least felt first: halves of them, then smaller
    parts."""
    found = sorted(floats, key=lambda each: alone[each])
    size = len(found) // 2
    while size:
        without = found[size:]
        if holds(without):
            found = without
        size = min(size, len(found)) // 2
    return found


def _noise(answers: Tensor, reference: Tensor, network: Network) -> float:
    """Return the ratio of noise to signal, the largest of any output and any part of the inputs."""
    ports = ports_of(network.backbone)
    pairs = zip(ports.apart(answers), ports.apart(reference), strict=True) if ports else [(answers, reference)]
    parts = [part for a, b in pairs for part in zip(a.chunk(N_PARTS), b.chunk(N_PARTS), strict=True)]
    return max(float((a - b).double().square().sum() / b.double().square().sum().clamp(min=1e-30)) for a, b in parts)


def _decibels(noise: float) -> float:
    return float(-10 * torch.log10(torch.tensor(max(noise, 1e-15))))
