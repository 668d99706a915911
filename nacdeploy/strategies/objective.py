"""Objective: what a search maximises, and which models are allowed to win.

An objective sees figures of one evaluated chain, never a model. Its score depends on the end state only: NAC's rewards
are differences of a potential, so their sum along a chain telescopes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from nacdeploy.errors import unknown
from nacdeploy.profile import SearchTable

# 100 * (0.95 - 0.94) is a little more than 1: a drop equal to its limit must not fail by rounding.
DROP_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Figures:
    """What an objective may see of an evaluated chain. Ratios are baseline / now: more is better.

    `accuracy` is a fraction on the validation split; `speed_ratio` is set only where it was measured.
    """

    accuracy: float
    baseline_accuracy: float
    bitops_ratio: float
    macs_ratio: float
    bytes_ratio: float
    nac_bitops_ratio: float
    nac_memory_ratio: float
    speed_ratio: float | None = None

    @property
    def drop_points(self) -> float:
        """Accuracy lost against the baseline, in points."""
        return 100.0 * (self.baseline_accuracy - self.accuracy)


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
    """NAC's reward of one transition; points are (accuracy in per cent, BitOps ratio with exits, memory ratio)."""
    ar = _charge(baseline - past[0]) - _charge(baseline - now[0])
    br = now[0] / baseline * now[1] - past[0] / baseline * past[1]
    mr = now[0] / baseline * now[2] - past[0] / baseline * past[2]
    raw = RewardTerms(0.0, ar, 0.0, br, mr)
    weighted = RewardTerms(0.0, weights.accuracy * ar, 0.0, weights.bitops * br, weights.memory * mr)
    return NacReward(raw, weighted)


def _charge(drop: float) -> float:
    """What NAC charges for a drop of so many points; a gain counts a quarter and is capped at 0.8 points."""
    if drop < 0:
        return math.log2(max(drop, -0.8) + 1.0) / 4.0
    return math.log2(drop + 1.0)


def nac_warmup(step: int) -> float:
    """The factor on the accuracy term while NAC's agent learns (`--arinc`): from 0.1 up to 1 at step 2000."""
    return min(0.9 * step / 2000.0 + 0.1, 1.0)


class Objective(Protocol):
    """What a search ranks by."""

    @property
    def name(self) -> str: ...

    def score(self, figures: Figures) -> float:
        """More is better; admissible states are ranked by it."""
        ...

    def admissible(self, figures: Figures) -> bool:
        """Whether this model may win at all: no destroyed model can."""
        ...


@dataclass(frozen=True)
class NacObjective:
    """The sum of NAC's rewards from the untouched model to this state."""

    max_drop: float
    weights: NacWeights
    name: str = "nac"

    def score(self, figures: Figures) -> float:
        baseline = 100.0 * figures.baseline_accuracy
        now = (100.0 * figures.accuracy, figures.nac_bitops_ratio, figures.nac_memory_ratio)
        return nac_rewards(baseline, (baseline, 1.0, 1.0), now, self.weights).total

    def admissible(self, figures: Figures) -> bool:
        return figures.drop_points <= self.max_drop + DROP_TOLERANCE


@dataclass(frozen=True)
class BudgetObjective:
    """The most of one figure within an accuracy budget."""

    max_drop: float
    figure: str
    name: str = "budget"

    def score(self, figures: Figures) -> float:
        return float(getattr(figures, f"{self.figure}_ratio"))

    def admissible(self, figures: Figures) -> bool:
        return figures.drop_points <= self.max_drop + DROP_TOLERANCE


def _nac(table: SearchTable) -> Objective:
    return NacObjective(table.max_drop, NacWeights(accuracy=table.nac_accuracy_weight))


def _budget(table: SearchTable) -> Objective:
    # A build and a timing per candidate would cost more than the search, and noise would break resume and replay.
    return BudgetObjective(table.max_drop, "bitops" if table.figure == "speed" else table.figure)


OBJECTIVES: dict[str, Callable[[SearchTable], Objective]] = {"nac": _nac, "budget": _budget}


def make(table: SearchTable) -> Objective:
    """The objective a profile asks for.

    Raises:
        UsageError: there is no objective of that name.
    """
    if table.objective not in OBJECTIVES:
        raise unknown("objective", table.objective, OBJECTIVES)
    return OBJECTIVES[table.objective](table)
