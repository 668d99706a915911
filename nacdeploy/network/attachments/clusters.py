"""Shared values: one-dimensional k-means, evenly spaced levels, and each weight's place among them (numpy, no network).

Everything is deterministic: what is drawn is drawn from a fixed seed.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_N_RESTARTS = 5
_MOST_STEPS = 300
_MOST_POINTS = 1 << 16
_N_BINS = 1 << 16


@dataclass(frozen=True)
class Points:
    """Values on a line in rising order (n,) with the weight of each, as sums from the left (n + 1,)."""

    values: Floats
    mass: Floats
    moment: Floats

    @property
    def weights(self) -> Floats:
        return np.diff(self.mass)


def points(values: Floats, weights: Floats | None = None) -> Points:
    """Values as points; many become the means of the cells of a fine grid."""
    if len(values) > _MOST_POINTS:
        low, high = float(values.min()), float(values.max())
        cells = np.minimum((values - low) * (_N_BINS / max(high - low, 1e-300)), _N_BINS - 1).astype(np.int64)
        mass = np.bincount(cells, weights, _N_BINS).astype(np.float64)
        moment = np.bincount(cells, values if weights is None else values * weights, _N_BINS)
        values, weights = moment[mass > 0] / mass[mass > 0], mass[mass > 0]
    order = np.argsort(values, kind="stable")
    values, weights = values[order], np.ones(len(values)) if weights is None else weights[order]
    sums = (np.concatenate([[0.0], np.cumsum(each)]) for each in (weights, weights * values))
    return Points(values, *sums)


def kmeans(values: Floats, k: int, init: str = "kmeans++", weights: Floats | None = None) -> Floats:
    """`k` rising centroids (Lloyd, 1982), each the mean of the values that it is nearest to; one that is nearest to
    none moves to where the error is largest.

    `init`: `linear` between the extremes, `density` at equal shares of the values (both Han et al., 2016, section 3.2),
    `kmeans++` (Arthur & Vassilvitskii, 2007) and `random`, of which the best of several draws is taken.
    """
    if not len(values):
        return np.zeros(k)
    line = points(values, weights)
    found = [_lloyd(line, start) for start in _starts(line, k, init)]
    return min(found, key=lambda centroids: _squared_error(line, centroids))


def _starts(line: Points, k: int, init: str) -> list[Floats]:
    if init == "linear":
        return [np.linspace(line.values[0], line.values[-1], k)]
    if init == "density":
        shares = (np.arange(k) + 0.5) / k * line.mass[-1]
        return [line.values[np.minimum(np.searchsorted(line.mass[1:], shares), len(line.values) - 1)]]
    draw = _plus_plus if init == "kmeans++" else _drawn
    return [np.sort(draw(line, k, np.random.default_rng(seed))) for seed in range(_N_RESTARTS)]


def _drawn(line: Points, k: int, generator: np.random.Generator) -> Floats:
    return line.values[generator.choice(len(line.values), k, replace=len(line.values) < k)]


def _plus_plus(line: Points, k: int, generator: np.random.Generator) -> Floats:
    """Each next centroid is drawn with a chance that grows as the squared distance to the nearest so far."""
    chosen = [line.values[np.searchsorted(line.mass[1:], generator.random() * line.mass[-1])]]
    nearest = np.full(len(line.values), np.inf)
    while len(chosen) < k:
        nearest = np.minimum(nearest, np.square(line.values - chosen[-1]))
        sums = np.cumsum(nearest * line.weights)
        place = np.searchsorted(sums, generator.random() * sums[-1])
        chosen.append(line.values[min(int(place), len(line.values) - 1)])
    return np.array(chosen)


def _lloyd(line: Points, centroids: Floats) -> Floats:
    for _ in range(_MOST_STEPS):
        edges = _edges(line, centroids)
        mass, moment = np.diff(line.mass[edges]), np.diff(line.moment[edges])
        moved = np.where(mass > 0, moment / np.where(mass > 0, mass, 1), centroids)
        if not mass.all():
            moved[mass == 0] = _farthest(line, moved[mass > 0], int((mass == 0).sum()))
        moved = np.sort(moved)
        if np.array_equal(moved, centroids):
            break
        centroids = moved
    return centroids


def _farthest(line: Points, centroids: Floats, n: int) -> Floats:
    """The `n` values that are farthest from their centroid, each from another part of the line where there are such."""
    distance = np.abs(line.values - centroids[nearest(line.values, centroids)]) * np.sqrt(line.weights)
    parts = np.array_split(np.arange(len(distance)), min(n, len(distance)))
    found = [int(part[np.argmax(distance[part])]) for part in parts]
    return line.values[np.resize(found, n)]


def _edges(line: Points, centroids: Floats) -> NDArray[np.int64]:
    """Where each centroid's points begin, the end of the last (k + 1,)."""
    between = np.searchsorted(line.values, (centroids[1:] + centroids[:-1]) / 2)
    return np.concatenate([[0], between, [len(line.values)]])


def _squared_error(line: Points, centroids: Floats) -> float:
    nearest = np.repeat(centroids, np.diff(_edges(line, centroids)))
    return float((np.square(line.values - nearest) * line.weights).sum())


def levels(values: Floats, k: int) -> Floats:
    """`k` evenly spaced values between the order statistics at 0.1 % and 99.9 %, which leaves out stray extremes."""
    if not len(values):
        return np.zeros(k)
    ordered = np.sort(values)
    low, high = (ordered[round(share * (len(values) - 1))] for share in (0.001, 0.999))
    return np.linspace(low, high, k)


def nearest(values: Floats, centroids: Floats) -> NDArray[np.int64]:
    """The index of the centroid (rising) that is nearest to each value."""
    return np.searchsorted((centroids[1:] + centroids[:-1]) / 2, values)
