"""S: zeros in the weights, by magnitude: 2:4 for sparse tensor cores, or elements, kernels or filters for storage.

The decision holds the rule and the order of the channels; the masks follow from the weights. Masks are attached beside
the backbone, stay through F and Q, and follow a cut: 2:4 masks are then chosen anew, other masks are cut with their
weights.
"""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from nacdeploy.base.errors import UsageError, nearest
from nacdeploy.network.attachments.sparsity import TWO_FOUR, Sparsity, kept_fraction
from nacdeploy.network.network import Network
from nacdeploy.profile import Profile
from nacdeploy.strategies.chain import Value
from nacdeploy.strategies.operators.base import Recovery, decisions, listed, unknown_layer, with_parameters
from nacdeploy.strategies.operators.sparsify.settings import SparsifyTable
from nacdeploy.strategies.state import CompressionState
from nacdeploy.surgery.channels import channel_pruning
from nacdeploy.surgery.channels.channel_permutation import plan_permutation
from nacdeploy.surgery.channels.channel_pruning import Cut
from nacdeploy.task import Task

PATTERNS, ROUNDINGS, NORMS = (TWO_FOUR, "element", "kernel", "filter"), ("floor", "ceil"), ("l1", "l2")


@dataclass(frozen=True)
class SparsifyDecision:
    """The rule, the masked layers and why others stay dense, the order of the channels, and the kept share of
    magnitude.

    The share is that of the mean layer, with that order and without.
    """

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
        table = with_parameters(cls.letter, profile.of(SparsifyTable), parameters)
        given = [key for key, is_given in _own_shares(table, parameters).items() if is_given]
        if table.pattern == TWO_FOUR and given:
            raise UsageError(f"2:4 is always one half: '{given[0]}' is for S(pattern=element), kernel or filter")
        return cls(table)

    def refusal(self, state: CompressionState) -> str | None:
        rule = self._rule(state)
        self._check_names(state.network)
        dense = _dense(state.network, rule)
        if reason := _sparse_already(state.network, rule, dense):
            return reason
        if len(dense) == len(state.network.layers):
            return f"no layer takes {_patterns(rule, dense)}{': ' if dense else ''}{listed(dense)}"
        return None

    def decide(self, state: CompressionState, task: Task) -> SparsifyDecision:
        rule = self._rule(state)
        dense = _dense(state.network, rule)
        layers = tuple(name for name in state.network.layers if name not in dense)
        permute = self.table.permute and rule.pattern == TWO_FOUR
        before = _kept_fraction(_sparsified(state.network, Cut(), rule))
        cut = plan_permutation(state.network, rule) if permute else Cut()
        after = _kept_fraction(_sparsified(state.network, cut, rule))
        if after <= before:
            cut, after = Cut(), before
        return SparsifyDecision(rule, layers, dense, cut, after, before)

    def perform(self, network: Network, decision: SparsifyDecision) -> Network:
        return _sparsified(network, decision.permutation, decision.rule)

    def misfit(self, network: Network, decision: SparsifyDecision) -> str | None:
        """See `Fits`."""
        rule = decision.rule
        named = (*decision.layers, *rule.ratios, *rule.patterns)
        patterns, shares = {rule.pattern, *rule.patterns.values()}, (rule.ratio, *rule.ratios.values())
        if strange := patterns - set(PATTERNS):
            return f"its pattern '{min(strange)[:40]}' is not known"
        if (
            not all(0 <= share < 1 for share in shares)
            or rule.rounding not in ROUNDINGS
            or rule.importance not in NORMS
        ):
            return "its shares, rounding or importance are none"
        return unknown_layer(named, network) or channel_pruning.misfit(network, decision.permutation)

    def recovery(self, profile: Profile) -> Recovery | None:
        return None

    def explain(self, decision: SparsifyDecision) -> str:
        kept = _percent(decision.kept_fraction)
        text = f"{_by_pattern(decision.rule, decision.layers)}, {kept} of their magnitude kept"
        if decision.permutation.slices:
            text += f" ({_percent(decision.unpermuted_kept_fraction)} without another order of the channels)"
        return f"{text}; dense: {listed(decision.dense)}" if decision.dense else text

    def _rule(self, state: CompressionState) -> Sparsity:
        """Return the rule of this S; from a list of shares, the share at its place among the S's of the chain."""
        table, stage = self.table, len(decisions(state, SparsifyDecision))
        return Sparsity(
            table.pattern,
            0.5 if table.pattern == TWO_FOUR else _at(table.ratio, stage),
            table.exclude,
            table.min_channels,
            {name: _at(shares, stage) for name, shares in table.ratios.items()},
            table.patterns,
            table.importance,
            table.rounding,
            every_convolution=True,
        )

    def _check_names(self, network: Network) -> None:
        """Refuse a table with a name that is no layer.

        Raises:
            UsageError: names the nearest layer.
        """
        layers = network.layers
        for key in ("ratios", "patterns"):
            for name in getattr(self.table, key):
                if name not in layers:
                    raise UsageError(f"sparsify.{key}: no layer is named '{name}'{nearest(name, layers)}")


