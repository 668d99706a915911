"""Q: the next rung of the profile's precision ladder, simulated on the target's integer grid."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, Self

from nacdeploy.base.errors import UsageError, nearest
from nacdeploy.base.precision import FLOAT32, Precision
from nacdeploy.network.attachments import placement
from nacdeploy.network.attachments.fake_quant import Rule
from nacdeploy.network.attachments.weight_quantizers import NEIGHBOURS, WEIGHT_QUANTIZERS
from nacdeploy.network.network import Network
from nacdeploy.profile import Profile
from nacdeploy.strategies.chain import Value
from nacdeploy.strategies.operators.base import Recovery, unknown_layer, with_parameters
from nacdeploy.strategies.operators.quantize import equalization
from nacdeploy.strategies.operators.quantize.kept_float import kept_float
from nacdeploy.strategies.operators.quantize.reconstruct import reconstruct
from nacdeploy.strategies.operators.quantize.settings import QuantizeTable
from nacdeploy.strategies.range_search import Range
from nacdeploy.strategies.settle import calibration_batch, unquantized
from nacdeploy.strategies.state import CompressionState
from nacdeploy.task import Task

RUN_WIDE = ("calibration", "percentile", "n_calibration")


@dataclass(frozen=True)
class QuantizeDecision:
    """The rule to apply, the layers and edges of the present network under it, why other modules with weights stay
    float, the share by which channels are equalized first (`equalize`), whether weights are chosen by data
    (`reconstruct`), and the ranges of tensors, if they were found together with the layers."""

    rule: Rule
    layers: tuple[str, ...]
    edges: tuple[str, ...]
    left_out: dict[str, str] = field(default_factory=dict)
    equalized: float | None = None
    reconstructed: bool = False
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Quantize:
    letter: ClassVar[str] = "Q"
    name: ClassVar[str] = "Quantize"
    version: ClassVar[int] = 2
    decision_type: ClassVar[type] = QuantizeDecision
    keeps: ClassVar[Literal["signal"]] = "signal"
    table: QuantizeTable
    bits: str | None = None

    @classmethod
    def configure(cls, profile: Profile, parameters: Mapping[str, Value]) -> Self:
        rest = dict(parameters)
        bits = rest.pop("bits", None)
        precision = None if bits is None else str(Precision.rung(str(bits)))
        return cls(with_parameters(cls.letter, profile.of(QuantizeTable), rest, RUN_WIDE), precision)

    def refusal(self, state: CompressionState) -> str | None:
        now, rung = _precision(state.network), self._next(state.network)
        if rung is None:
            return f"the precision ladder ends at {now}" if self.bits is None else f"{self.bits} is not below {now}"
        self._check_names(state.network)
        plan, before = self._plan(state.network, rung), state.network.plan
        if not plan.weight_bits:
            return (
                f"no layer is left to quantize: none has {self.table.min_channels} input and output channels "
                "(quantize.min_channels) and may be (quantize.exclude)"
            )
        is_same = (plan.weight_bits, plan.activation_bits) == (before.weight_bits, before.activation_bits)
        if is_same and state.network.rule and state.network.rule.weights == self.table.weights:
            return f"every layer has the bits that it would get with {rung} already"
        return None

    def decide(self, state: CompressionState, task: Task) -> QuantizeDecision:
        network, rung = state.network, self._next(state.network) or FLOAT32
        rule, left_out = self._rule(rung), network.left_out()
        share, ranges = equalization.share_of(network, rule, self.table, task), dict[str, Range]()
        if self.table.min_snr_db is not None or self.table.max_drop is not None:
            prepared = self._equalized(network, rule, share, task)
            control = kept_float(prepared, rule, self.table, task)
            rule = replace(rule, exclude=(*rule.exclude, *control.floats))
            left_out |= {name: str(kept) for name, kept in control.floats.items()}
            ranges = dict(control.ranges)
        plan = placement.plan(network.graph, network.backbone, network.layers, rule, network.grid)
        layers, edges = tuple(plan.weight_bits), tuple(plan.kinds)
        return QuantizeDecision(rule, layers, edges, left_out, share, self.table.reconstruct, ranges)

    def perform(self, network: Network, decision: QuantizeDecision) -> Network:
        quantized = copy.deepcopy(network)
        quantized.quantize(decision.rule)
        return quantized

    def refit(self, network: Network, former: Network, decision: QuantizeDecision, task: Task) -> None:
        """Equalize channels and choose weights by data, if that was decided."""
        if decision.equalized is not None:
            equalization.apply(network, decision.equalized, task)
        if decision.reconstructed:
            reconstruct(network, calibration_batch(task))

    def ranges(self, decision: QuantizeDecision) -> Mapping[str, Range]:
        """See `Calibrates`."""
        return decision.ranges

    def misfit(self, network: Network, decision: QuantizeDecision) -> str | None:
        """See `Fits`."""
        rule = decision.rule
        if rule.weights not in WEIGHT_QUANTIZERS:
            return f"its weights '{rule.weights[:40]}' are not known"
        try:
            for text in (str(rule.precision), *rule.layer_bits.values()):
                Precision.rung(text)
        except UsageError as error:
            return str(error)
        return unknown_layer(decision.layers, network)

    def recovery(self, profile: Profile) -> Recovery | None:
        return None

    def explain(self, decision: QuantizeDecision) -> str:
        rule, own = decision.rule, [name for name in decision.layers if name in decision.rule.layer_bits]
        text = f"{len(decision.layers)} layers to {rule.precision_of('')}, {len(decision.edges)} tensors with a scale"
        text += f"; {rule.weights} weights" if rule.weights not in NEIGHBOURS else ""
        text += f"; {', '.join(f'{name} {rule.precision_of(name)}' for name in own)}" if own else ""
        text += f"; channels equalized by {decision.equalized:g}" if decision.equalized is not None else ""
        text += "; weights chosen by data" if decision.reconstructed else ""
        floats = ", ".join(f"{name} ({why})" for name, why in decision.left_out.items())
        return f"{text}; float: {floats}" if floats else text

    def _equalized(self, network: Network, rule: Rule, share: float | None, task: Task) -> Network:
        """Return the float network as it will be."""
        if share is None:
            return network
        made = copy.deepcopy(network)
        made.quantize(rule)
        equalization.apply(made, share, task)
        return unquantized(made)

    def _next(self, network: Network) -> Precision | None:
        now = _precision(network)
        rungs = [Precision.parse(text) for text in ((self.bits,) if self.bits else self.table.ladder)]
        return next((rung for rung in rungs if rung < now), None)

    def _rule(self, precision: Precision) -> Rule:
        table = self.table
        own = (table.exclude, table.min_channels, table.layer_bits, table.weights)
        return Rule(precision, *own, integers_between=True, every_convolution=True)

    def _check_names(self, network: Network) -> None:
        """Refuse a table with a name that is no layer.

        Raises:
            UsageError: names the nearest layer.
        """
        layers = network.layers
        for name in self.table.layer_bits:
            if name not in layers and f"{name}.0" not in layers:
                raise UsageError(f"quantize.layer_bits: no layer is named '{name}'{nearest(name, layers)}")

    def _plan(self, network: Network, precision: Precision) -> placement.Plan:
        return placement.plan(network.graph, network.backbone, network.layers, self._rule(precision), network.grid)


def _precision(network: Network) -> Precision:
    return network.rule.precision if network.rule else FLOAT32
