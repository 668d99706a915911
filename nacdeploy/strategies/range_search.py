"""Ranges of activations chosen tensor by tensor, by what they do to the answers.

A rule for values (percentile, squared error) does not know what a network does with them: behind a SiLU or GELU no
negative value below -8 is told from another, and a peak that a softmax ignores may cost the resolution of all else. So
each tensor is rounded alone, everything else in float. Those that harm the answers most get the ends of their range
moved to where they harm least, and keep that only if other images agree.
"""

from collections.abc import Callable, Mapping, Sequence
from statistics import mean
from typing import Any

from torch import Tensor, fx, nn

from nacdeploy.models.ports import ports_of
from nacdeploy.network.attachments.attachment import Attachment
from nacdeploy.network.attachments.placement import Plan
from nacdeploy.network.captured.graph import call_with
from nacdeploy.network.network import Network, masked_weight, simulated_weight
from nacdeploy.network.semantics import Use

Range = tuple[float, float]
N_IMAGES = 4  # that choose, and as many others that must agree
N_SEARCHED = 24
FACTORS = (0.85, 0.7, 0.55, 0.4, 0.28, 0.2, 0.13, 0.08)  # of one end
CLEARLY = 0.97  # of an error
HOPELESS = 3.0  # times the error: further in the same direction lies nothing better


def _nowhere(key: str, use: Use) -> bool:
    return False


class Alone:
    """A run in float, except where it `rounds` (a quantizer's key, a use) and for one layer in integers: its name, with
    the module and the weight that run in its place."""

    def __init__(
        self,
        network: Network,
        rounds: Callable[[str, Use], bool] = _nowhere,
        layer: tuple[str, nn.Module, Tensor | None] | None = None,
    ) -> None:
        self._network, self._rounds, self._layer = network, rounds, layer

    def edge(self, key: str, x: Tensor, use: Use) -> Tensor:
        return self._network.quantizers[key](x) if self._rounds(key, use) else x

    def attached(self, key: str, module: Attachment, x: Tensor) -> Tensor:
        y: Tensor = module(x)
        return y

    def layer(self, name: str, module: nn.Module, x: Tensor) -> Any:
        if self._layer is not None and name == self._layer[0]:
            return call_with(self._layer[1], x, self._layer[2])
        masked = masked_weight(self._network, name, module) if name in self._network.layers else None
        return call_with(module, x, masked)


class Harms:
    """The noise over signal, the mean of all outputs, that the rounding of one tensor or layer brings into the answers
    to some images (N, ...).

    The values of the float network are kept, so that only what follows the tensor runs again.
    """

    def __init__(self, network: Network, x: Tensor) -> None:
        self._network, self._x, self._values = network, x, dict[str, Any]()
        self._wanted = network.run(x, Alone(network), lambda name, value: self._values.update({name: value}))
        self._readers = _readers(network)

    def of(self, key: str, low: float, high: float) -> float:
        """Return the harm of a tensor with a range; its quantizer keeps the range."""
        self._network.quantizers[key].set_range(low, high)  # type: ignore[operator]
        rounded = Alone(self._network, lambda each, use: each == key)
        return self._harm(rounded, self._readers.get(key, set()))

    def of_layer(self, name: str, whole: Network, plan: Plan) -> float:
        """Return the harm of a layer as it is in the network in integers, with the tensors that a `plan` rounds for its
        sake."""
        uses = {(reader, place) for reader, keys in plan.inputs.items() for place in keys}
        layer = whole.layers[name]
        alone = Alone(self._network, lambda key, use: use in uses, (name, layer, simulated_weight(whole, name, layer)))
        return self._harm(alone, set(plan.inputs))

    def _harm(self, semantics: Alone, first: set[str]) -> float:
        """Return the harm of a run that differs from the float one at some nodes first."""
        after = set(self._values) if self._network.graph is None else _after(self._network.graph, first)
        known = {name: value for name, value in self._values.items() if name not in after}
        found = self._network.run(self._x, semantics, known=known)
        return mean(noises(found, self._wanted, self._network))


def by_answers(network: Network, images: Sequence[Tensor], ranges: Mapping[str, Range]) -> dict[str, Range]:
    """Return `ranges` with those moved that harm the answers most.

    `images` are two batches: the first chooses, the second must agree. The network's quantizers keep what was found.
    """
    chosen = _searched(Harms(network, images[0]), ranges)
    judges = Harms(network, images[1])
    found = dict(ranges)
    for key, (low, high) in chosen.items():
        if judges.of(key, low, high) < CLEARLY * judges.of(key, *ranges[key]):
            found[key] = (low, high)
    for key, (low, high) in found.items():
        network.quantizers[key].set_range(low, high)  # type: ignore[operator]
    return found


def _searched(harms: Harms, ranges: Mapping[str, Range]) -> dict[str, Range]:
    """Return other ranges of the tensors that harm most, where others harm less."""
    before = {key: harms.of(key, *given) for key, given in ranges.items()}
    found = {}
    for key in sorted(before, key=lambda each: before[each], reverse=True)[:N_SEARCHED]:
        best, least = _moved(harms, key, ranges[key], before[key], 0)
        best, least = _moved(harms, key, best, least, 1)
        if best != ranges[key]:
            found[key] = best
    return found


def _moved(harms: Harms, key: str, given: Range, least: float, end: int) -> tuple[Range, float]:
    """Return the range with its low (0) or high (1) end where it harms least, and that harm."""
    best, first = given, least
    if given[end] == 0:
        return best, least
    for factor in FACTORS:
        tried = (given[0] * factor, given[1]) if end == 0 else (given[0], given[1] * factor)
        now = harms.of(key, *tried)
        if now > HOPELESS * first:
            break
        if now < CLEARLY * least:
            best, least = tried, now
    return best, least


def noises(found: Tensor, wanted: Tensor, network: Network) -> list[float]:
    """Return the ratio of noise to signal of each output of a network, for answers (N, K)."""
    ports = ports_of(network.backbone)
    pairs = zip(ports.apart(found), ports.apart(wanted), strict=True) if ports else [(found, wanted)]
    return [float((a - b).double().square().sum() / b.double().square().sum().clamp(min=1e-30)) for a, b in pairs]


def _readers(network: Network) -> dict[str, set[str]]:
    """Return, for every quantizer, the nodes that read through it."""
    readers: dict[str, set[str]] = {}
    for reader, keys in network.plan.inputs.items():
        for key in keys.values():
            readers.setdefault(key, set()).add(reader)
    return readers


def _after(graph: fx.Graph, names: set[str]) -> set[str]:
    """Return nodes and all that follow from them."""
    found = set(names)
    for node in graph.nodes:
        if any(each.name in found for each in node.all_input_nodes):
            found.add(node.name)
    return found
