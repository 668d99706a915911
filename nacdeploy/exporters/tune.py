"""Precision by measured time: which layers stay on integers is decided by timing graphs on the target that is present.

Integers do not pay everywhere (depthwise and narrow layers, what stands between quantize and dequantize). The search
is greedy: the best of a few whole rules, then one layer group after the other, each flip timed in turns against the
best so far and kept only where it is faster beyond its interval. Every measurement is written down, so that a tuning
that was stopped goes on.
"""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

from torch import nn

from nacdeploy.base import records
from nacdeploy.base.latency import Ratio
from nacdeploy.base.precision import Precision
from nacdeploy.exporters.onnx_graph.trace import Traced, lower
from nacdeploy.exporters.targets.timing import Timer
from nacdeploy.network.attachments import placement
from nacdeploy.network.attachments.fake_quant import Rule
from nacdeploy.network.attachments.placement import PRODUCTS
from nacdeploy.network.network import Network

Names = frozenset[str]
FLOAT: Final = "float"
INTEGER: Final = "int8"
Held = Literal["int8", "float"]
NARROW = 16


@dataclass(frozen=True)
class Precisions:
    """precision.json: the precision that each layer group member got by measurement ("int8", "float"), its kind, and
    where it was measured. `speed` is the ratio to the same network in float."""

    target: str
    machine: str
    layers: dict[str, Held]
    kinds: dict[str, str]
    speed: Ratio
    n_timed: int


@dataclass
class Measurements:
    """Ratios that were measured before, by the pair of choices they compare; kept in a file where there is one."""

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
    """Finds the layers of one traced network that are better off in float."""

    network: Network
    traced: Traced
    timer: Timer
    measured: Measurements = field(default_factory=Measurements)
    report: Callable[[str], None] = lambda line: None

    def speed(self, floats: Names) -> Ratio:
        """How many times faster than all in float the network is with `floats` in float, measured."""
        return self._ratio(floats, self.members)

    def tuned(self) -> Names:
        """The members that are to be float for the network to be fastest; all of them where integers never pay."""
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
        """The record of a choice."""
        layers: dict[str, Held] = {name: FLOAT if name in floats else INTEGER for name in sorted(self.members)}
        return Precisions(target, machine, layers, self._kinds(), self.speed(floats), len(self.measured.ratios))

    def _kinds(self) -> dict[str, str]:
        return member_kinds(self.network)

    def _rules(self) -> list[Names]:
        """Whole rules to begin with: all integers, all float, and one kind of layer in float at a time."""
        kinds = self._kinds()
        by_kind = [frozenset(name for name in kinds if kinds[name] == kind) for kind in sorted(set(kinds.values()))]
        narrow = frozenset(n for n in self.network.plan.weight_bits if _width(self.network, n) < NARROW)
        return list(dict.fromkeys([frozenset(), *by_kind, narrow, self.members]))

    def _groups(self) -> Iterable[Names]:
        """The members by the module that they lie in, in order of execution."""
        groups: dict[str, set[str]] = {}
        for name in self._kinds():
            groups.setdefault(name.rpartition(".")[0] or name, set()).add(name)
        return [frozenset(group) for group in groups.values()]

    def _ratio(self, floats: Names, reference: Names) -> Ratio:
        """The time with `reference` in float over that with `floats` in float."""
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
    """A copy of a quantized network with some of its layers or products in float, itself where there are none; ranges
    stay where edges stay."""
    if not (excluded := tuple(sorted(names))) or network.rule is None:
        return network
    changed = copy.deepcopy(network)
    changed.quantize(replace(network.rule, exclude=(*network.rule.exclude, *excluded)))
    return changed


def member_kinds(network: Network) -> dict[str, str]:
    """The kind of every layer and product that is quantized (without a rule: that could be), in order of execution:
    "conv", "pointwise", "depthwise", "linear", "product"."""
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
    if not isinstance(layer, nn.Conv2d):
        return "linear"
    if layer.groups > 1:
        return "depthwise"
    return "pointwise" if layer.kernel_size == (1, 1) else "conv"


def _width(network: Network, name: str) -> int:
    weight = network.backbone.get_submodule(name).weight
    return min(weight.shape[:2])  # type: ignore[index]


def _key(names: Names) -> str:
    return records.sha256_data(sorted(names))[:16]


def _named(group: Names) -> str:
    first, *others = sorted(group)
    return first if not others else f"{first} and {len(others)} more"
