"""One compression by nacdeploy itself: what a compressor starts from, and the steps that it is made of.

Every step is letters of a chain with tables of the profile, followed like any other chain, so that the result is a
state like any other.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from nacdeploy import profile as profiles
from nacdeploy.base.errors import UsageError
from nacdeploy.base.progress import Say, nobody
from nacdeploy.experiments.config.selection import Selection
from nacdeploy.network.attachments.sparsity import ELEMENT
from nacdeploy.network.network import Network
from nacdeploy.profile import Profile
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.state import CompressionState
from nacdeploy.strategies.steps import follow as transferring
from nacdeploy.strategies.steps.advance import Memory
from nacdeploy.surgery.channels import channel_groups, channel_importance
from nacdeploy.surgery.channels.channel_choice import NORM, Group, choose
from nacdeploy.task import Task

LEVEL = "level"
SLIM = "slim"
KEPT = 1e-9
Shares = dict[str, float]
Follower = Callable[[Chain, CompressionState, Profile, Callable[[float], None]], CompressionState]


@dataclass(frozen=True)
class Run:
    """The state that is compressed, the layers with their values, the settings for the whole run, and where
    intermediate results (qualities on validation) and remarks go. A `follower` stands in for `follow` of
    nacdeploy's own where somebody else trains and evaluates; `memory` keeps trainings under way."""

    start: CompressionState
    task: Task
    profile: Profile
    selection: Selection
    settings: Mapping[str, Any] = field(default_factory=dict)
    report: Callable[[float], None] = nobody
    say: Say = nobody
    follower: Follower | None = None
    memory: Memory | None = None
    _profiles: list[Profile] = field(default_factory=list)

    @property
    def last_profile(self) -> Profile:
        """The profile with all tables that the letters of the run were given, later ones in place of earlier ones."""
        return self._profiles[-1] if self._profiles else self.profile

    def setting(self, key: str, default: Any) -> Any:
        """Return a key for the whole run."""
        return self.settings.get(key, default)

    def shares(self, key: str = "sparsity") -> Shares:
        """Return the share asked of each layer."""
        return {name: float(values[key]) for name, values in self.selection.layers.items() if key in values}

    def follow(self, state: CompressionState, word: str, tables: Mapping[str, Any] | None = None) -> CompressionState:
        """Return the state after the letters of `word`, with some keys of the profile's tables; every letter and every
        epoch is an intermediate result."""
        profile = profiles.override(self.profile, dict(tables or {}))
        self._profiles.append(profiles.override(self.last_profile, dict(tables or {})))
        chance = state.metrics.chance
        if self.follower is not None:
            return self.follower(Chain.parse(word), state, profile, self.report)
        return transferring.follow(
            Chain.parse(word),
            state,
            self.task,
            profile,
            memory=self.memory,
            after=lambda done: self.report(done.metrics.quality),
            report=lambda epoch, n_epochs, score: self.report(self.task.metric.quality(score, chance)),
        ).state

    def quietly(self) -> "Run":
        """Return the same run for trials whose results are none of its own."""
        return replace(self, report=nobody, _profiles=[])

    def pruned(
        self, state: CompressionState, shares: Mapping[str, float], algorithm: str, word: str = ""
    ) -> CompressionState:
        """Return the state after one S (`level`: shares of elements that are zero in all) or P (any other algorithm:
        shares of the baseline's channels that go now) by layer, and the letters of `word`."""
        wanted = {name: share for name, share in shares.items() if share > KEPT}
        if not wanted:
            return self.follow(state, word)
        if algorithm == LEVEL:
            table = {"pattern": ELEMENT, "ratios": wanted, "patterns": {}, "exclude": [], "min_channels": 1}
            return self.follow(state, f"S{word}", {"sparsify": table})
        keys = {key: self.settings[key] for key in ("n_calibration", "reconstruct") if key in self.settings}
        multiple = self.setting("channel_round", 1)
        table = {"ratios": wanted, "importance": algorithm, "multiple": multiple, **keys}
        return self.follow(state, f"P{word}", {"prune": table})


@dataclass(frozen=True)
class Units:
    """The units that get a share of their own: layers (`level`), or groups of coupled layers by their root layer; with
    the share that is asked of each and its number of weights."""

    shares: Shares
    sizes: dict[str, int]

    @property
    def target(self) -> float:
        """The share of all weights that the units' shares come to."""
        return sum(self.shares[name] * n for name, n in self.sizes.items()) / sum(self.sizes.values())


