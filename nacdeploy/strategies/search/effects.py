"""What letters do, learned while a search runs: the surrogate that `surrogate.py` plans with.

Two models, both of a few numbers, so that a dozen observations are enough. A letter other than F multiplies the ratios
and adds to the accuracy drop, as it did where it was used most alike. An F leaves a drop that is linear in what came
before it, with a prior that says "F repairs nine tenths": Bayesian linear regression, whose variance is what makes a
search curious (Bishop, 2006, eq. 3.49 to 3.59).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_PRIOR_SPREAD_POINTS = 0.5  # of a predicted drop, before residuals were seen; 1,000 images are as noisy
_PRIOR_WEIGHT = 6  # observations that this prior counts as
_MAX_RESIDUAL_POINTS = 2.0  # a larger one counts as this much
_PRIOR_LEFT, _PRIOR_LEFT_SPREAD = 0.1, 0.1  # the share of a fresh drop that F leaves
_PRIOR_SLOPE_SPREAD = 0.3  # of everything else in the regression: points per letter, per point of floor, and at all
_SMOOTH_SPREAD_POINTS, _SMOOTH_LETTERS, _NOISE_POINTS = 0.7, 3.0, 0.3
_HOPELESS_SHARE = 1.0 / 3.0  # an F that leaves more of a fresh drop than this, and twice the limit, met a dead end
_LEFT_WHERE_HOPELESS = 0.6


class Spread:
    """The standard deviation of predictions in points: a prior and the residuals seen."""

    def __init__(self) -> None:
        self._n, self._sum = _PRIOR_WEIGHT, _PRIOR_WEIGHT * _PRIOR_SPREAD_POINTS**2

    def learn(self, residual: float) -> None:
        """One more prediction was this far off."""
        self._n, self._sum = self._n + 1, self._sum + min(abs(residual), _MAX_RESIDUAL_POINTS) ** 2

    def points(self) -> float:
        """The standard deviation."""
        return math.sqrt(self._sum / self._n)


class _Use(NamedTuple):
    n_before: int
    n_fresh: int
    log_factors: Array
    added: float


class Effects:
    """What each letter did, by how often it was there before and how many letters had come since the last F."""

    def __init__(self) -> None:
        self.spread = Spread()
        self._uses: dict[str, list[_Use]] = {}
        self._known: dict[tuple[str, int, int], tuple[Array, float]] = {}

    def learn(self, letter: str, n_before: int, n_fresh: int, log_factors: Array, added: float) -> None:
        """Remember one observed step; `added` is in accuracy points."""
        if letter in self._uses:
            self.spread.learn(added - self.expected(letter, n_before, n_fresh)[1])
        self._uses.setdefault(letter, []).append(_Use(n_before, n_fresh, log_factors, added))
        self._known.clear()

    def knows(self, letter: str) -> bool:
        """Whether the letter was ever seen."""
        return letter in self._uses

    def expected(self, letter: str, n_before: int, n_fresh: int) -> tuple[Array, float]:
        """The log factors on the ratios and the points added; the letter must be known."""
        asked = (letter, n_before, n_fresh)
        if asked not in self._known:
            self._known[asked] = self._estimate(*asked)
        return self._known[asked]

    def _estimate(self, letter: str, n_before: int, n_fresh: int) -> tuple[Array, float]:
        """Factors: the median of the nearest uses. Points: all uses, the nearer the more they count."""
        uses = self._uses[letter]
        nearest = min(abs(use.n_before - n_before) for use in uses)
        factors = np.median([u.log_factors for u in uses if abs(u.n_before - n_before) == nearest], axis=0)
        weights = [math.exp(nearest - abs(u.n_before - n_before) - 0.5 * abs(u.n_fresh - n_fresh)) for u in uses]
        return factors, sum(w * u.added for w, u in zip(weights, uses, strict=True)) / sum(weights)


class Recovery:
    """The drop that an F leaves: a Gaussian process over what came before it (Rasmussen and Williams, 2006, eq. 2.25).

    Its mean is linear, with priors, in the letters since the last F, the drop they added, and the drop before; what is
    left over is smooth in how often each letter was used at all.
    """

    def __init__(self, n_letters: int, max_drop: float) -> None:
        self.spread = Spread()
        self._max_drop = max_drop
        self._slopes = np.array([*[0.0] * n_letters, _PRIOR_LEFT, 1.0, 0.0])
        self._variances = np.array([*[_PRIOR_SLOPE_SPREAD] * n_letters, _PRIOR_LEFT_SPREAD, *[_PRIOR_SLOPE_SPREAD] * 2]) ** 2
        self._seen: list[Array] = []
        self._places: list[Array] = []
        self._excess: list[float] = []
        self._hopeless: dict[int, int] = {}
        self._known: dict[object, tuple[float, float]] = {}
        self._solve()

    def learn(self, counts, fresh, floor, drop, left, culprit) -> None:
        if left > max(2.0 * self._max_drop, _HOPELESS_SHARE * (drop - floor)):
            self._hopeless[culprit] = min(self._hopeless.get(culprit, counts[culprit]), counts[culprit])
            self._known.clear()
            return
        self.spread.learn(left - self.expected(counts, fresh, floor, drop)[0])
        inputs = self._inputs(fresh, floor, drop)
        self._seen.append(inputs)
        self._places.append(self._place(counts, fresh))
        self._excess.append(left - float(self._slopes @ inputs))
        self._known.clear()
        self._solve()

    def expected(self, counts, fresh, floor, drop) -> tuple[float, float]:
        if self._is_hopeless(counts, fresh):
            return max(_LEFT_WHERE_HOPELESS * drop, floor), self.spread.points()
        asked = (counts, fresh, floor, drop)
        if asked not in self._known:
            self._known[asked] = self._estimate(*asked)
        return self._known[asked]

    def _estimate(self, counts, fresh, floor, drop):
        inputs, place = self._inputs(fresh, floor, drop), self._place(counts, fresh)
        mean, variance = float(self._slopes @ inputs), float(inputs**2 @ self._variances) + _SMOOTH_SPREAD_POINTS**2
        if self._seen:
            to = self._phi @ (self._variances * inputs) + self._smooth(self._where - place)
            mean += float(to @ self._weights)
            variance -= float(to @ self._inverse @ to)
        return min(drop, mean), math.sqrt(max(0.0, variance) + self.spread.points() ** 2)

    def _inputs(self, fresh: Sequence[int], floor: float, drop: float) -> Array:
        return np.array([*fresh, max(0.0, drop - floor), floor, 1.0])

    def _place(self, counts, fresh):
        return np.array([*counts, *fresh]) / _SMOOTH_LETTERS

    def _smooth(self, apart):
        return _SMOOTH_SPREAD_POINTS**2 * np.exp(-0.5 * (apart**2).sum(-1))

    def _solve(self) -> None:
        if not self._seen:
            return
        self._phi, self._where = np.array(self._seen), np.array(self._places)
        both = (self._phi * self._variances) @ self._phi.T + self._smooth(self._where[:, None] - self._where[None])
        self._inverse = np.linalg.inv(both + _NOISE_POINTS**2 * np.eye(len(both)))
        self._weights = self._inverse @ np.array(self._excess)

    def _is_hopeless(self, counts: Sequence[int], fresh: Sequence[int]) -> bool:
        return any(fresh[i] and counts[i] >= count for i, count in self._hopeless.items())
