"""Objective: the quantity that a search maximises, and the models that are allowed to win.

An objective sees figures of one evaluated chain, never a model. Its worth depends on the end state only: NAC's rewards
are differences of a potential, so their sum along a chain telescopes. No objective admits a destroyed model, whatever
the budget.

Inside a search a drop is in points: hundredths of the quality that the task's metric makes of a score.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

from nacdeploy.base.errors import UsageError, unknown
from nacdeploy.metrics import DEFAULT, Metric, drop, named, scored, spelled
from nacdeploy.profile.tables.search import SCORES, SearchTable
from nacdeploy.strategies.search import pareto

# 100 * (0.95 - 0.94) is a little more than 1: a drop equal to its limit must not fail by rounding.
DROP_TOLERANCE = 1e-9
# A model is destroyed once it keeps less than this of what the baseline knows beyond answering without looking.
ALIVE_FRACTION = 0.25


@scored
@dataclass(frozen=True)
class Figures:
    """The figures of an evaluated chain for an objective. Ratios are baseline / now: more is better.

    `score` is the named metric's on the validation split, from `n_images` of it. The score of the whole split lies
    within `half_width` of it with the confidence that was asked for (0: all were counted). `chance_score` is the score
    of the best answer that looks at no image. `speed_ratio` is set only if it was measured, with its 95 % interval
    `speed_low` to `speed_high`, or estimated, without an interval.
    """

    score: float
    baseline_score: float
    bitops_ratio: float
    macs_ratio: float
    bytes_ratio: float
    nac_bitops_ratio: float
    nac_memory_ratio: float
    speed_ratio: float | None = None
    speed_low: float | None = None
    speed_high: float | None = None
    n_images: int = 0
    half_width: float = 0.0
    chance_score: float = 0.0
    metric: str = DEFAULT

    @property
    def scored_by(self) -> Metric:
        """The metric itself."""
        return named(self.metric)

    @property
    def quality(self) -> float:
        """The score on the scale on which more is better and 1 is perfect."""
        return self.scored_by.quality(self.score, self.chance_score)

    @property
    def baseline_quality(self) -> float:
        """The baseline's score on that scale."""
        return self.scored_by.quality(self.baseline_score, self.chance_score)

    @property
    def drop_points(self) -> float:
        """The loss against the baseline, in points."""
        return 100.0 * (self.baseline_quality - self.quality)

    @property
    def drop(self) -> float:
        """The loss against the baseline, in the metric's own unit."""
        return drop(self.scored_by, self.baseline_score, self.score)

    def with_quality(self, quality: float) -> "Figures":
        """Return the same figures with the score of another quality: a plan."""
        return replace(self, score=self.scored_by.of_quality(quality, self.chance_score))


# No ratio of anything to anything is larger: a network of one weight against one of 10^12.
_LARGEST_RATIO = 1e12


def check_figures(figures: Figures) -> None:
    """Check that figures from a file are possible.

    Raises:
        UsageError: a score is outside the metric's bounds, a ratio not above 0 or absurd, a number of images negative.
    """
    low, high = figures.scored_by.bounds
    for key in ("score", "baseline_score", "chance_score"):
        if not low <= (value := getattr(figures, key)) <= high:
            raise UsageError(f"{spelled(key, figures.metric)} is {value:g}, and lies from {low:g} to {high:g}")
    for key, value in vars(figures).items():
        if ("_ratio" in key or key.startswith("speed_")) and value is not None and not 0 < value < _LARGEST_RATIO:
            raise UsageError(f"{key} is {value:g}, and no such ratio is")
    if figures.n_images < 0 or figures.half_width < 0:
        raise UsageError(f"figures of {figures.n_images} images within {figures.half_width:g} cannot be")


class RewardTerms(NamedTuple):
    """NAC's five terms: done, accuracy, time, BitOps, memory. NAC never gave the first and the third a value."""

    dr: float
    ar: float
    tr: float
    br: float
    mr: float


@dataclass(frozen=True)
class NacWeights:
    """Effective weights (NAC's table times its 0.5); the accuracy weight is 22.5, 15 or 11.25 in the published logs."""

    accuracy: float = 22.5
    bitops: float = 1.4
    memory: float = 0.7


@dataclass(frozen=True)
class NacReward:
    """The reward of one transition."""

    raw: RewardTerms
    weighted: RewardTerms

    @property
    def total(self) -> float:
        """The sum of the weighted terms."""
        return sum(self.weighted)


