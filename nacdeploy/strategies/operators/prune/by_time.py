"""P by time: the widths that keep the most importance within a time, checked by timing the cut network.

The table of layers is fitted on the network itself, half of it and the smallest of it, timed whole. The cut network is
timed too; where it takes more than asked, or clearly less, the widths are chosen again with times corrected by what was
seen. So the answer was measured, and lies at or below the time asked for.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from nacdeploy.base.errors import RefusedError
from nacdeploy.network.attachments.fake_quant import Rule
from nacdeploy.network.network import Network
from nacdeploy.strategies.operators.prune import allocation, layer_times
from nacdeploy.strategies.operators.prune.layer_times import Fit, LayerTimes, widths_of
from nacdeploy.strategies.state import structure_key
from nacdeploy.surgery.channels import channel_pruning
from nacdeploy.surgery.channels.channel_choice import Group
from nacdeploy.surgery.channels.channel_pruning import Cut
from nacdeploy.surgery.depth import dropping
from nacdeploy.surgery.depth.branches import Branch
from nacdeploy.surgery.depth.dropping import Block
from nacdeploy.task.clock import Clock

CLOSE = 0.965  # of the time asked for: an answer between this and all of it is near enough
_AIM = 0.985  # of it, where times were corrected
_LEAST_STEP = 0.15  # between two tries, of their distance
_N_TRIES = 8
INT8, FLOAT32 = "int8", "float32"


@dataclass(frozen=True)
class Timed:
    """The times of a P by time, in ms on the target, in the precision in which the network is deployed.

    Attributes:
        precision: "int8" or "float32".
        before_ms: the network that it was given.
        asked_ms: the most that may be left.
        expected_ms: what is left by the table.
        measured_ms: what is left as measured; None if the table came from another machine.
        least_ms: what the fastest network takes.
    """

    precision: str
    before_ms: float
    asked_ms: float
    expected_ms: float
    measured_ms: float | None
    least_ms: float


@dataclass(frozen=True)
class Dropped:
    """A residual branch that was dropped, and the time that it took by the table, in ms."""

    block: Block
    ms: float


@dataclass(frozen=True)
class Allocation:
    """The channels to remove by root, the times, the branches to drop, and the channels that fall with these."""

    removed: dict[str, tuple[int, ...]]
    timed: Timed
    dropped: tuple[Dropped, ...] = ()
    fallen: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Budget:
    """The time that a P leaves: a share of the present time, or a time in ms."""

    share: float | None
    target_ms: float | None

    def asked_ms(self, before_ms: float) -> float:
        """Return the most that may be left."""
        return self.target_ms if self.target_ms is not None else (self.share or 1.0) * before_ms

    def __str__(self) -> str:
        return f"target_ms={self.target_ms:g}" if self.target_ms is not None else f"time={self.share:g}"


def deployed(network: Network, rule: Rule | None) -> Network:
    """Return the network as it will run: quantized by the rule of a Q that comes later, unless it is already."""
    if rule is None or network.rule is not None:
        return network
    quantized = copy.deepcopy(network)
    quantized.quantize(rule)
    return quantized


def cut_to(
    network: Network, found: Sequence[Group], widths: Mapping[str, int], multiple: int, branches: Sequence[Branch] = ()
) -> Network:
    """Return the network with its groups cut to some widths, the least important channels first, without the branches
    whose key is 0."""
    removed = _removed(network, found, widths, multiple)
    cut = channel_pruning.plan_cut(network, removed) if removed else Cut()
    return smaller(network, cut, [branch.block for branch in allocation.dropped(branches, widths)])


def smaller(network: Network, cut: Cut, blocks: Sequence[Block]) -> Network:
    """Return a copy of a network with channels cut and branches dropped."""
    made = copy.deepcopy(network)
    if blocks:
        channel_pruning.slice_tensors(made, cut)
        dropping.drop(made, blocks)
    elif cut.slices:
        channel_pruning.apply_cut(made, cut)
    return made


def allocate(
    network: Network,
    found: Sequence[Group],
    multiple: int,
    scope: str,
    budget: Budget,
    rule: Rule | None,
    clock: Clock,
    branches: Sequence[Branch] = (),
) -> Allocation:
    """Return the channels to remove, and of some branches those to drop, so that the network as deployed takes at most
    the budget.

    Raises:
        RefusedError: the fastest network takes more, or the present one less; the range is named.
        NacdeployError: the target cannot be timed here, or this machine is too noisy.
    """
    runs = deployed(network, rule)
    times, fit = surveyed(runs, found, multiple, clock, branches)
    before_ms = clock.networks_ms([runs])[0] if clock.is_here else fit.whole_ms(times.sum_ms(times.now))
    least = allocation.fastest(found, times, multiple)
    least_ms, asked_ms = fit.whole_ms(times.sum_ms(least)), budget.asked_ms(before_ms)
    _check_reachable(budget, asked_ms, least_ms, before_ms, clock)

    def measured_ms(widths: Mapping[str, int]) -> float | None:
        if not clock.is_here:
            return None
        return clock.networks_ms([runs, cut_to(runs, found, widths, multiple, branches)], structure_key(runs))[1]

    def chosen(sum_ms: float) -> dict[str, int] | None:
        return allocation.allocated(found, times, multiple, sum_ms, scope)

    widths, seen_ms = _nearest(times, fit, asked_ms, least, chosen, measured_ms)
    if seen_ms is not None and seen_ms > asked_ms:
        raise RefusedError(_out_of_range(budget, asked_ms, seen_ms, before_ms, clock))
    precision = INT8 if runs.plan.weight_bits else FLOAT32
    timed = Timed(precision, before_ms, asked_ms, fit.whole_ms(times.sum_ms(widths)), seen_ms, least_ms)
    gone = tuple(
        Dropped(each.block, fit.scale * times.branch_ms(each)) for each in allocation.dropped(branches, widths)
    )
    fallen = {group.root: group.n_channels for group in found if not widths[group.root]}
    return Allocation(_removed(network, found, widths, multiple), timed, gone, fallen)


def least_ms(
    runs: Network, found: Sequence[Group], multiple: int, clock: Clock, branches: Sequence[Branch] = ()
) -> float:
    """Return the time of the fastest network, by the table."""
    times, fit = surveyed(runs, found, multiple, clock, branches)
    return fit.whole_ms(times.sum_ms(allocation.fastest(found, times, multiple)))


def surveyed(
    runs: Network, found: Sequence[Group], multiple: int, clock: Clock, branches: Sequence[Branch] = ()
) -> tuple[LayerTimes, Fit]:
    """Measure the layers of a network as it runs, and whole networks of its family; or read both from a table.

    Raises:
        RefusedError: a table of another machine holds no network of this precision.
    """
    times, family = layer_times.measured(runs, found, multiple, clock, branches), structure_key(runs)
    if clock.is_here:
        every = _family(found, multiple, branches)
        networks = [runs, *(cut_to(runs, found, widths, multiple, branches) for widths in every)]
        seen = clock.networks_ms(networks, family)
        sums = [times.sum_ms(widths) for widths in ({**times.now}, *every)]
        return times, layer_times.fitted([*zip(seen, sums, strict=True)])
    precision = INT8 if runs.plan.weight_bits else FLOAT32
    kept = clock.kept(family, precision)
    if not kept:
        raise RefusedError(f"the table of {clock.where} holds no whole network in {precision}: write it for this one")
    return times, layer_times.fitted(kept)


def _family(found: Sequence[Group], multiple: int, branches: Sequence[Branch] = ()) -> list[dict[str, int]]:
    """Return the widths of two smaller networks: half of every group, and the least; and of one without branches."""
    every = {group.root: widths_of(group, multiple) for group in found}
    half = {root: widths[(len(widths) - 1) // 2] for root, widths in every.items()}
    whole = {root: widths[-1] for root, widths in every.items()} | allocation.without(branches)
    return [each for each in (half, allocation.smallest(every), *([whole] if branches else [])) if each]


@dataclass(frozen=True)
class _Try:
    """Widths that were timed, with the sum of their layers' times."""

    widths: dict[str, int]
    sum_ms: float
    ms: float


