"""Precision by measured time: timing graphs on the target that is present decides which layers stay on integers.

Integers do not pay everywhere (depthwise and narrow layers, operators between quantize and dequantize). The search is
greedy: the best of a few whole rules, then one layer group after the other, each flip timed in turns against the best
so far and kept only if it is faster beyond its interval. Every measurement is written down, so that an interrupted
tuning resumes.
"""

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

from torch import nn

from nacdeploy.base import records
from nacdeploy.base.latency import Ratio
from nacdeploy.base.precision import Precision
from nacdeploy.base.progress import Say, nobody
from nacdeploy.exporters.onnx_graph.trace import Traced, lower
from nacdeploy.exporters.targets.timing import Timer
from nacdeploy.network.attachments import placement
from nacdeploy.network.attachments.fake_quant import Rule
from nacdeploy.network.attachments.placement import PRODUCTS
from nacdeploy.network.captured.graph import CONVOLVING
from nacdeploy.network.network import Network

Names = frozenset[str]
FLOAT: Final = "float"
INTEGER: Final = "int8"
Held = Literal["int8", "float"]
NARROW = 16


@dataclass(frozen=True)
class Precisions:
    """precision.json: the measured precision of each member of a layer group.

    Attributes:
        target: the target that was timed.
        machine: the machine of the measurement.
        layers: the precision of each member ("int8", "float").
        kinds: the kind of each member.
        speed: the ratio to the same network in float.
        n_timed: the number of timed choices.
    """

    target: str
    machine: str
    layers: dict[str, Held]
    kinds: dict[str, str]
    speed: Ratio
    n_timed: int


@dataclass
class Measurements:
    """Earlier ratios, by the pair of choices that they compare; kept in a file if one is given."""

    path: Path | None = None
    ratios: dict[str, Ratio] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.path is not None and self.path.is_file():
            self.ratios = records.read(dict[str, Ratio], self.path)

    def keep(self, key: str, ratio: Ratio) -> None:
        self.ratios[key] = ratio
        if self.path is not None:
            records.write_json(self.path, {name: records.to_data(each) for name, each in self.ratios.items()})


@dataclass
class Tuner:
    """Finds the layers of one traced network that are faster in float."""

    network: Network
    traced: Traced
    timer: Timer
    measured: Measurements = field(default_factory=Measurements)
    report: Say = nobody

    def speed(self, floats: Names) -> Ratio:
        """Measure how many times faster the network with `floats` in float is than the network all in float."""
        return self._ratio(floats, self.members)

    def tuned(self) -> Names:
        """Return the members that must be float for the network to be fastest: all members if integers never pay."""
        best = max(self._rules(), key=lambda floats: self.speed(floats).value)
        for group in self._groups():
            flipped = best - group if group <= best else best | group
            ratio = self._ratio(flipped, best)
            if ratio.low > 1:
                self.report(f"{_named(group)} in {FLOAT if group <= flipped else INTEGER}: {ratio.value:.3f}x faster")
                best = flipped
        return best if self.speed(best).value >= 1 else self.members

    @property
    def members(self) -> Names:
        """Everything that can be float or not: the quantized layers, and the products of two tensors by their node."""
        return frozenset(self._kinds())

    def precisions(self, floats: Names, target: str, machine: str) -> Precisions:
        """Return the record of a choice."""
        layers: dict[str, Held] = {name: FLOAT if name in floats else INTEGER for name in sorted(self.members)}
        return Precisions(target, machine, layers, self._kinds(), self.speed(floats), len(self.measured.ratios))

    def _kinds(self) -> dict[str, str]:
        return member_kinds(self.network)

    def _rules(self) -> list[Names]:
        """Return whole rules to begin with: all integers, all float, and one kind of layer in float at a time."""
        kinds = self._kinds()
        by_kind = [frozenset(name for name in kinds if kinds[name] == kind) for kind in sorted(set(kinds.values()))]
        narrow = frozenset(n for n in self.network.plan.weight_bits if _width(self.network, n) < NARROW)
        return list(dict.fromkeys([frozenset(), *by_kind, narrow, self.members]))

    def _groups(self) -> Iterable[Names]:
        """Group the members by the module around them, in order of execution."""
        groups: dict[str, set[str]] = {}
        for name in self._kinds():
            groups.setdefault(name.rpartition(".")[0] or name, set()).add(name)
        return [frozenset(group) for group in groups.values()]

    def _ratio(self, floats: Names, reference: Names) -> Ratio:
        """Return the time with `reference` in float over the time with `floats` in float."""
        if floats == reference:
            return Ratio(1.0, 1.0, 1.0)
        key = f"{_key(floats)}/{_key(reference)}"
        if key not in self.measured.ratios:
            graphs = {
                name: lower(self.traced, with_float(self.network, f)).model
                for name, f in (("now", floats), ("reference", reference))
            }
            self.measured.keep(key, self.timer(graphs, "reference").ratios["now"])
        return self.measured.ratios[key]


def with_float(network: Network, names: Iterable[str]) -> Network:
    """Return a copy of a quantized network with some of its layers or products in float; remaining edges keep their
    ranges.

    Without such layers, the network itself is returned.
    """
    if not (excluded := tuple(sorted(names))) or network.rule is None:
        return network
    changed = copy.deepcopy(network)
    changed.quantize(replace(network.rule, exclude=(*network.rule.exclude, *excluded)))
    return changed


def member_kinds(network: Network) -> dict[str, str]:
    """Return the kind of every quantized layer and product (without a rule: of all), in order of execution.

    The kinds are "conv", "pointwise", "depthwise", "linear" and "product".
    """
    plan = network.plan
    if network.rule is None:
        plan = placement.plan(network.graph, network.backbone, network.layers, Rule(Precision(8, 8)), network.grid)
    if network.graph is None:
        return {name: _kind(network.backbone.get_submodule(name)) for name in plan.weight_bits}
    kinds = {}
    for node in network.graph.nodes:
        if node.op == "call_module" and node.target in plan.weight_bits:
            kinds[str(node.target)] = _kind(network.backbone.get_submodule(str(node.target)))
        elif placement.kind_of_node(node, network.backbone) in PRODUCTS and node.name in plan.inputs:
            kinds[node.name] = "product"
    return kinds


def _kind(layer: nn.Module) -> str:
    if not isinstance(layer, CONVOLVING):
        return "linear"
    if layer.groups > 1:
        return "depthwise"
    return "pointwise" if max(layer.kernel_size) == 1 else "conv"


def _width(network: Network, name: str) -> int:
    weight = network.backbone.get_submodule(name).weight
    return min(weight.shape[:2])  # type: ignore[index]


def _key(names: Names) -> str:
    return records.sha256_data(sorted(names))[:16]


def _named(group: Names) -> str:
    first, *others = sorted(group)
    return first if not others else f"{first} and {len(others)} more"