Point = tuple[float, float, float]


def nac_rewards(baseline: float, past: Point, now: Point, weights: NacWeights) -> NacReward:
    """Return NAC's reward of one transition; points are (quality in per cent, BitOps ratio with exits, memory
    ratio)."""
    ar = _charge(baseline - past[0]) - _charge(baseline - now[0])
    br = now[0] / baseline * now[1] - past[0] / baseline * past[1]
    mr = now[0] / baseline * now[2] - past[0] / baseline * past[2]
    raw = RewardTerms(0.0, ar, 0.0, br, mr)
    weighted = RewardTerms(0.0, weights.accuracy * ar, 0.0, weights.bitops * br, weights.memory * mr)
    return NacReward(raw, weighted)


def _charge(drop: float) -> float:
    """Return NAC's charge for a drop of so many points; a gain counts a quarter and is capped at 0.8 points."""
    if drop < 0:
        return math.log2(max(drop, -0.8) + 1.0) / 4.0
    return math.log2(drop + 1.0)


def nac_warmup(step: int) -> float:
    """Return the factor on the accuracy term while NAC's agent learns (`--arinc`): from 0.1 up to 1 at step 2000."""
    return min(0.9 * step / 2000.0 + 0.1, 1.0)


def is_alive(figures: Figures) -> bool:
    """Tell whether a model still does its task: a finite score, well beyond the score of answering without looking."""
    metric, without = figures.scored_by, figures.chance_score
    low, high = metric.bounds
    chance = metric.quality(without, without)
    margin = max(0.0, figures.baseline_quality - chance)
    is_enough = not margin or figures.quality >= chance + ALIVE_FRACTION * margin
    return low <= figures.score <= high and math.isfinite(figures.score) and is_enough


def _within(figures: Figures, max_drop: float) -> bool:
    """Tell whether a model is alive and within a budget in points; a value that is not a number never is."""
    return is_alive(figures) and figures.drop_points <= max_drop + DROP_TOLERANCE


def ratio(figures: Figures, figure: str) -> float:
    """Return the ratio of a figure by its name.

    A measured speed counts by the lower end of its interval, so that noise wins nothing. For an unknown speed, plans
    use the ratio of MACs.
    """
    if figure != "speed":
        return float(getattr(figures, f"{figure}_ratio"))
    known = (figures.speed_low, figures.speed_ratio, figures.macs_ratio)
    return next(value for value in known if value is not None)


class Objective(Protocol):
    """The goal of a search: a score to plan with, a worth to rank answers by, and a test which models may win.

    >>> objective: Objective = BudgetObjective(max_drop=1.0, figure="bitops")
    >>> figures = Figures(0.95, 0.97, 4.0, 1.0, 4.0, 4.0, 4.0, chance_score=0.1)
    >>> objective.score(figures), objective.admissible(figures)
    (4.0, False)
    """

    @property
    def name(self) -> str: ...

    @property
    def max_drop(self) -> float:
        """The allowed drop, in points."""
        ...

    def score(self, figures: Figures) -> float:
        """Return the score that a searcher plans with, more is better; it may depend on the figures noted so far."""
        ...

    def worth(self, figures: Figures) -> float:
        """Return how good a model is by itself: the answer of the search is the admissible model of most worth."""
        ...

    def admissible(self, figures: Figures) -> bool:
        """Tell whether this model may win at all: no destroyed model can."""
        ...

    def note(self, figures: Figures) -> None:
        """Take the figures of an evaluated chain, in the order of the journal."""
        ...


@dataclass(frozen=True)
class NacObjective:
    """The sum of NAC's rewards from the untouched model to this state."""

    max_drop: float
    weights: NacWeights
    name: str = "nac"

    def score(self, figures: Figures) -> float:
        baseline = 100.0 * figures.baseline_quality
        now = (100.0 * figures.quality, figures.nac_bitops_ratio, figures.nac_memory_ratio)
        return nac_rewards(baseline, (baseline, 1.0, 1.0), now, self.weights).total

    def worth(self, figures: Figures) -> float:
        return self.score(figures)

    def admissible(self, figures: Figures) -> bool:
        return _within(figures, self.max_drop) and math.isfinite(self.score(figures))

    def note(self, figures: Figures) -> None:
        pass


