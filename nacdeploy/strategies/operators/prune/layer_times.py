"""The time of a network by the widths of its groups of channels: layers from a table, fitted on networks timed whole.

A layer's time depends on the group that it reads and the group that it writes, so the time of a network is a sum over
groups and pairs of groups. A layer of a residual branch that is dropped takes none: the branch's key stands among the
widths, 0 where it is dropped, and the groups within it have width 0. A layer that reads several groups (behind a
concatenation) counts as their shares of it, each as if the others kept their present width: exact if its time is linear
in its inputs.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
from scipy.optimize import nnls

from nacdeploy.network.network import Network
from nacdeploy.surgery.channels.channel_choice import NORM, PRODUCER, Group
from nacdeploy.surgery.depth.branches import Branch
from nacdeploy.task.clock import Clock, Grid, Sizes

N_LEVELS = 6  # widths of a group at which its layers are timed; the second smallest is one more: one unit may be slow
Widths = Mapping[str, int]
Pair = tuple[str | None, str | None]


def widths_of(group: Group, multiple: int) -> tuple[int, ...]:
    """Return the widths that a group may have: whole units, and its present one."""
    unit = group.unit(multiple)
    return (*range(unit, group.n_channels, unit), group.n_channels)


def spaced(values: Sequence[int], n: int) -> tuple[int, ...]:
    """Return at most `n` of some sorted values, evenly spaced, with both ends."""
    places = sorted({round(at) for at in np.linspace(0, len(values) - 1, min(n, len(values)))})
    return tuple(values[place] for place in places)


@dataclass(frozen=True)
class LayerUse:
    """A layer with its present numbers of channels, and the groups' shares of what it reads and writes."""

    layer: str
    n_in: int
    n_out: int
    ins: Mapping[str, float]
    outs: Mapping[str, float]


def uses(network: Network, found: Sequence[Group]) -> list[LayerUse]:
    """Return the layers of a network, by the groups that they read and write."""
    ins: dict[str, dict[str, float]] = {name: {} for name in network.layers}
    outs: dict[str, dict[str, float]] = {name: {} for name in network.layers}
    for group in found:
        for member in group.members:
            if member.layer in ins and member.role != NORM:
                is_out = member.role == PRODUCER
                share = len(member.indices) / _shape(network.layers[member.layer])[0 if is_out else 1]
                (outs if is_out else ins)[member.layer][group.root] = min(1.0, share)
    return [_use(name, layer, ins[name], outs[name]) for name, layer in network.layers.items()]


def _use(name: str, layer: Any, ins: Mapping[str, float], outs: Mapping[str, float]) -> LayerUse:
    shape, groups = _shape(layer), getattr(layer, "groups", 1)
    return LayerUse(name, shape[1] * groups, shape[0], ins, outs)


def _shape(layer: Any) -> tuple[int, ...]:
    return tuple(layer.weight.shape)


@dataclass(frozen=True)
class Curve:
    """The measured times of a layer, linear in between."""

    sizes: Sizes
    ms: Grid

    def at(self, n_in: float, n_out: float) -> float:
        """Return the time with other numbers of channels, never below zero."""
        (rows, up), (columns, right) = _place(self.sizes[0], n_in), _place(self.sizes[1], n_out)
        low, high = (_between(self.ms[row], columns, right) for row in rows)
        return max(0.0, low + (high - low) * up)


def _between(row: Sequence[float], places: tuple[int, int], right: float) -> float:
    """Return the value between two places of a row."""
    return row[places[0]] + (row[places[1]] - row[places[0]]) * right


def _place(known: Sequence[int], n: float) -> tuple[tuple[int, int], float]:
    """Return the places of two known numbers around `n`, and how far between them it lies."""
    high = min(max(bisect_left(known, n), 1), len(known) - 1)
    if len(known) == 1:
        return (0, 0), 0.0
    below, above = known[high - 1], known[high]
    return (high - 1, high), (n - below) / (above - below)