def _nearest(
    times: LayerTimes,
    fit: Fit,
    asked_ms: float,
    least: dict[str, int],
    chosen: Callable[[float], dict[str, int] | None],
    measured_ms: Callable[[Mapping[str, int]], float | None],
) -> tuple[dict[str, int], float | None]:
    """Return the slowest widths within the time that a few tries find, else the fastest, and their measured time.

    Until one try is within the time and another above it, the table is corrected by the last one. From then on the sum
    of layers is sought between the two: a runtime may be much faster at one width than at its neighbour. Where the
    table knows nothing that is fast enough, the fastest widths are timed, since it may be wrong.
    """
    wanted = fit.sum_ms(asked_ms)
    tried: list[_Try] = []
    for _ in range(_N_TRIES):
        widths = chosen(wanted)
        if widths is None or widths in [each.widths for each in tried]:
            if least in [each.widths for each in tried] or any(each.ms <= asked_ms for each in tried):
                break
            widths = least
        seen_ms = measured_ms(widths)
        if seen_ms is None:
            return widths, None
        tried.append(_Try(widths, times.sum_ms(widths), seen_ms))
        if CLOSE * asked_ms <= seen_ms <= asked_ms:
            break
        wanted = _next_sum(tried, fit, asked_ms)
    within = [each for each in tried if each.ms <= asked_ms]
    best = max(within, key=_ms) if within else min(tried, key=_ms)
    return best.widths, best.ms


