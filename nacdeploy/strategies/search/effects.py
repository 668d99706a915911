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
    """The drop that an F leaves: linear in the letters since the last F, the drop they added, and the drop before."""

    def __init__(self, n_letters: int, max_drop: float) -> None:
        self.spread = Spread()
        self._max_drop = max_drop
        spreads = np.array([*[_PRIOR_SLOPE_SPREAD] * n_letters, _PRIOR_LEFT_SPREAD, *[_PRIOR_SLOPE_SPREAD] * 2])
        self._precision = np.diag(spreads**-2)
        self._moment = self._precision @ np.array([*[0.0] * n_letters, _PRIOR_LEFT, 1.0, 0.0])
        self._hopeless: dict[int, int] = {}
        self._solve()

    def learn(
        self, counts: Sequence[int], fresh: Sequence[int], floor: float, drop: float, left: float, culprit: int
    ) -> None:
        """An F left `left` of `drop` points. A dead end is not regressed on: it ends that use of the culprit.

        Args:
            counts: uses of each letter in the whole word.
            fresh: uses since the F before.
            floor: the drop that the F before had left.
            drop: points before this F.
            left: points after it.
            culprit: index of the letter that did the most damage since the F before.
        """
        if left > max(2.0 * self._max_drop, _HOPELESS_SHARE * (drop - floor)):
            self._hopeless[culprit] = min(self._hopeless.get(culprit, counts[culprit]), counts[culprit])
            return
        inputs = self._inputs(fresh, floor, drop)
        self.spread.learn(left - float(self._slopes @ inputs))
        self._precision += np.outer(inputs, inputs) / _PRIOR_SPREAD_POINTS**2
        self._moment = self._moment + inputs * left / _PRIOR_SPREAD_POINTS**2
        self._solve()

    def expected(self, counts: Sequence[int], fresh: Sequence[int], floor: float, drop: float) -> tuple[float, float]:
        """The drop that an F would leave, and its standard deviation, in points."""
        if self._is_hopeless(counts, fresh):
            return max(_LEFT_WHERE_HOPELESS * drop, floor), self.spread.points()
        inputs = self._inputs(fresh, floor, drop)
        variance = self.spread.points() ** 2 + float(inputs @ self._covariance @ inputs)
        return min(drop, float(self._slopes @ inputs)), math.sqrt(variance)

    def _inputs(self, fresh: Sequence[int], floor: float, drop: float) -> Array:
        return np.array([*fresh, max(0.0, drop - floor), floor, 1.0])

    def _solve(self) -> None:
        self._covariance = np.linalg.inv(self._precision)
        self._slopes = self._covariance @ self._moment

    def _is_hopeless(self, counts: Sequence[int], fresh: Sequence[int]) -> bool:
        return any(fresh[i] and counts[i] >= count for i, count in self._hopeless.items())