@dataclass(frozen=True)
class LayerTimes:
    """The times of a network's layers by the widths of its groups, and by the residual branches that stay."""

    uses: Sequence[LayerUse]
    curves: Mapping[str, Curve]
    now: Widths
    branches: Sequence[Branch] = ()

    @cached_property
    def branch_of(self) -> Mapping[str, Branch]:
        """The branch of each layer that lies in one."""
        return {layer: branch for branch in self.branches for layer in branch.layers}

    def terms(self) -> dict[tuple[str, ...], list[tuple[LayerUse, Pair, float]]]:
        """Return the layers, with their pairs and shares, by the groups and branches on which their time depends.

        A branch does not count where a group that goes with it does.
        """
        found: dict[tuple[str, ...], list[tuple[LayerUse, Pair, float]]] = {}
        for pair, layers in self.pairs().items():
            roots = tuple(dict.fromkeys(root for root in pair if root is not None))
            for use, share in layers:
                branch = self.branch_of.get(use.layer)
                is_told = branch is None or any(root in branch.inner for root in roots)
                keys = roots if is_told or branch is None else (*roots, branch.key)
                found.setdefault(keys, []).append((use, pair, share))
        return found

    def branch_ms(self, branch: Branch) -> float:
        """Return the sum of the layers' times in a branch as it is."""
        every = ((use, pair, share) for pair, layers in self.pairs().items() for use, share in layers)
        return sum(share * self.ms(use, pair, self.now) for use, pair, share in every if use.layer in branch.layers)

    def pairs(self) -> dict[Pair, list[tuple[LayerUse, float]]]:
        """Return the layers, with their shares, by the group that they read and the group that they write (None:
        channels that stay)."""
        found: dict[Pair, list[tuple[LayerUse, float]]] = {}
        for use in self.uses:
            for (root_in, a), (root_out, b) in product(_shares(use.ins), _shares(use.outs)):
                found.setdefault((root_in, root_out), []).append((use, a * b))
        return found

    def ms(self, use: LayerUse, pair: Pair, widths: Widths) -> float:
        """Return the time of a layer if the groups of `pair` alone had other widths, or its branch were dropped."""
        branch = self.branch_of.get(use.layer)
        if branch is not None and not all(widths.get(key, 1) for key in (branch.key, *branch.inner)):
            return 0.0
        n_in, n_out = (
            n if root is None else n * widths[root] / self.now[root]
            for n, root in zip((use.n_in, use.n_out), pair, strict=True)
        )
        return self.curves[use.layer].at(n_in, n_out)

    def sum_ms(self, widths: Widths) -> float:
        """Return the sum of the layers' times."""
        return sum(share * self.ms(use, pair, widths) for pair, layers in self.pairs().items() for use, share in layers)


def measured(
    network: Network, found: Sequence[Group], multiple: int, clock: Clock, branches: Sequence[Branch] = ()
) -> LayerTimes:
    """Measure the layers of a network as it runs at some widths of its groups, or read them from the clock's table."""
    known, by_root = uses(network, found), {group.root: group for group in found}
    sizes = {use.layer: _sizes(use, by_root, multiple) for use in known}
    grids = clock.layers_ms(network, sizes)
    curves = {name: Curve(sizes[name], grid) for name, grid in grids.items()}
    return LayerTimes(known, curves, {group.root: group.n_channels for group in found}, branches)


def _sizes(use: LayerUse, by_root: Mapping[str, Group], multiple: int) -> Sizes:
    return _levels(use.n_in, use.ins, by_root, multiple), _levels(use.n_out, use.outs, by_root, multiple)


def _levels(n: int, shares: Mapping[str, float], by_root: Mapping[str, Group], multiple: int) -> tuple[int, ...]:
    """Return the numbers of channels to time: those at some widths of each group, the present one among them."""
    found = {n}
    for group in map(by_root.__getitem__, shares):
        widths = widths_of(group, multiple)
        found |= {max(1, n * width // group.n_channels) for width in {*spaced(widths, N_LEVELS), *widths[:2]}}
    return spaced(sorted(found), N_LEVELS + 1)


def _shares(of: Mapping[str, float]) -> Iterator[tuple[str | None, float]]:
    yield from of.items()
    rest = 1.0 - sum(of.values())
    if rest > 1e-9:
        yield None, rest


@dataclass(frozen=True)
class Fit:
    """The time of a whole network by the sum of its layers: a fixed part, and a scale."""

    fixed_ms: float
    scale: float

    def whole_ms(self, sum_ms: float) -> float:
        """Return the time of a network."""
        return self.fixed_ms + self.scale * sum_ms

    def sum_ms(self, whole_ms: float) -> float:
        """Return the sum of layers that a network of this time has."""
        return (whole_ms - self.fixed_ms) / self.scale

    def corrected(self, factor: float) -> "Fit":
        """Return the fit with all times longer by a factor."""
        return Fit(self.fixed_ms * factor, self.scale * factor)


def fitted(pairs: Sequence[tuple[float, float]]) -> Fit:
    """Fit (measured time, sum of layers) by least squares of relative errors; both parts are at least zero."""
    whole, total = np.array(pairs).T
    (fixed, scale), _ = nnls(np.stack([1 / whole, total / whole], 1), np.ones(len(pairs)))
    if scale <= 0 or len(pairs) == 1:
        return Fit(0.0, float((whole / total).mean()))
    return Fit(float(fixed), float(scale))