def units(run: Run, algorithm: str, wanted: Shares | None = None) -> Units:
    """Return the units of a run, for elements or for channels; `wanted` are shares by layer, by default their
    `sparsity`.

    Raises:
        UsageError: a layer is named whose outputs cannot be cut, or no layer is left.
    """
    network = run.start.network
    n_weights = {name: layer.weight.numel() for name, layer in network.layers.items()}  # type: ignore[operator]
    wanted = run.shares() if wanted is None else wanted
    if algorithm == LEVEL:
        shares = {n: s for n, s in wanted.items() if getattr(_layer(network, n), "groups", 1) == 1}
        _check_all_masked(run, wanted, shares)
        return Units(shares, {name: n_weights[name] for name in shares})
    groups = {g.root: g for g in channel_groups.groups(network)}
    shares = channel_shares(run, network, wanted)
    sizes = {root: sum(n_weights.get(layer, 0) for layer in groups[root].layers) for root in shares}
    return Units(shares, sizes)


def _check_all_masked(run: Run, wanted: Mapping[str, float], shares: Mapping[str, float]) -> None:
    """Refuse convolutions in groups that were named one by one, or where nothing else is left; say so of the others."""
    dense = [name for name in wanted if name not in shares]
    named = [name for name in dense if name in run.selection.named]
    if named or not shares:
        raise UsageError(f"config_list: '{(named or dense)[0]}' is a convolution in groups, whose weights stay dense")
    if dense:
        run.say(f"{', '.join(dense)}: convolutions in groups stay dense")


def channel_shares(run: Run, network: Network, wanted: Mapping[str, float]) -> Shares:
    """Shares by layer as shares by group of coupled layers, which lose channels together: the least of those asked of
    its layers; a group with an excluded layer stays whole.

    Raises:
        UsageError: a layer is named whose outputs cannot be cut, or nothing can be cut.
    """
    found = channel_groups.groups(network)
    by_root: Shares = {}
    for group in found:
        names = [*group.layers, *(m.layer for m in group.members if m.role == NORM)]
        asked = {name: wanted[name] for name in names if name in wanted}
        left_out = [name for name in names if name in run.selection.excluded]
        if asked and left_out:
            run.say(f"{', '.join(asked)} stay whole: they share their channels with {left_out[0]}, which is excluded")
        elif asked:
            by_root[group.root] = min(asked.values())
            if len(set(asked.values())) > 1:
                least = by_root[group.root]
                run.say(f"{', '.join(asked)} share their channels: each loses the least share asked, {least:g}")
    _check_all_cut(run, found, wanted)
    if not by_root:
        raise UsageError("config_list: no selected layer has outputs that can be cut; the last layer's are the classes")
    return by_root


def _check_all_cut(run: Run, found: tuple[Group, ...], wanted: Mapping[str, float]) -> None:
    """Refuse layers that were named one by one and cannot be cut; say so of those that a type selected."""
    can = {name for g in found for name in (*g.layers, *(m.layer for m in g.members if m.role == NORM))}
    cannot = [name for name in wanted if name not in can]
    named = [name for name in cannot if name in run.selection.named]
    if named:
        raise UsageError(
            f"config_list: the outputs of '{named[0]}' cannot be cut (it is the last layer, or tied to one)"
        )
    if cannot:
        run.say(f"{', '.join(cannot)}: the outputs cannot be cut and stay")


def slim_shares(run: Run, shares: Shares) -> Shares:
    """Shares of each group from one threshold over the factors of all groups that are asked for the same share (Liu et
    al., 2017, section 3)."""
    network = run.start.network
    found = [g for g in channel_groups.groups(network) if g.root in shares]
    found = channel_importance.covered(found, SLIM, network)
    blank = network.example_input().expand(2, *network.input_shape)
    known = channel_importance.evidence(network, blank, torch.zeros(2, dtype=torch.long), run.task.metric.loss, 0)
    ranked = channel_importance.ranked(found, SLIM, known)
    by_root: Shares = {}
    for share in sorted(set(shares.values())):
        these = [group for group in ranked if shares[group.root] == share]
        n_channels = int(share * sum(group.n_channels for group in these) + KEPT)
        removed = choose(these, {}, n_channels, run.setting("channel_round", 1), "global")
        by_root |= {g.root: len(removed.get(g.root, ())) / g.n_channels for g in these}
    return by_root


def _layer(network: Network, name: str) -> torch.nn.Module:
    return network.backbone.get_submodule(name)
