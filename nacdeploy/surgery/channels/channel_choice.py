"""The choice of channels to cut: groups of coupled channels in the order of importance, and the number cut from
each."""

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from nacdeploy.base.errors import UsageError, nearest

ROUNDING = 1e-9
_N_NAMED = 3

PRODUCER, NORM, READER = "producer", "norm", "reader"


@dataclass(frozen=True)
class Member:
    """The part of one layer in a group of channels.

    Attributes:
        layer: the name of the layer.
        role: whether the layer writes, passes or reads the channels.
        indices: the indices of the layer's axis (outputs; inputs of a reader), an equal part for each channel, in
            order; the queries, keys and values of a head read the same.
    """

    layer: str
    role: str
    indices: tuple[int, ...]


@dataclass(frozen=True)
class Group:
    """The channels that one root layer shares with all layers coupled to it.

    Attributes:
        root: the name of the root layer.
        order: the channels from least to most important, dead ones first.
        importance: the importance of the channels, aligned with `order`.
        n_dead: the number of dead channels.
        quantum: the number of equal parts of the channels, those of a grouped convolution, of which the same places go
            together.
        run: the number of channels in a row that go together: those of a head of attention.
        members: the layers on these channels.
    """

    root: str
    order: tuple[int, ...]
    importance: tuple[float, ...]
    n_dead: int
    quantum: int = 1
    members: tuple[Member, ...] = ()
    run: int = 1

    @property
    def n_channels(self) -> int:
        return len(self.order)

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers whose outputs are this group's channels, the root first."""
        return (self.root, *(m.layer for m in self.members if m.role == PRODUCER and m.layer != self.root))

    def unit(self, multiple: int) -> int:
        """Return the number of channels that go together: `multiple`, and as many of each part of a grouped
        convolution, or whole heads."""
        return math.lcm(multiple, self.quantum * self.run)

    def most(self, multiple: int) -> int:
        """Return the largest number of channels that can go in whole units without the last unit."""
        unit = self.unit(multiple)
        return max(0, (self.n_channels - unit) // unit * unit)


def families(n_channels: int, quantum: int, run: int = 1) -> list[tuple[int, ...]]:
    """Return the channels at the same place of each of `quantum` equal parts; a place is a `run` of channels."""
    step = n_channels // quantum
    starts = range(0, step, run)
    return [tuple(c for part in range(first, n_channels, step) for c in range(part, part + run)) for first in starts]


def ordered(group: Group, scores: Tensor) -> Group:
    """Return the group in the order of other scores (n_channels,).

    Dead channels come first, then the least scores; of equal scores the lowest index.
    """
    dead = set(group.order[: group.n_dead])
    found = families(group.n_channels, group.quantum, group.run)
    found.sort(key=lambda family: (family[0] not in dead, float(scores[[*family]].mean()), family))
    order = tuple(channel for family in found for channel in family)
    return replace(group, order=order, importance=tuple(float(scores[channel]) for channel in order))


def choose(
    found: Sequence[Group], widths: Mapping[str, int], n_channels: int, multiple: int, scope: str
) -> dict[str, tuple[int, ...]]:
    """Choose whole units (`multiple` channels of one group) to remove, at most `n_channels` in all, by root layer.

    `widths` are the groups' channels at the baseline. A layer's last unit always stays. Units with dead channels go
    first. `global` takes the unit of least mean importance anywhere, `uniform` one of the group that has lost the
    smallest fraction of its baseline channels.
    """
    taken = {group.root: 0 for group in found}
    units = {group.root: group.unit(multiple) for group in found}

    def entry(place: int) -> tuple[tuple[float, ...], int]:
        group = found[place]
        return _rank(group, taken[group.root], widths.get(group.root, group.n_channels), units, scope), place

    left, waiting = n_channels, [entry(place) for place in range(len(found))]
    heapq.heapify(waiting)  # a group's rank follows from its own losses; a group that cannot give never can again
    while waiting:
        _, place = heapq.heappop(waiting)
        group = found[place]
        unit = units[group.root]
        if unit <= min(left, (group.n_channels - taken[group.root]) // 2):
            taken[group.root] += unit
            left -= unit
            heapq.heappush(waiting, entry(place))
    return _least(found, taken)


def choose_each(found: Sequence[Group], asked: Mapping[str, float], multiple: int) -> dict[str, tuple[int, ...]]:
    """Choose whole units to remove from each group, at most the `asked` number of channels of its root; the last
    unit stays."""
    taken = {}
    for group in found:
        unit, whole = group.unit(multiple), math.floor(asked.get(group.root, 0.0) + ROUNDING)
        taken[group.root] = min(whole // unit * unit, group.most(multiple))
    return _least(found, taken)


def has_unit_left(found: Iterable[Group], multiple: int) -> bool:
    """Tell whether any group could give a unit without giving its last."""
    return any(group.n_channels >= 2 * group.unit(multiple) for group in found)


def causes(why: Mapping[str, str]) -> tuple[str, ...]:
    """Group reasons by layer into lines by reason, the most frequent first: `'a', 'b' and 3 more: reason`."""
    by_reason: dict[str, list[str]] = {}
    for layer, reason in why.items():
        by_reason.setdefault(reason, []).append(layer)
    lines = []
    for reason, layers in sorted(by_reason.items(), key=lambda item: -len(item[1])):
        named = ", ".join(f"'{layer}'" for layer in layers[:_N_NAMED])
        more = f" and {len(layers) - _N_NAMED} more" if len(layers) > _N_NAMED else ""
        lines.append(f"{named}{more}: {reason}")
    return tuple(lines)


def ratio_by_root(found: Sequence[Group], ratios: Mapping[str, float], widths: Mapping[str, int]) -> dict[str, float]:
    """Convert a table of ratios by layer into one by group; any layer that writes a group's channels names the group.

    Args:
        widths: the output channels of all layers of the network, to tell a wrong name from a layer with one channel.

    Raises:
        UsageError: a name matches no layer (the nearest is named), its channels cannot be cut, or two layers of one
            group have different ratios.
    """
    root_of = {layer: group.root for group in found for layer in group.layers}
    named_by, by_root = dict[str, str](), dict[str, float]()
    for layer, ratio in ratios.items():
        if layer not in widths:
            raise UsageError(f"prune.ratios: no layer is named '{layer}'{nearest(layer, root_of)}")
        if layer not in root_of and widths[layer] == 1:
            continue
        if layer not in root_of:
            raise UsageError(f"prune.ratios: the outputs of '{layer}' cannot be cut{nearest(layer, root_of)}")
        root = root_of[layer]
        if by_root.setdefault(root, ratio) != ratio:
            raise UsageError(
                f"prune.ratios: '{named_by[root]}' ({by_root[root]:g}) and '{layer}' ({ratio:g}) share their "
                "channels: give them one ratio"
            )
        named_by.setdefault(root, layer)
    return by_root


def _least(found: Sequence[Group], taken: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Return the least important `taken` channels of each group."""
    return {g.root: tuple(sorted(g.order[: taken[g.root]])) for g in found if taken[g.root]}


def _rank(group: Group, taken: int, width: int, units: dict[str, int], scope: str) -> tuple[float, ...]:
    multiple = units[group.root]
    unit = group.importance[taken : taken + multiple]
    n_dead = max(0, min(group.n_dead - taken, multiple))
    lost_fraction = (width - group.n_channels + taken + multiple) / width if scope == "uniform" else 0.0
    return (-n_dead, lost_fraction, sum(unit) / multiple)