def _ms(tried: _Try) -> float:
    return tried.ms


def _next_sum(tried: Sequence[_Try], fit: Fit, asked_ms: float) -> float:
    """Return the sum of layers to ask for next."""
    last, aim = tried[-1], _AIM * asked_ms
    below = max((each for each in tried if each.ms <= asked_ms), key=lambda each: each.ms, default=None)
    above = min((each for each in tried if each.ms > asked_ms), key=lambda each: each.ms, default=None)
    if below is None or above is None:
        return fit.corrected(last.ms / fit.whole_ms(last.sum_ms)).sum_ms(aim)
    share = (aim - below.ms) / (above.ms - below.ms)
    return below.sum_ms + min(max(share, _LEAST_STEP), 1 - _LEAST_STEP) * (above.sum_ms - below.sum_ms)


def _removed(
    network: Network, found: Sequence[Group], widths: Mapping[str, int], multiple: int
) -> dict[str, tuple[int, ...]]:
    staying = [group for group in found if widths[group.root]]
    cut = {g.root: tuple(sorted(g.order[: g.n_channels - widths[g.root]])) for g in staying}
    units = {group.root: group.unit(multiple) for group in found}
    return channel_pruning.spared(network, {root: gone for root, gone in cut.items() if gone}, units)


def _check_reachable(budget: Budget, asked_ms: float, least_ms: float, before_ms: float, clock: Clock) -> None:
    if not least_ms <= asked_ms < before_ms:
        raise RefusedError(_out_of_range(budget, asked_ms, least_ms, before_ms, clock))


def _out_of_range(budget: Budget, asked_ms: float, least_ms: float, before_ms: float, clock: Clock) -> str:
    share = "" if budget.target_ms is not None else f" (time from {least_ms / before_ms:.3f} to 1)"
    return (
        f"P({budget}) asks for {asked_ms:.3g} ms, and cutting channels reaches {least_ms:.3g} to {before_ms:.3g} ms "
        f"here{share}, by {clock.where}"
    )
