"""Beam search over states, with one step of look-ahead. Deterministic.

Three lessons of NAC's published logs shape it. A chain's worth is its end state's, so equal states are merged, and
letters seen to commute are not tried in both orders. Most of a drop comes back in F, so a state is ranked by
what it would be worth after an F. And most evaluations of a full expansion are wasted, so a step is first predicted
from what its letter did elsewhere; only the most promising are evaluated.

A sweep goes down level by level and evaluates the best `width` untried steps of each. Then the best steps of any level
are taken while they bring something; then comes the next sweep, which passes over all that is known and so widens the
beam at every level. Nothing legal is ever dropped: the search ends when no step is left.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import nacdeploy.strategies.search.searchers.ratios as ratios
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.search.objective import Figures, Objective
from nacdeploy.strategies.search.observation import Observation, Word, link_of, word_of
from nacdeploy.strategies.search.searchers.effects import Array
from nacdeploy.strategies.search.searchers.orders import Orders

_LEFT_BY_F = 0.2  # the part of a fresh drop that F leaves, before any F was seen
_MIN_FRESH_POINTS = 0.1  # a smaller drop says nothing about what F repairs
_EXCESS_SLOPE = 1.0  # per point that F would leave beyond the limit, in units of log score
_CURIOSITY = 1.0  # what a letter never tried is expected to bring, in units of log score
_HOPE = 0.5  # how far below the best a step past the best chain's length may be, in units of log score
_MIN_GAIN = 0.01  # a new best by less than this fraction does not count as progress
_PATIENCE = 4  # evaluations without progress before the next sweep


@dataclass(frozen=True)
class _State:
    """A distinct state under its shortest chain; `floor` is the drop its last F left."""

    chain: Chain
    figures: Figures
    legal: tuple[str, ...]
    floor: float


class _Step(NamedTuple):
    """An untried symbol on a state; steps sort from the most promising on."""

    cost: float
    length: int
    word: Word
    state_key: str
    symbol: str


class _Effects:
    """What letters did so far: the factors on the ratios and the drop added, by step and uses of its letter."""

    def __init__(self) -> None:
        self._factors: dict[str, dict[int, Array]] = {}
        self._drops: dict[str, dict[int, float]] = {}
        self._left = [_LEFT_BY_F]

    def learn(self, symbol: str, parent: _State, now: Figures) -> None:
        """Remember one observed step."""
        was, count = parent.figures, parent.chain.word.count(symbol[0])
        if symbol[0] != "F":
            self._factors.setdefault(symbol, {})[count] = ratios.logs(now) - ratios.logs(was)
            self._drops.setdefault(symbol, {})[count] = max(0.0, now.drop_points - was.drop_points)
        elif was.drop_points - parent.floor > _MIN_FRESH_POINTS:
            self._left.append((now.drop_points - parent.floor) / (was.drop_points - parent.floor))

    def after(self, symbol: str, state: _State) -> Figures | None:
        """The figures expected after a step that does not train; None where it was never seen."""
        if symbol not in self._drops:
            return None
        count = state.chain.word.count(symbol[0])
        nearest = min(self._drops[symbol], key=lambda known: (abs(known - count), -known))
        expected = ratios.with_logs(state.figures, ratios.logs(state.figures) + self._factors[symbol][nearest])
        return expected.with_quality(max(0.0, state.figures.quality - self._drops[symbol][nearest] / 100.0))

    def repaired_drop(self, drop: float, floor: float) -> float:
        """The drop expected after an F: what an earlier F left stays, most of the rest comes back."""
        left = min(1.0, max(0.0, sum(self._left) / len(self._left)))
        return min(drop, floor + left * (drop - floor))


class BeamSearcher:
    """Proposes the steps whose predicted states promise most, level by level and then wherever they are."""

    def __init__(self, width: int, objective: Objective, max_drop: float) -> None:
        self._width, self._objective, self._max_drop = width, objective, max_drop
        self._states: dict[str, _State] = {}
        self._effects, self._orders = _Effects(), Orders()
        self._tried: set[tuple[str, str]] = set()
        self._queue: list[Chain] = []
        self._best_score, self._best_length = -math.inf, 0
        self._level, self._sweeping, self._n_idle = 0, True, 0

    def propose(self) -> Chain | None:
        """The next step of the round; while the last round waits for observations, the best of the other steps. None
        when every legal step of every state was tried."""
        if not self._queue:
            self._queue = self._beside() if self._orders.n_under_way else self._round()
        if not self._queue:
            return None
        chain = self._queue.pop(0)
        self._orders.expect(word_of(chain))
        return chain

    def observe(self, observation: Observation) -> None:
        """Merge the state, learn what its last letter did, and note progress. A failed chain teaches nothing."""
        self._n_idle += 1
        word, key = observation.word, observation.state_key
        self._orders.forget(word)
        if observation.figures is None:
            return
        parent = self._states.get(self._orders.key(word[:-1]) or "") if word else None
        if parent is not None:
            self._effects.learn(word[-1], parent, observation.figures)
        self._orders.learn(word, key)
        if key not in self._states or len(word) < len(self._states[key].chain):
            trained = observation.chain.word.endswith("F")
            floor = observation.figures.drop_points if trained else parent.floor if parent else 0.0
            self._states[key] = _State(observation.chain, observation.figures, observation.legal, floor)
        if observation.admissible and observation.chain.word.strip("F"):
            self._note_admissible(observation.score, len(word))

    def _note_admissible(self, score: float, length: int) -> None:
        if self._best_score == -math.inf or score > self._best_score + _MIN_GAIN * abs(self._best_score):
            self._n_idle = 0
        if score > self._best_score:
            self._best_score, self._best_length = score, length

    def _round(self) -> list[Chain]:
        steps = self._untried()
        if self._sweeping or self._n_idle >= _PATIENCE:
            steps = self._next_level(steps)
        return self._taken(self._top(steps))

    def _beside(self) -> list[Chain]:
        """The best step, of any level, that leads to nothing that is under way."""
        return self._taken([step for step in self._untried() if not self._orders.is_under_way(step.word)][:1])

    def _taken(self, steps: list[_Step]) -> list[Chain]:
        self._tried.update((step.state_key, step.symbol) for step in steps)
        return [self._states[step.state_key].chain + link_of(step.symbol) for step in steps]

    def _untried(self) -> list[_Step]:
        """All untried steps in order; those expected to lead to known states only when nothing else is left."""
        steps = [
            _Step(-self._promise(state, symbol), len(state.chain) + 1, (*word_of(state.chain), symbol), key, symbol)
            for key, state in self._states.items()
            for symbol in state.legal
            if (key, symbol) not in self._tried and self._orders.key((*word_of(state.chain), symbol)) is None
        ]
        return sorted([s for s in steps if not self._orders.expects_nothing_new(s.word)] or steps)

    def _next_level(self, steps: list[_Step]) -> list[_Step]:
        """The steps of the sweep's next level; all of them where the sweep has reached its end."""
        if not self._sweeping:
            self._sweeping, self._level = True, 0
        deeper = [step for step in steps if step.length > self._level and self._hopeful(step)]
        if not deeper:
            self._sweeping, self._n_idle = False, 0
            return steps
        self._level = min(step.length for step in deeper)
        return [step for step in deeper if step.length == self._level]

    def _hopeful(self, step: _Step) -> bool:
        return step.length <= self._best_length or -step.cost > _signed_log(self._best_score) - _HOPE

    def _top(self, steps: list[_Step]) -> list[_Step]:
        """The first `width` steps of different parents and different expected states."""
        chosen: list[_Step] = []
        taken: set[str] = set()
        for step in steps:
            marks = {f"from {step.state_key}", f"to {self._orders.normal(step.word)}"}
            if len(chosen) < self._width and not marks & taken:
                chosen.append(step)
                taken |= marks
        return chosen

    def _promise(self, state: _State, symbol: str) -> float:
        if symbol[0] == "F":
            return self._worth(state.figures, state.floor)
        expected = self._effects.after(symbol, state)
        if expected is None:
            return self._worth(state.figures, state.floor) + _CURIOSITY
        return self._worth(expected, state.floor)

    def _worth(self, figures: Figures, floor: float) -> float:
        """The log score after an F, less a charge for what F would leave beyond the limit."""
        drop = self._effects.repaired_drop(figures.drop_points, floor)
        repaired = figures.with_quality(figures.baseline_quality - drop / 100.0)
        return _signed_log(self._objective.score(repaired)) - _EXCESS_SLOPE * max(0.0, drop - self._max_drop)


def _signed_log(score: float) -> float:
    """Logarithmic on both sides of zero; NAC's score may be negative."""
    return math.copysign(math.log1p(abs(score)), score)
