"""Sensitivity: what each layer loses when it alone is pruned, sparsified, quantized or decomposed, without training.

A probe is one letter on the untouched network with every other layer left alone, settled and measured on validation
like any other step (the per-layer analysis of Han et al., 2015, section 3, and Li et al., 2017, section 3.2).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from nacdeploy import profile as profiles
from nacdeploy.base.errors import RefusedError, UsageError, unknown
from nacdeploy.metrics import DEFAULT, drop, scored
from nacdeploy.network.network import Network
from nacdeploy.profile import Profile
from nacdeploy.strategies.chain import Link
from nacdeploy.strategies.operators.quantize.settings import QuantizeTable
from nacdeploy.strategies.state import CompressionState
from nacdeploy.strategies.steps.advance import advance
from nacdeploy.surgery.channels import channel_groups
from nacdeploy.task import Task


@dataclass(frozen=True)
class Probe:
    """One layer, one technique, one strength: a ratio such as `0.5`, or a precision such as `w8a8`."""

    layer: str
    technique: str
    setting: str


@scored
@dataclass(frozen=True)
class Sensitivity:
    """What a probe found: the score on validation, what was lost of it and ratios gained; or why it is refused."""

    layer: str
    technique: str
    setting: str
    score: float | None = None
    drop: float | None = None
    bitops_ratio: float | None = None
    bytes_ratio: float | None = None
    refused: str = ""
    metric: str = DEFAULT

    @property
    def probe(self) -> Probe:
        return Probe(self.layer, self.technique, self.setting)


def _pruned(layer: str, ratio: str, others: list[str]) -> dict[str, Any]:
    return {"prune": {"ratios": {layer: float(ratio)}, "multiple": 1}}


def _sparsified(layer: str, ratio: str, others: list[str]) -> dict[str, Any]:
    table = {"pattern": "element", "ratio": float(ratio), "exclude": others, "min_channels": 1}
    return {"sparsify": {**table, "ratios": {}, "patterns": {}}}  # those of the profile go before the share tried here


def _quantized(layer: str, rung: str, others: list[str]) -> dict[str, Any]:
    return {"quantize": {"ladder": [rung], "layer_bits": {}, "exclude": others, "min_channels": 1}}


def _decomposed(layer: str, ratio: str, others: list[str]) -> dict[str, Any]:
    table = {"rank": "ratio", "ratio": float(ratio), "exclude": others, "multiple": 1}
    return {"decompose": {**table, "ranks": {}, "config": ""}}


@dataclass(frozen=True)
class _Technique:
    """The letter of a technique, and the profile that lets it act on one layer alone."""

    letter: str
    alone: Callable[[str, str, list[str]], dict[str, Any]]


_TECHNIQUES = {
    "prune": _Technique("P", _pruned),
    "sparsify": _Technique("S", _sparsified),
    "quantize": _Technique("Q", _quantized),
    "decompose": _Technique("D", _decomposed),
}
TECHNIQUES = tuple(_TECHNIQUES)


def probes(
    network: Network, profile: Profile, techniques: Iterable[str], ratios: Sequence[float], layers: Sequence[str] = ()
) -> Iterator[Probe]:
    """All probes, layer by layer, mild ones first; of coupled layers the root alone is pruned.

    Raises:
        UsageError: an unknown technique or layer (nearest named), or a ratio outside (0, 1).
    """
    known = list(network.layers)
    for layer in layers:
        if layer not in known:
            raise unknown("layer", layer, known)
    if not all(0 < ratio < 1 for ratio in ratios):
        raise UsageError("a ratio lies between 0 and 1, both excluded, such as 0.25,0.5,0.75")
    for technique in techniques:
        if technique not in _TECHNIQUES:
            raise unknown("technique", technique, TECHNIQUES)
        rising = sorted(ratios, reverse=technique == "decompose")  # whose ratio is what is left
        settings = profile.of(QuantizeTable).ladder if technique == "quantize" else tuple(f"{r:g}" for r in rising)
        where = [g.root for g in channel_groups.groups(network)] if technique == "prune" else known
        for layer in where:
            if not layers or layer in layers:
                yield from (Probe(layer, technique, setting) for setting in settings)


def found_by(probe: Probe, state: CompressionState, task: Task, profile: Profile) -> Sensitivity:
    """Apply one probe to `state`, which is not changed."""
    technique = _TECHNIQUES[probe.technique]
    others = [name for name in state.network.layers if name != probe.layer]
    alone = profiles.override(profile, technique.alone(probe.layer, probe.setting, others))
    identity = (probe.layer, probe.technique, probe.setting)
    try:
        after = advance(state, Link(technique.letter), task, alone)
    except RefusedError as error:
        return Sensitivity(*identity, refused=str(error), metric=task.metric.name)
    now, before = after.metrics, state.metrics
    return Sensitivity(
        *identity,
        score=now.score,
        drop=drop(task.metric, before.score, now.score),
        bitops_ratio=before.cost.bitops / now.cost.bitops,
        bytes_ratio=before.cost.memory_bits / now.cost.memory_bits,
        metric=task.metric.name,
    )


def strongest(found: Sequence[Sensitivity], technique: str, max_drop: float) -> dict[str, str]:
    """By layer, the strongest setting up to which nothing lost more than `max_drop`, in the metric's own unit; layers
    without one are left out. `found` holds mild settings first."""
    best: dict[str, str] = {}
    lost: set[str] = set()
    for row in found:
        if row.technique != technique or row.drop is None or row.layer in lost:
            continue
        if row.drop <= max_drop:
            best[row.layer] = row.setting
        else:
            lost.add(row.layer)
    return best