@dataclass(frozen=True)
class BudgetObjective:
    """The most of one figure within a budget of points."""

    max_drop: float
    figure: str
    name: str = "budget"

    def score(self, figures: Figures) -> float:
        return ratio(figures, self.figure)

    def worth(self, figures: Figures) -> float:
        return self.score(figures)

    def admissible(self, figures: Figures) -> bool:
        is_known = self.figure != "speed" or figures.speed_ratio is not None
        return is_known and _within(figures, self.max_drop) and math.isfinite(self.score(figures))

    def note(self, figures: Figures) -> None:
        pass


@dataclass(frozen=True)
class TimeObjective:
    """The best quality at a time, within a budget of points.

    `speedup` is the baseline's time over the time allowed. A plan that is slower loses a point of quality for each per
    cent that it is too slow, so that a searcher comes nearer.
    """

    max_drop: float
    speedup: float
    name: str = "time"

    def score(self, figures: Figures) -> float:
        known = figures.macs_ratio if figures.speed_ratio is None else figures.speed_ratio
        return 100.0 * figures.quality - 100.0 * max(0.0, math.log(self.speedup / known))

    def worth(self, figures: Figures) -> float:
        return self.score(figures)

    def admissible(self, figures: Figures) -> bool:
        is_fast = figures.speed_ratio is not None and figures.speed_ratio >= self.speedup
        return is_fast and _within(figures, self.max_drop)

    def note(self, figures: Figures) -> None:
        pass


@dataclass
class ParetoObjective:
    """The front of several figures within a budget of points.

    A score is the hypervolume of the front so far with the model on it, so that the improvement over the best score is
    the volume gained, and a searcher that plans for improvement widens the front. The axes are the logarithms of
    ratios, beyond one half, and the quality left beyond a budget one point larger, as a share of that: a model at the
    limit, or of a little more bytes than the baseline, still counts.
    """

    max_drop: float
    figures: tuple[str, ...]
    name: str = "pareto"
    _front: list[pareto.Point] = field(default_factory=list)
    _volume: float = 0.0

    def score(self, figures: Figures) -> float:
        return self._volume + pareto.gained(self._point(figures), self._front)

    def worth(self, figures: Figures) -> float:
        return pareto.hypervolume([self._point(figures)])

    def admissible(self, figures: Figures) -> bool:
        is_known = "speed" not in self.figures or figures.speed_ratio is not None
        return is_known and _within(figures, self.max_drop) and all(map(math.isfinite, self._point(figures)))

    def note(self, figures: Figures) -> None:
        if self.admissible(figures):
            self._front = pareto.non_dominated([*self._front, self._point(figures)])
            self._volume = pareto.hypervolume(self._front)

    def _point(self, figures: Figures) -> pareto.Point:
        room = self.max_drop + 1.0
        left = (room - figures.drop_points) / room
        return tuple(left if f in SCORES else 1.0 + math.log2(max(ratio(figures, f), 1e-9)) for f in self.figures)


def _nac(table: SearchTable, max_drop: float) -> Objective:
    return NacObjective(max_drop, NacWeights(accuracy=table.nac_accuracy_weight))


def _budget(table: SearchTable, max_drop: float) -> Objective:
    return BudgetObjective(max_drop, table.figure)


def _latency(table: SearchTable, max_drop: float) -> Objective:
    return BudgetObjective(max_drop, "speed", "latency")


def _pareto(table: SearchTable, max_drop: float) -> Objective:
    return ParetoObjective(max_drop, table.objectives)


OBJECTIVES: dict[str, Callable[[SearchTable, float], Objective]] = {
    "nac": _nac,
    "budget": _budget,
    "latency": _latency,
    "pareto": _pareto,
}


def make(table: SearchTable, point: float = 1.0) -> Objective:
    """Make the objective that a profile asks for.

    `point` is one point in the unit of its `max_drop`; without `max_drop` one point may be lost.

    Raises:
        UsageError: there is no objective of that name.
    """
    if table.objective not in OBJECTIVES:
        raise unknown("objective", table.objective, OBJECTIVES)
    if table.speedup is not None:
        return TimeObjective(math.inf if table.max_drop is None else table.max_drop / point, table.speedup)
    return OBJECTIVES[table.objective](table, 1.0 if table.max_drop is None else table.max_drop / point)