def _own_shares(table: SparsifyTable, parameters: Mapping[str, Value]) -> dict[str, bool]:
    """Return the settings that decide a layer's sparsity, and whether each was given."""
    return {"ratio": "ratio" in parameters, "ratios": bool(table.ratios), "patterns": bool(table.patterns)}


def _sparse_already(network: Network, rule: Sparsity, dense: Mapping[str, str]) -> str | None:
    """Return why a rule cannot continue from the present masks, or None if it can."""
    now = network.sparsity
    if now is None:
        return None
    for pair in ((now.pattern_of(name), rule.pattern_of(name)) for name in network.masks.layers):
        if pair[0] != pair[1]:
            return f"the network is sparse by {pair[0]} already, and {pair[1]} would take its place"
    covered = [name for name in network.layers if name not in dense]
    if all(rule.share(name) <= now.share(name) for name in covered):
        masked = network.masks.layers
        return f"the network is sparse by {_patterns(now, masked)} already, with a share of {_shares(now, masked)}"
    return None


def _dense(network: Network, rule: Sparsity) -> dict[str, str]:
    """Return the layers that a rule leaves dense, and why."""
    reasons = {name: rule.why_dense(name, layer) for name, layer in network.layers.items()}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def _at(shares: float | tuple[float, ...], stage: int) -> float:
    return shares[min(stage, len(shares) - 1)] if isinstance(shares, tuple) else shares


def _patterns(rule: Sparsity, layers: Iterable[str]) -> str:
    """Name the patterns of a rule for some layers."""
    return " and ".join(dict.fromkeys(rule.pattern_of(name) for name in layers)) or rule.pattern


def _by_pattern(rule: Sparsity, layers: Iterable[str]) -> str:
    """Count the layers that a rule masks by each of its patterns, with their shares."""
    found: dict[str, list[str]] = {}
    for name in layers:
        found.setdefault(rule.pattern_of(name), []).append(name)
    said = []
    for pattern, names in found.items():
        share = "" if pattern == TWO_FOUR else f" (share {_shares(rule, names)})"
        said.append(f"{pattern}{share} in {len(names)} layer{'' if len(names) == 1 else 's'}")
    return " and ".join(said)


def _shares(rule: Sparsity, layers: Iterable[str]) -> str:
    """Print the share of a rule for some layers, or the range from the least to the largest."""
    shares = [rule.share(name) for name in layers] or [rule.ratio]
    least, most = min(shares), max(shares)
    return f"{least:g}" if least == most else f"{least:g} to {most:g}"


def _sparsified(network: Network, permutation: Cut, rule: Sparsity) -> Network:
    sparse = copy.deepcopy(network)
    if permutation.slices:
        channel_pruning.apply_cut(sparse, permutation)
    sparse.sparsify(rule)
    return sparse


def _kept_fraction(network: Network) -> float:
    """Return the share of magnitude that the mean masked layer keeps."""
    layers = {name: network.backbone.get_submodule(name) for name in network.masks.layers}
    kept = [kept_fraction(layer.weight, network.masks.get(name)) for name, layer in layers.items()]  # type: ignore[arg-type]
    return sum(kept) / len(kept)


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"
