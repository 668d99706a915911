"""The ranges of quantized activations, found from training images.

One pass with rounded weights and float activations keeps a sample of the values at every quantized edge. A rule turns
each sample into a range. No rule is best for all networks (one network needs a tail that harms another), so by default
the network's own answers choose the rule.
"""

import copy
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from nacdeploy.data import Dataset, ImageSet
from nacdeploy.network.attachments.attachment import Attachment
from nacdeploy.network.attachments.fake_quant import ActivationQuantizer
from nacdeploy.network.captured.graph import call_with
from nacdeploy.network.network import Network, Simulation, simulated_weight
from nacdeploy.network.semantics import Use
from nacdeploy.strategies import range_search
from nacdeploy.strategies.operators.quantize.settings import QuantizeTable
from nacdeploy.task import evaluate as evaluation

Ranges = Mapping[str, tuple[float, float]]  # lowest and highest value by edge
SAMPLES_PER_BATCH = 16384
MOST_FOR_MSE = 1 << 16
RULES = ("percentile", "minmax", "mse")  # that "auto" chooses from
CLEARLY = 0.94  # of an error: a quarter of a decibel


class Sample:
    """The values of one edge: a drawn sample of every batch, and its extremes.

    The room for all batches is reserved at once: small pieces that outlive the large tensors between them would hold
    the memory of these.
    """

    def __init__(self, n_batches: int) -> None:
        self._room, self._n = torch.empty(n_batches * (SAMPLES_PER_BATCH + 2)), 0

    @property
    def values(self) -> Tensor:
        """All kept values, (n,)."""
        return self._room[: self._n]

    def add(self, x: Tensor) -> None:
        """Keep some values of a tensor of any shape."""
        flat = x.detach().flatten().cpu()
        generator = torch.Generator().manual_seed(len(flat))  # a stride would alias with rows and channels
        drawn = torch.randint(len(flat), (SAMPLES_PER_BATCH,), generator=generator)
        part = torch.cat([flat[drawn], flat.amin()[None], flat.amax()[None]])
        if self._n + len(part) > len(self._room):  # an edge that is read more than once a batch
            self._room = torch.cat([self._room, torch.empty_like(self._room)])
        self._room[self._n : self._n + len(part)] = part
        self._n += len(part)


class Observing:
    """A run with rounded weights and float activations that keeps a sample of the activations at the edges."""

    def __init__(self, network: Network, seen: Mapping[str, Sample]) -> None:
        self._network, self._seen = network, seen
        self._weights: dict[str, Tensor | None] = {}

    def edge(self, key: str, x: Tensor, use: Use) -> Tensor:
        if key in self._seen:
            self._seen[key].add(x)
        return x

    def attached(self, key: str, module: Attachment, x: Tensor) -> Tensor:
        y: Tensor = module(x)
        return y

    def layer(self, name: str, module: nn.Module, x: Tensor) -> Tensor:
        if name not in self._weights:
            self._weights[name] = simulated_weight(self._network, name, module)
        weight = self._weights[name]
        return call_with(module, x, weight)


def calibrate_ranges(network: Network, data: Dataset, images: ImageSet, table: QuantizeTable) -> None:
    """Set the range of every quantized tensor from its values on `images`.

    The table names the rule. For "auto" it is the rule with which the network answers the first batch best; for
    "answers" the ranges of that rule are then moved tensor by tensor (`range_search`).
    """
    n_batches = math.ceil(len(images) / evaluation.batch_size(images))
    seen = {key: Sample(n_batches) for key in network.quantizers}
    was_training = network.training
    network.eval()
    with torch.no_grad(), evaluation.accelerated(network) as device:
        observation, batches = Observing(network, seen), evaluation.batches(data, images, device=device)
        first = next(batches)
        unrounded = network.run(first, observation)
        for x in batches:
            network.run(x, observation)
        rules = RULES if table.calibration in ("auto", "answers") else (table.calibration,)
        ranges = [_ranges(network, seen, rule, table.percentile) for rule in rules]
        best = ranges[0] if len(ranges) == 1 else _best(network, ranges, first, unrounded)
        if table.calibration == "answers" and len(images) >= 2 * range_search.N_IMAGES:
            del first, unrounded, seen
            best = range_search.by_answers(network, _two_batches(data, images, device), best)
        set_ranges(network, best)
    network.train(was_training)


def _two_batches(data: Dataset, images: ImageSet, device: torch.device) -> list[Tensor]:
    some = images.subset(torch.arange(2 * range_search.N_IMAGES))
    return list(evaluation.batches(data, some, range_search.N_IMAGES, device))


def _best(network: Network, ranges: Sequence[Ranges], x: Tensor, unrounded: Tensor) -> Ranges:
    """Return the ranges with the least error in the answers to a batch, against the `unrounded` answers, which are
    those with float activations. The first ranges win unless others are clearly better."""
    best, least = ranges[0], math.inf
    for each in ranges:
        set_ranges(network, each)
        error = float((network.run(x, Simulation(network)) - unrounded).double().square().sum())
        if error < CLEARLY * least:
            best, least = each, error
    return best


def set_ranges(network: Network, ranges: Ranges) -> None:
    """Give quantizers their ranges, in place."""
    for key, (low, high) in ranges.items():
        network.quantizers[key].set_range(low, high)  # type: ignore[operator]


def ranges_of(network: Network) -> Ranges:
    """Return the ranges that the quantizers have."""
    found = {key: each for key, each in network.quantizers.items() if isinstance(each, ActivationQuantizer)}
    return {key: (float(each.low), float(each.high)) for key, each in found.items()}


def _ranges(network: Network, seen: Mapping[str, Sample], rule: str, percentile: float) -> Ranges:
    """Return the ranges of one rule by edge. The samples lie on the CPU, wherever the network is."""
    quantizers = {key: copy.deepcopy(network.quantizers[key]).cpu() for key in seen}
    return {
        key: _range(quantizer, seen[key].values, rule, percentile)
        for key, quantizer in quantizers.items()
        if isinstance(quantizer, ActivationQuantizer) and len(seen[key].values)
    }


def _range(quantizer: ActivationQuantizer, values: Tensor, rule: str, percentile: float) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    if rule == "percentile":
        tail = (1 - percentile / 100) / (1 if low >= 0 else 2)
        ordered = values.sort().values
        n_tail = int(tail * len(ordered))
        return float(ordered[n_tail if low < 0 else 0]), float(ordered[len(ordered) - 1 - n_tail])
    if rule == "mse":
        few = values[:: math.ceil(len(values) / MOST_FOR_MSE)]
        factors = [f / 40 for f in range(12, 41)]
        best = min(factors, key=lambda f: _squared_error(quantizer, few, low * f, high * f))
        return low * best, high * best
    return low, high


def _squared_error(quantizer: ActivationQuantizer, values: Tensor, low: float, high: float) -> float:
    quantizer.set_range(low, high)
    return float((quantizer(values) - values).square().sum())
