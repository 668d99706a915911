"""Thresholds of all exits together: the front of mean value against expected time, on samples whose answers are known.

A search along single thresholds starts from equal ones, and goes on from every point of the front until nothing moves
it; with one exit it is exhaustive on the grid.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nacdeploy.cascades.cascade import NEVER

N_GRID, N_FRONT, N_ROUNDS = 48, 48, 4


@dataclass(frozen=True)
class Sampled:
    """The behaviour of exits on N samples.

    Attributes:
        confidences: (E, N), of each exit but the network's own end.
        values: (E + 1, N), the worth of each exit's answer, more is better; the network's own end last.
        ways_ms: the time of a sample that leaves at each exit, the network's own end last.
    """

    confidences: NDArray[Any]
    values: NDArray[Any]
    ways_ms: tuple[float, ...]

    def drawn(self, n: int) -> "Sampled":
        """Return `n` of the samples at random, the same every time, or all if there are no more."""
        n_all = self.confidences.shape[1]
        if n_all <= n:
            return self
        return self.part(np.random.default_rng(0).choice(n_all, n, replace=False))

    def part(self, places: NDArray[Any]) -> "Sampled":
        """Return the samples at places (N,), numbers or truth values."""
        return Sampled(self.confidences[:, places], self.values[:, places], self.ways_ms)


@dataclass(frozen=True)
class Point:
    """Thresholds, the mean value of the answers, the expected time, and the share of samples that leave at each
    exit."""

    thresholds: tuple[float, ...]
    value: float
    expected_ms: float
    fractions: tuple[float, ...]


def point(sampled: Sampled, thresholds: Sequence[float]) -> Point:
    """Return what thresholds do."""
    return next(iter(_points(sampled, np.array([thresholds], dtype=np.float64))))


def front(sampled: Sampled) -> tuple[Point, ...]:
    """Return points of which none is both faster and better than another, the fastest first; the last is the best."""
    grids = [_grid(each) for each in sampled.confidences]
    n_exits = len(grids)
    equal = np.unique(np.concatenate(grids))
    if len(equal) > N_GRID:
        equal = equal[np.unique(np.linspace(0, len(equal) - 1, N_GRID).astype(int))]
    known = _front(_points(sampled, np.repeat(equal[:, None], n_exits, axis=1)))
    moved: set[tuple[float, ...]] = set()
    for _ in range(N_ROUNDS):
        starts = [each for each in known if each.thresholds not in moved]
        if not starts:
            break
        moved.update(each.thresholds for each in starts)
        rows = np.concatenate([_moved(each, index, grids[index]) for each in starts for index in range(n_exits)])
        known = _front([*known, *_points(sampled, np.unique(rows, axis=0))])
    return known


def _moved(start: Point, index: int, grid: NDArray[Any]) -> NDArray[Any]:
    """Return the thresholds of a point with those of one exit in place of its own, (G, E)."""
    rows = np.repeat(np.array([start.thresholds]), len(grid), axis=0)
    rows[:, index] = grid
    return rows


def _grid(confidences: NDArray[Any]) -> NDArray[Any]:
    """Return thresholds that let quantiles of the samples leave, each half-way between two confidences."""
    ordered = np.sort(confidences.astype(np.float64))
    lower, upper = ordered[:-1], ordered[1:]
    places = np.unique(np.linspace(0, max(len(lower) - 1, 0), N_GRID).astype(int))[: len(lower)]
    between = [(lower[at] + upper[at]) / 2 for at in places if lower[at] < upper[at]]
    return np.array([0.0, *between, NEVER])


def _points(sampled: Sampled, rows: NDArray[Any]) -> list[Point]:
    """Return what each row of thresholds (M, E) does."""
    n_exits, n = sampled.confidences.shape
    ways, at = np.array(sampled.ways_ms), np.arange(n)
    found = []
    for row in rows:
        taken = np.full(n, n_exits)
        for index in reversed(range(n_exits)):
            taken[sampled.confidences[index] >= row[index]] = index
        shares = np.bincount(taken, minlength=n_exits + 1) / n
        value = float(sampled.values[taken, at].mean())
        found.append(Point(tuple(map(float, row)), value, float(shares @ ways), tuple(map(float, shares))))
    return found


def _front(points: Iterable[Point]) -> tuple[Point, ...]:
    """Return the points that are not beaten, thinned to a number."""
    kept: list[Point] = []
    for each in sorted(points, key=lambda p: (p.expected_ms, -p.value, p.thresholds)):
        if not kept or each.value > kept[-1].value:
            kept.append(each)
    if len(kept) <= N_FRONT:
        return tuple(kept)
    places = np.unique(np.linspace(0, len(kept) - 1, N_FRONT).astype(int))
    return tuple(kept[at] for at in places)
