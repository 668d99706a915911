"""The widths that lose the least importance within a time: a multiple-choice knapsack with pairs, solved exactly.

One width of each group is chosen. A layer's time belongs to the pair of widths that it reads and writes, so each pair
of groups has a variable for each pair of widths, tied to the choices by its marginals (Shen et al., 2022, HALP, and
Frantar and Alistarh, 2022, SPDY, choose by times of layers alone). Groups with many widths are solved twice: at evenly
spaced widths, then at all widths around the answer.

Depth is a choice of the same program: a residual branch stays or is dropped, the groups of channels within it have the
width 0 exactly where it is, and its layers then take no time.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, milp

from nacdeploy.strategies.operators.prune.layer_times import LayerTimes, spaced, widths_of
from nacdeploy.surgery.channels.channel_choice import Group
from nacdeploy.surgery.depth.branches import Branch

N_WIDTHS = 13
LEAST_SHARE = 1e-6  # of importance, that counts as kept
_TIME_LIMIT_S = 30.0
_GAP = 1e-4

Options = Mapping[str, Sequence[int]]


def allocated(
    found: Sequence[Group], times: LayerTimes, multiple: int, sum_ms: float, scope: str = "global"
) -> dict[str, int] | None:
    """Return the widths by root whose layers take at most `sum_ms`; None if the fastest network takes more.

    `global` loses the least importance, `uniform` keeps the same share of every group. The branches of `times` may be
    dropped: then their keys, and the roots within them, are 0.
    """
    if scope == "uniform":
        return _uniform(_every(found, multiple), times, sum_ms)
    return _refined(found, times, multiple, sum_ms)


def fastest(found: Sequence[Group], times: LayerTimes, multiple: int) -> dict[str, int]:
    """Return the widths of least time: not always the smallest ones, since kernels like some widths better. Branches
    that may be dropped are."""
    least = smallest(_every(found, multiple), times.branches)
    answer = _refined(found, times, multiple, None)
    return answer if answer is not None and times.sum_ms(answer) < times.sum_ms(least) else least


def _refined(found: Sequence[Group], times: LayerTimes, multiple: int, sum_ms: float | None) -> dict[str, int] | None:
    """Solve for evenly spaced widths, then for those around the answer."""
    every = _every(found, multiple)
    coarse = {root: spaced(widths, N_WIDTHS) for root, widths in every.items()}
    answer = _solved(found, coarse, times, sum_ms)
    if answer is None or coarse == every:
        return answer
    return _solved(found, _around(answer, coarse, every), times, sum_ms) or answer


def _every(found: Sequence[Group], multiple: int) -> Options:
    return {group.root: widths_of(group, multiple) for group in found}


def smallest(every: Options, branches: Sequence[Branch] = ()) -> dict[str, int]:
    """Return the widths of the smallest network, without the branches that may be dropped."""
    return {root: min(widths) for root, widths in every.items()} | without(branches)


def without(branches: Sequence[Branch]) -> dict[str, int]:
    """Return the widths that say that branches are dropped."""
    return {key: 0 for branch in branches for key in (branch.key, *branch.inner)}


def dropped(branches: Sequence[Branch], widths: Mapping[str, int]) -> tuple[Branch, ...]:
    """Return the branches that are dropped at some widths."""
    return tuple(branch for branch in branches if widths.get(branch.key, 1) == 0)


def loss(group: Group, width: int) -> float:
    """Return what is lost with all but the `width` most important channels of a group: the importance I of all, times
    the logarithm of I over what is kept.

    For a small cut that is the importance of the channels that go. It grows without bound where little is left, as
    losses do: a sum of importances says nothing of that, and leaves a wide layer between two that pass nothing on.
    """
    whole = float(sum(group.importance))
    kept = float(sum(group.importance[group.n_channels - width :]))
    return whole * -math.log(max(kept / whole, LEAST_SHARE)) if whole > 0 else 0.0


def _around(answer: Mapping[str, int], coarse: Options, every: Options) -> dict[str, Sequence[int]]:
    """Return the widths between the coarse neighbours of an answer, the answer among them."""
    found: dict[str, Sequence[int]] = {}
    for root in coarse:
        width = answer[root] or coarse[root][0]  # a group that fell with its branch may stay after all, thin
        at = coarse[root].index(width)
        low, high = coarse[root][max(0, at - 1)], coarse[root][min(len(coarse[root]) - 1, at + 1)]
        between = [each for each in every[root] if low <= each <= high]
        found[root] = sorted({width, *spaced(between, N_WIDTHS)})
    return found


def _uniform(every: Options, times: LayerTimes, sum_ms: float) -> dict[str, int] | None:
    """Return the largest widths that are one share of every group's, rounded down to whole units; None if all take
    more."""
    shares = sorted({width / widths[-1] for widths in every.values() for width in widths}, reverse=True)
    for share in shares:
        widths = {root: max([w for w in each if w <= share * each[-1]] or [each[0]]) for root, each in every.items()}
        if times.sum_ms(widths) <= sum_ms:
            return widths
    return None


@dataclass
class _Program:
    """A linear program under construction: columns with their loss and time, and rows that equal zero or one."""

    loss: list[float] = field(default_factory=list)
    ms: list[float] = field(default_factory=list)
    rows: list[tuple[int, int, float]] = field(default_factory=list)
    equals: list[float] = field(default_factory=list)

    def column(self, loss: float, ms: float) -> int:
        self.loss.append(loss)
        self.ms.append(ms)
        return len(self.loss) - 1

    def row(self, entries: Mapping[int, float], equals: float) -> None:
        self.rows.extend((len(self.equals), column, value) for column, value in entries.items())
        self.equals.append(equals)


def _solved(found: Sequence[Group], options: Options, times: LayerTimes, sum_ms: float | None) -> dict[str, int] | None:
    """Return the widths that lose the least within a time, or (without one) take the least time; None if
    nothing is within it."""
    program, inner = _Program(), {root for branch in times.branches for root in branch.inner}
    place = {
        group.root: {
            width: program.column(loss(group, width) if width else 0.0, 0.0)
            for width in (*([0] if group.root in inner else []), *options[group.root])
        }
        for group in found
    }
    for branch in times.branches:
        place[branch.key] = {0: program.column(branch.importance, 0.0), 1: program.column(0.0, 0.0)}
    n_choices = len(program.loss)
    for columns in place.values():
        program.row(dict.fromkeys(columns.values(), 1.0), 1.0)
    for branch in times.branches:
        for root in branch.inner:
            program.row({place[root][0]: 1.0, place[branch.key][0]: -1.0}, 0.0)
    fixed = _with_times(program, place, times)
    chosen = _answer(program, n_choices, None if sum_ms is None else sum_ms - fixed)
    if chosen is None:
        return None
    return {root: max(columns, key=lambda width: chosen[columns[width]]) for root, columns in place.items()}


def _with_times(program: _Program, place: Mapping[str, Mapping[int, int]], times: LayerTimes) -> float:
    """Put the times of layers into the program; return the time of the layers that nothing changes."""
    fixed = 0.0
    for keys, layers in times.terms().items():

        def ms(*widths: int, keys=keys, layers=layers) -> float:  # type: ignore[no-untyped-def]
            at = dict(zip(keys, widths, strict=True))
            return sum(share * times.ms(use, pair, at) for use, pair, share in layers)

        if not keys:
            fixed += ms()
        elif len(keys) == 1:
            for width, column in place[keys[0]].items():
                program.ms[column] += ms(width)
        else:
            places = [place[key] for key in keys]
            _joint(program, places, {widths: ms(*widths) for widths in product(*places)})
    return fixed


def _joint(program: _Program, places: Sequence[Mapping[int, int]], ms: Mapping[tuple[int, ...], float]) -> None:
    """Add the variables of a pair of groups (or with a branch): their sums over the others' widths are each one's
    choice."""
    columns = {widths: program.column(0.0, time) for widths, time in ms.items()}
    for at, place in enumerate(places):
        for width, choice in place.items():
            program.row({**{c: 1.0 for w, c in columns.items() if w[at] == width}, choice: -1.0}, 0.0)


def _answer(program: _Program, n_choices: int, sum_ms: float | None) -> NDArray[np.float64] | None:
    """Return the values of the columns that lose the least within a time, or (without one) take the least; None if
    nothing is within it."""
    n = len(program.loss)
    row, column, value = zip(*program.rows, strict=True)
    equal = sparse.csr_array((value, (row, column)), shape=(len(program.equals), n))
    ms = np.array(program.ms)
    lost = ms if sum_ms is None else np.array(program.loss)
    constraints = [LinearConstraint(equal, program.equals, program.equals)]
    if sum_ms is not None:
        constraints.append(LinearConstraint(ms[None] / max(sum_ms, 1e-12), -np.inf, 1.0))
    found = milp(
        lost / max(float(np.abs(lost).max()), 1e-300),
        integrality=np.r_[np.ones(n_choices), np.zeros(n - n_choices)],
        bounds=Bounds(0, 1),
        constraints=constraints,
        options={"time_limit": _TIME_LIMIT_S, "mip_rel_gap": _GAP},
    )
    return None if found.x is None else np.asarray(found.x)
