"""D: low-rank factors in place of layers, if that takes fewer MACs.

One D takes all layers apart, or the next `layers_per_step` in a round (MUSCO's multi-stage compression, Gusak et al.,
2019). A layer of factors is decomposed again from their product, starting at its present ranks.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Self

from torch import Tensor, nn

from nacdeploy.base.errors import UsageError, nearest
from nacdeploy.network.network import Network
from nacdeploy.profile import Profile
from nacdeploy.strategies.chain import Value
from nacdeploy.strategies.operators.base import Recovery, decisions, listed, unknown_layer, with_parameters
from nacdeploy.strategies.operators.decompose import layer_settings, musco
from nacdeploy.strategies.operators.decompose.layer_settings import LayerSetting
from nacdeploy.strategies.operators.decompose.settings import DecomposeTable
from nacdeploy.strategies.state import CompressionState
from nacdeploy.surgery.low_rank import decomposition, low_rank, ranks
from nacdeploy.surgery.low_rank.decomposition import Places
from nacdeploy.surgery.low_rank.ranks import Ranks
from nacdeploy.task import Task


@dataclass(frozen=True)
class Factored:
    """The decomposition of one layer, and its MACs for one image before and after."""

    format: str
    ranks: tuple[int, ...]
    macs_before: int
    macs: int


@dataclass(frozen=True)
class DecomposeDecision:
    """The layers to take apart, why other layers of this step stay, and the layer at which the next D of a round
    begins."""

    layers: dict[str, Factored]
    whole: dict[str, str] = field(default_factory=dict)
    following: str = ""


@dataclass(frozen=True)
class Decompose:
    letter: ClassVar[str] = "D"
    name: ClassVar[str] = "Decompose"
    version: ClassVar[int] = 2
    decision_type: ClassVar[type] = DecomposeDecision
    table: DecomposeTable

    @classmethod
    def configure(cls, profile: Profile, parameters: Mapping[str, Value]) -> Self:
        table = with_parameters(cls.letter, profile.of(DecomposeTable), {**_implied(parameters), **parameters})
        if table.multiple == "target":
            table = table.model_copy(update={"multiple": profile.target.multiple()})
        return cls(table)

    def refusal(self, state: CompressionState) -> str | None:
        whole: dict[str, str] = {}
        for name, found in self._walk(state):
            if isinstance(found, Factored):
                return None
            whole[name] = found
        return f"no layer can be decomposed{': ' if whole else ''}{listed(whole)}"

    def decide(self, state: CompressionState, task: Task) -> DecomposeDecision:
        chosen: dict[str, Factored] = {}
        whole: dict[str, str] = {}
        for name, found in self._walk(state):
            if len(chosen) == (self.table.layers_per_step or -1):
                return DecomposeDecision(chosen, whole, name)
            if isinstance(found, Factored):
                chosen[name] = found
            else:
                whole[name] = found
        return DecomposeDecision(chosen, whole)

    def perform(self, network: Network, decision: DecomposeDecision) -> Network:
        smaller = copy.deepcopy(network)
        decomposition.replace(smaller, {name: (found.format, found.ranks) for name, found in decision.layers.items()})
        return smaller

    def misfit(self, network: Network, decision: DecomposeDecision) -> str | None:
        """See `Fits`; the code that makes the factors checks the ranks."""
        modules = dict(network.backbone.named_modules())
        for name, found in decision.layers.items():
            if found.format not in ranks.FORMATS:
                return f"its format '{found.format[:40]}' is not known"
            if not isinstance(modules.get(name), nn.Conv2d | nn.Linear | nn.Sequential):
                return unknown_layer([name], network) or f"'{name[:80]}' cannot be decomposed"
        return None

    def recovery(self, profile: Profile) -> Recovery | None:
        return None

    def explain(self, decision: DecomposeDecision) -> str:
        found = decision.layers
        share = sum(each.macs for each in found.values()) / sum(each.macs_before for each in found.values())
        text = f"{len(found)} layers decomposed, {100 * share:.1f} % of their MACs left: "
        text += ", ".join(f"{name} {each.format} {'x'.join(map(str, each.ranks))}" for name, each in found.items())
        return f"{text}; whole: {listed(decision.whole)}" if decision.whole else text

    def _walk(self, state: CompressionState) -> Iterator[tuple[str, Factored | str]]:
        """Yield the layers in the order of this D, each with its factors or the reason why it stays.

        Raises:
            UsageError: settings name something that is no layer, or ranks that do not fit a layer.
        """
        earlier = decisions(state, DecomposeDecision)
        layers = decomposition.layers(state.network, [name for each in earlier for name in each.layers])
        self._check_names(state.network)
        settings = self._settings(layers)
        places = decomposition.places(state.network, layers)
        for name in _from(list(layers), earlier[-1].following if earlier and self.table.layers_per_step else ""):
            n_done = sum(name in each.layers for each in earlier)
            yield name, self._found(state.network, name, layers[name], settings.get(name), places.get(name), n_done)

    def _check_names(self, network: Network) -> None:
        """Refuse an exclusion that names no module.

        Raises:
            UsageError: names the nearest one.
        """
        modules = dict(network.backbone.named_modules())
        for name in self.table.exclude:
            if name not in modules:
                raise UsageError(f"decompose.exclude: no module is named '{name}'{nearest(name, modules)}")

    def _settings(self, layers: Mapping[str, nn.Module]) -> dict[str, LayerSetting]:
        """Return the settings, by layer, of the layers that may be decomposed."""
        excluded = _excluded(self.table, layers)
        if self.table.config:
            found = musco.read(Path(self.table.config), layers, self.table)
        else:
            found = layer_settings.of(self.table, layers)
        return {name: setting for name, setting in found.items() if name not in excluded}

    def _found(
        self,
        network: Network,
        name: str,
        layer: nn.Module,
        setting: LayerSetting | None,
        places: Places | None,
        n_done: int,
    ) -> Factored | str:
        """Return the factors of one layer, or the reason why it stays."""
        reason = _why_whole(network, name, layer, setting, places)
        if reason is not None or setting is None or places is None:
            return str(reason)
        wanted = self._ranks(network, name, layer, setting, n_done)
        shape = decomposition.shape_of(layer)
        before = decomposition.n_macs(layer, places)
        macs = ranks.n_macs(shape, setting.format, wanted, places.n_before, places.n_after)
        if macs >= before:
            return "no fewer MACs with factors"
        return Factored(setting.format, wanted, before, macs)

    def _ranks(self, network: Network, name: str, layer: nn.Module, setting: LayerSetting, n_done: int) -> Ranks:
        if setting.ranks:
            return setting.ranks[min(n_done, len(setting.ranks) - 1)]
        shape, format = decomposition.shape_of(layer), setting.format
        now = ranks.modes(shape, format)
        if isinstance(layer, nn.Sequential) and low_rank.format_of(layer) == format:
            now = low_rank.ranks_of(layer)
        least = setting.min_rank or ranks.least(shape, format)
        if setting.selection == layer_settings.RATE:
            n_now, multiple = low_rank.n_weights(layer), int(self.table.multiple)
            found = ranks.for_rate(shape, format, setting.rate, least, n_now=n_now, limits=now, multiple=multiple)
        elif setting.selection == layer_settings.RATIO:
            found = ranks.for_share(shape, format, setting.ratio, now)
        else:
            found = ranks.estimated(_weight(network, name), format, now, setting.weaken, least)
        return ranks.rounded(found, now, int(self.table.multiple))


def _implied(parameters: Mapping[str, Value]) -> dict[str, Value]:
    """Translate a chain's `rate`, `ratio` or `weaken` into `rank`.

    Raises:
        UsageError: two of them contradict each other.
    """
    said = {"rate": "rate", "ratio": "ratio", "weaken": "evbmf"}
    found = [key for key in said if key in parameters]
    if len(found) > 1:
        raise UsageError(f"D: {' and '.join(found)} are two ways to choose ranks; give one")
    return {"rank": said[found[0]]} if found else {}


def _why_whole(
    network: Network, name: str, layer: nn.Module, setting: LayerSetting | None, places: Places | None
) -> str | None:
    """Return why a layer stays whole at any ranks, or None if the ranks decide."""
    if setting is None:
        return "excluded or not named"
    if any(masked == name or masked.startswith(f"{name}.") for masked in network.masks.layers):
        return "masked by S, whose zeros factors would fill; D goes before S"
    is_factored = isinstance(layer, nn.Sequential)
    if places is None or not (is_factored or name in network.replaceable):
        return f"{type(layer).__name__}: not called by itself, or with more than its weight"
    with low_rank.structure_only():
        return low_rank.why_not(low_rank.whole(layer), setting.format)


def _weight(network: Network, name: str) -> Tensor:
    weight: Tensor = low_rank.whole(decomposition.effective(network, name)).weight  # type: ignore[assignment]
    return weight.detach().double()


def _from(names: list[str], first: str) -> list[str]:
    """Return all names, in a round that begins at `first`."""
    start = names.index(first) if first in names else 0
    return names[start:] + names[:start]


def _excluded(table: DecomposeTable, layers: Iterable[str]) -> set[str]:
    """Return the layers that are to stay whole, and the layers in modules that are."""
    return {name for name in layers if any(name == e or name.startswith(f"{e}.") for e in table.exclude)}
