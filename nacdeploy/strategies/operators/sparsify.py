"""S: zeros in the weights, by magnitude: 2:4 for sparse tensor cores, or elements, kernels or filters for storage.

The decision holds the rule and the order of the channels; the masks follow from the weights. They are attached beside
the backbone, stay through F and Q, and follow a cut: 2:4 is chosen anew then, the others are cut with their weights.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from nacdeploy.errors import UsageError
from nacdeploy.layers import channel_pruning
from nacdeploy.layers.channel_permutation import plan_permutation
from nacdeploy.layers.channel_pruning import Cut
from nacdeploy.layers.network import Network
from nacdeploy.layers.sparsity import TWO_FOUR, Sparsity, kept_fraction, weighted_layers
from nacdeploy.profile import Profile, SparsifyTable
from nacdeploy.strategies.chain import Value
from nacdeploy.strategies.operators.base import Recovery, with_parameters
from nacdeploy.strategies.state import CompressionState
from nacdeploy.task import Task

N_NAMED = 3


@dataclass(frozen=True)
class SparsifyDecision:
    """The rule, the layers that it masks and why the others stay dense, the order of the channels, and the share of
    magnitude that the mean layer keeps, with that order and without."""

    rule: Sparsity
    layers: tuple[str, ...]
    dense: dict[str, str]
    permutation: Cut
    kept_fraction: float
    unpermuted_kept_fraction: float


@dataclass(frozen=True)
class Sparsify:
    letter: ClassVar[str] = "S"
    name: ClassVar[str] = "Sparsify"
    version: ClassVar[int] = 1
    decision_type: ClassVar[type] = SparsifyDecision
    table: SparsifyTable

    @classmethod
    def configure(cls, profile: Profile, parameters: Mapping[str, Value]) -> Self:
        table = with_parameters(cls.letter, profile.sparsify, parameters)
        if table.pattern == TWO_FOUR and "ratio" in parameters:
            raise UsageError("2:4 is always one half: 'ratio' is for S(pattern=element), kernel or filter")
        return cls(table)

    def refusal(self, state: CompressionState) -> str | None:
        now, rule = state.network.sparsity, self._rule
        if now is not None and now.pattern != rule.pattern:
            return f"the network is sparse by {now.pattern} already, and {rule.pattern} would take its place"
        if now is not None and rule.ratio <= now.ratio:
            return f"the network is sparse by {now.pattern} already, with a share of {now.ratio:g}"
        dense = self._dense(state.network)
        if len(dense) == len(weighted_layers(state.network.backbone)):
            return f"no layer takes {rule.pattern}{': ' if dense else ''}{_listed(dense)}"
        return None

    def decide(self, state: CompressionState, task: Task) -> SparsifyDecision:
        dense = self._dense(state.network)
        layers = tuple(name for name in weighted_layers(state.network.backbone) if name not in dense)
        permute = self.table.permute and self._rule.pattern == TWO_FOUR
        before = _kept_fraction(_sparsified(state.network, Cut(), self._rule))
        cut = plan_permutation(state.network, self._rule) if permute else Cut()
        after = _kept_fraction(_sparsified(state.network, cut, self._rule))
        if after <= before:
            cut, after = Cut(), before
        return SparsifyDecision(self._rule, layers, dense, cut, after, before)

    def perform(self, network: Network, decision: SparsifyDecision) -> Network:
        return _sparsified(network, decision.permutation, decision.rule)

    def recovery(self, profile: Profile) -> Recovery | None:
        return None

    def explain(self, decision: SparsifyDecision) -> str:
        rule, kept = decision.rule, _percent(decision.kept_fraction)
        share = "" if rule.pattern == TWO_FOUR else f" (share {rule.ratio:g})"
        text = f"{rule.pattern}{share} in {len(decision.layers)} layers, {kept} of their magnitude kept"
        if decision.permutation.slices:
            text += f" ({_percent(decision.unpermuted_kept_fraction)} without another order of the channels)"
        return f"{text}; dense: {_listed(decision.dense)}" if decision.dense else text

    @property
    def _rule(self) -> Sparsity:
        ratio = 0.5 if self.table.pattern == TWO_FOUR else self.table.ratio
        return Sparsity(self.table.pattern, ratio, self.table.exclude, self.table.min_channels)

    def _dense(self, network: Network) -> dict[str, str]:
        reasons = {n: self._rule.why_dense(n, layer) for n, layer in weighted_layers(network.backbone).items()}
        return {name: reason for name, reason in reasons.items() if reason is not None}


def _sparsified(network: Network, permutation: Cut, rule: Sparsity) -> Network:
    sparse = copy.deepcopy(network)
    if permutation.slices:
        channel_pruning.apply_cut(sparse, permutation)
    sparse.sparsify(rule)
    return sparse


def _kept_fraction(network: Network) -> float:
    """The share of magnitude that the mean masked layer keeps."""
    layers = {name: network.backbone.get_submodule(name) for name in network.masks.layers}
    kept = [kept_fraction(layer.weight, network.masks.get(name)) for name, layer in layers.items()]  # type: ignore[arg-type]
    return sum(kept) / len(kept)


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"


def _listed(dense: Mapping[str, str]) -> str:
    """The layers that stay dense by reason, of many the first ones."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in dense.items():
        by_reason.setdefault(reason, []).append(name)
    return ", ".join(f"{_first(names)} ({reason})" for reason, names in by_reason.items())


def _first(names: list[str]) -> str:
    more = f" and {len(names) - N_NAMED} more" if len(names) > N_NAMED else ""
    return f"{', '.join(names[:N_NAMED])}{more}"
