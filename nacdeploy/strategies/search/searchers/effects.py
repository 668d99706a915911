"""The effects of letters, learned while a search runs: the surrogate that `surrogate.py` plans with.

Two models, both of a few numbers, so that a dozen observations are enough. A letter other than F multiplies the ratios
and adds to the drop as in its most similar earlier use: uses of the letter before, letters since the last F, and
whether there was an F at all. An F leaves a drop that is linear in the letters before it, the drop before them, and the
damage since, which saturates: it repairs 40 points nearly as well as 10. The prior says "F repairs nine tenths" of some
points: Bayesian linear regression, whose variance is what makes a search curious (Bishop, 2006, eq. 3.49 to 3.59).
The constants were chosen while watching nacbench (`docs/benchmarks.md`).
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Effect = tuple[Array, float]

_PRIOR_SPREAD_POINTS = 0.5  # of a predicted drop, before residuals were seen; 1,000 images are as noisy
_PRIOR_WEIGHT = 6  # observations that this prior counts as
_MAX_RESIDUAL_POINTS = 2.0  # a larger one counts as this much
_SATURATION_POINTS = 3.0  # damage well below counts as it is, damage well above as its logarithm
_PRIOR_LEFT, _PRIOR_LEFT_SPREAD = 0.2, 0.2  # the share of saturated damage that F leaves
_PRIOR_SLOPE_SPREAD = 0.3  # of everything else in the regression: points per letter, per point of floor, and at all
_OTHER_SIDE_OF_F = 1.0  # how far off, in letters, a use is before the first F for one behind it, and the reverse
_ELDER_WEIGHT = math.exp(-1.0)  # of other tasks' effects: that of a use one letter further off
_HOPELESS_SHARE = 1.0 / 3.0  # an F that leaves more of a fresh drop than this, and twice the limit, met a dead end
_LEFT_WHERE_HOPELESS = 0.6
_MOST_REGAINED_POINTS = 2.0  # of what an earlier F left: a network that is lost is not found again


class Spread:
    """The standard deviation of predictions in points, from a prior and the observed residuals."""

    def __init__(self) -> None:
        self._n, self._sum = float(_PRIOR_WEIGHT), _PRIOR_WEIGHT * _PRIOR_SPREAD_POINTS**2

    def learn(self, residual: float, weight: float = 1.0) -> None:
        """Add the residual of one more prediction."""
        self._n += weight
        self._sum += weight * min(abs(residual), _MAX_RESIDUAL_POINTS) ** 2

    def points(self) -> float:
        """The standard deviation."""
        return math.sqrt(self._sum / self._n)


class _LetterUse(NamedTuple):
    """A use of a step, with the points by which it was predicted wrongly; None of the first, which was not."""

    n_before: int
    n_fresh: int
    is_trained: bool
    log_factors: Array
    added: float
    residual: float | None

    def distance(self, n_before: int, n_fresh: int, is_trained: bool) -> float:
        """How unlike another use of the same letter is."""
        aside = 0.5 * abs(self.n_fresh - n_fresh) + _OTHER_SIDE_OF_F * (self.is_trained != is_trained)
        return abs(self.n_before - n_before) + aside


class Effects:
    """The observed effects of each step, by earlier uses of its letter, letters since the last F, and a first F.

    A step is a letter with one choice of its parameters. Choices of one family (`Alphabet.families`) share
    observations: an unseen choice lies between two seen ones, linear in the logarithm of the parameter. Prior searches
    (`elders`: the effects of other tasks) count as one more use, further away than any use in the task itself.
    """

    def __init__(self, families: Mapping[str, tuple[str, float]], elders: Sequence["Effects"] = ()) -> None:
        self._families, self._elders = families, tuple(elders)
        self._uses: dict[str, list[_LetterUse]] = {}
        self._known: dict[tuple[str, int, int, bool], Effect] = {}
        self._spreads: dict[tuple[str, int, int, bool], float] = {}

    def learn(
        self, symbol: str, n_before: int, n_fresh: int, log_factors: Array, added: float, is_trained: bool = False
    ) -> None:
        """Remember one observed step; `added` is in points, `is_trained` says that an F came before."""
        where = (n_before, n_fresh, is_trained)
        residual = added - self.expected(symbol, *where)[1] if symbol in self._uses else None
        self._uses.setdefault(symbol, []).append(_LetterUse(*where, log_factors, added, residual))
        self._known.clear()
        self._spreads.clear()

    def knows(self, symbol: str) -> bool:
        """Tell whether the step can be predicted: it was seen, two of its family were, or a prior search knows it."""
        return symbol in self._uses or self._knows_family(symbol) or any(e.knows(symbol) for e in self._elders)

    def spread_points(self, symbol: str, n_before: int, n_fresh: int, is_trained: bool = False) -> float:
        """Return the standard deviation of the points that a use of the step adds, from the residuals of like uses."""
        asked = (symbol, n_before, n_fresh, is_trained)
        if asked not in self._spreads:
            spread = Spread()
            for use in self._uses.get(symbol, []):
                if use.residual is not None:
                    spread.learn(use.residual, math.exp(-use.distance(n_before, n_fresh, is_trained)))
            self._spreads[asked] = spread.points()
        return self._spreads[asked]

    def is_end(self, symbol: str) -> bool:
        """Tell whether the step is the weakest or the strongest choice of its family."""
        family, at = self._families[symbol]
        places = [x for f, x in self._families.values() if f == family]
        return at in (min(places), max(places))

    def expected(self, symbol: str, n_before: int, n_fresh: int, is_trained: bool = False) -> Effect:
        """Return the log factors on the ratios and the points added; the step must be known."""
        asked = (symbol, n_before, n_fresh, is_trained)
        if asked not in self._known:
            self._known[asked] = self._estimate(*asked)
        return self._known[asked]

    def _estimate(self, symbol: str, n_before: int, n_fresh: int, is_trained: bool) -> Effect:
        """Return factors as the median of the nearest uses, and points as a mean of all uses, weighted by nearness."""
        uses, elders = self._uses.get(symbol, []), self._advice(symbol, n_before, n_fresh, is_trained)
        if not uses:
            return elders or self._between(symbol, n_before, n_fresh, is_trained)
        nearest = min(abs(use.n_before - n_before) for use in uses)
        factors = medians([u.log_factors for u in uses if abs(u.n_before - n_before) == nearest])
        weights = [math.exp(nearest - use.distance(n_before, n_fresh, is_trained)) for use in uses]
        points, weight = sum(w * u.added for w, u in zip(weights, uses, strict=True)), sum(weights)
        if elders is not None:
            points, weight = points + _ELDER_WEIGHT * elders[1], weight + _ELDER_WEIGHT
            factors = elders[0] if nearest else factors
        return factors, points / weight

    def _advice(self, symbol: str, n_before: int, n_fresh: int, is_trained: bool) -> Effect | None:
        """Return the prior searches' prediction: the median factors, the mean of the points."""
        said = [e.expected(symbol, n_before, n_fresh, is_trained) for e in self._elders if e.knows(symbol)]
        return (medians([f for f, _ in said]), sum(p for _, p in said) / len(said)) if said else None

    def _knows_family(self, symbol: str) -> bool:
        return len(self._siblings(symbol)) > 1

    def _siblings(self, symbol: str) -> list[tuple[float, str]]:
        """Return the seen choices of the symbol's family by the logarithm of their parameter, ascending."""
        family = self._families.get(symbol, (symbol, 0.0))[0]
        return sorted((x, other) for other, (f, x) in self._families.items() if f == family and other in self._uses)

    def _between(self, symbol: str, n_before: int, n_fresh: int, is_trained: bool) -> Effect:
        """Interpolate in log(parameter) between seen choices; beyond them, use the last one."""
        places, symbols = zip(*self._siblings(symbol), strict=True)
        said = [self.expected(other, n_before, n_fresh, is_trained) for other in symbols]
        at = self._families[symbol][1]
        factors = [np.interp(at, places, column) for column in np.transpose([factors for factors, _ in said])]
        return np.array(factors), float(np.interp(at, places, [points for _, points in said]))


def medians(rows: Sequence[Array]) -> Array:
    """Return the median of each column over its numbers; a column without numbers gives NaN."""
    if len(rows) == 1:
        return rows[0]
    table = np.array(rows)
    return np.array([np.median(known) if len(known := c[~np.isnan(c)]) else math.nan for c in table.T])


class TrainingEffects:
    """The drop that an F leaves: linear in the letters since the last F, the damage that they did, saturated, and the
    drop before."""

    def __init__(self, n_letters: int, max_drop: float, elders: Sequence["TrainingEffects"] = ()) -> None:
        self.spread = Spread()
        self._max_drop, self._n_seen = max_drop, 0
        spreads = np.array([*[_PRIOR_SLOPE_SPREAD] * n_letters, _PRIOR_LEFT_SPREAD, *[_PRIOR_SLOPE_SPREAD] * 2])
        self._precision = np.diag(spreads**-2)
        self._moment = self._precision @ np.array([*[0.0] * n_letters, _PRIOR_LEFT, 1.0, 0.0])
        self._prior = self._precision, self._moment
        for elder in elders:
            self._heed(elder, _PRIOR_WEIGHT / len(elders))
        self._hopeless: dict[int, int] = {}
        self._solve()

    def _heed(self, elder: "TrainingEffects", n_seen: float) -> None:
        """Add the observations of another task as if they had been seen `n_seen` times here."""
        share = min(1.0, n_seen / max(1, elder._n_seen))
        self._precision = self._precision + share * (elder._precision - elder._prior[0])
        self._moment = self._moment + share * (elder._moment - elder._prior[1])

    def learn(
        self, counts: Sequence[int], fresh: Sequence[int], floor: float, drop: float, left: float, culprit: int
    ) -> None:
        """Learn that an F left `left` of `drop` points. A dead end is not regressed on: it ends that use of the
        culprit.

        Args:
            counts: uses of each letter in the whole word.
            fresh: uses since the F before.
            floor: the drop after the F before.
            drop: points before this F.
            left: points after it.
            culprit: index of the letter that did the most damage since the F before.
        """
        if left > max(2.0 * self._max_drop, _HOPELESS_SHARE * (drop - floor)):
            self._hopeless[culprit] = min(self._hopeless.get(culprit, counts[culprit]), counts[culprit])
            return
        inputs = self._inputs(fresh, floor, drop)
        self.spread.learn(left - float(self._slopes @ inputs))
        self._n_seen += 1
        self._precision = self._precision + np.outer(inputs, inputs) / _PRIOR_SPREAD_POINTS**2
        self._moment = self._moment + inputs * left / _PRIOR_SPREAD_POINTS**2
        self._solve()

    def expected(self, counts: Sequence[int], fresh: Sequence[int], floor: float, drop: float) -> tuple[float, float]:
        """Return the drop that an F would leave, and its standard deviation, in points."""
        if self._is_hopeless(counts, fresh):
            return max(_LEFT_WHERE_HOPELESS * drop, floor), self.spread.points()
        inputs = self._inputs(fresh, floor, drop)
        variance = self.spread.points() ** 2 + float(inputs @ self._covariance @ inputs)
        left = max(float(self._slopes @ inputs), floor - _MOST_REGAINED_POINTS)
        return min(drop, left), math.sqrt(variance)

    def _inputs(self, fresh: Sequence[int], floor: float, drop: float) -> Array:
        damage = _SATURATION_POINTS * math.log1p(max(0.0, drop - floor) / _SATURATION_POINTS)
        return np.array([*fresh, damage, floor, 1.0])

    def _solve(self) -> None:
        self._covariance = np.linalg.inv(self._precision)
        self._slopes = self._covariance @ self._moment

    def _is_hopeless(self, counts: Sequence[int], fresh: Sequence[int]) -> bool:
        return any(fresh[i] and counts[i] >= count for i, count in self._hopeless.items())
