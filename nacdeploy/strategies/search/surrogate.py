"""The default searcher: the step with the largest expected improvement per cost, by a surrogate learned on the way.

Every untried letter of every known state is looked ahead from: as it is, after an F, and after the further letters and
F's that promise most. An outlook's worth is the expected improvement over the best admissible score (Mockus, 1978)
times the chance that it is admissible, per cost; logarithms keep the far tails in order. What letters do is learned
(`effects.py`); states are merged and commuting letters not tried twice (`orders.py`). Deterministic. Nothing legal is
ever dropped: the search ends when no step is left.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from nacdeploy.strategies.chain import Chain, Link
from nacdeploy.strategies.objective import Figures, Objective
from nacdeploy.strategies.search.effects import Array, Effects, Recovery
from nacdeploy.strategies.search.observation import Observation
from nacdeploy.strategies.search.orders import Orders

_COST_OF_F = 3.0  # in letters that do not train
_N_LETTERS_AHEAD, _N_TRAININGS_AHEAD = 6, 3
_RATIO_SPREAD = 0.02  # relative, of predicted ratios
_MIN_FRESH_POINTS = 0.1  # a smaller drop says nothing about what F repairs
_RATIOS = ("bitops_ratio", "macs_ratio", "bytes_ratio", "nac_bitops_ratio", "nac_memory_ratio")


@dataclass(frozen=True)
class _State:
    """A distinct state under its shortest chain. `floor` and `settled` are the drop and log ratios at its last F."""

    chain: Chain
    legal: tuple[str, ...]
    log_ratios: Array
    drop: float
    floor: float
    settled: Array


@dataclass(frozen=True)
class _Outlook:
    """A state that is only expected. `settled` are the log ratios that an F would bring; `spread` is of the drop."""

    log_ratios: Array
    settled: Array
    drop: float
    floor: float
    spread: float
    counts: tuple[int, ...]
    fresh: tuple[int, ...]
    cost: float = 0.0
    n_trainings: int = 0


class SurrogateSearcher:
    """Proposes one step at a time, and learns from each."""

    def __init__(self, alphabet: str, objective: Objective, max_drop: float) -> None:
        self._letters = tuple(letter for letter in dict.fromkeys(alphabet) if letter != "F")
        self._objective, self._max_drop = objective, max_drop
        self._trains = "F" in alphabet
        self._states: dict[str, _State] = {}
        self._effects, self._recovery = Effects(), Recovery(len(self._letters), max_drop)
        self._orders = Orders()
        self._tried: set[tuple[str, str]] = set()
        self._promises: dict[tuple[str, str], float] = {}
        self._limits: dict[str, int] = {}
        self._baseline_accuracy, self._best_score = 0.0, -math.inf

    def propose(self) -> Chain | None:
        """The most promising untried step; None when every legal step of every state was tried."""
        steps = self._untried()
        if not steps:
            return None
        key, letter = self._first_use(steps) or self._most_promising(steps)
        self._tried.add((key, letter))
        return self._states[key].chain + Link(letter)

    def observe(self, observation: Observation) -> None:
        """Merge the state and learn what its last letter did. A failed chain teaches nothing."""
        figures, word, key = observation.figures, observation.chain.word, observation.state_key
        if figures is None:
            return
        parent = self._states.get(self._orders.key(word[:-1]) or "") if word else None
        state = _state_of(observation, figures, parent)
        if parent is not None:
            self._learn(word[-1], parent, state)
        self._orders.learn(word, key)
        if key not in self._states or len(word) < len(self._states[key].chain):
            self._states[key] = state
        if not word:
            self._baseline_accuracy = figures.baseline_accuracy
        if not word or observation.admissible:
            self._best_score = max(self._best_score, observation.score)
        self._note_limits(observation)

    def _learn(self, letter: str, parent: _State, now: _State) -> None:
        counts, fresh = self._counts(parent.chain.word)
        if letter != "F":
            at = self._letters.index(letter)
            added = max(0.0, now.drop - parent.drop)
            self._effects.learn(letter, counts[at], sum(fresh), now.log_ratios - parent.log_ratios, added)
        elif parent.drop - parent.floor > _MIN_FRESH_POINTS and any(fresh):
            damage = [self._effects.expected(x, n - 1, 0)[1] if f else -1.0 for x, n, f in self._uses(counts, fresh)]
            self._recovery.learn(counts, fresh, parent.floor, parent.drop, now.drop, damage.index(max(damage)))

    def _note_limits(self, observation: Observation) -> None:
        """A letter that is missing where others compress is used up at this count: no plan goes beyond it."""
        if set(observation.legal) & set(self._letters):
            for letter in set(self._letters) - set(observation.legal):
                count = observation.chain.word.count(letter)
                self._limits[letter] = min(self._limits.get(letter, count), count)

    def _untried(self) -> list[tuple[str, str]]:
        """All untried steps; those expected to lead to known states only when nothing else is left."""
        steps = [
            (key, letter)
            for key, state in self._states.items()
            for letter in state.legal
            if (key, letter) not in self._tried and self._orders.key(state.chain.word + letter) is None
        ]
        words = (self._states[key].chain.word + letter for key, letter in steps)
        return [s for s, word in zip(steps, words, strict=True) if not self._orders.expects_nothing_new(word)] or steps

    def _first_use(self, steps: list[tuple[str, str]]) -> tuple[str, str] | None:
        """A step with a letter that was never seen: nothing can be said of it."""
        return next((step for step in steps if step[1] != "F" and not self._effects.knows(step[1])), None)

    def _most_promising(self, steps: list[tuple[str, str]]) -> tuple[str, str]:
        """The first step of the ranking that is still first once it is looked at anew (promises mostly fall)."""
        anew: set[tuple[str, str]] = set()
        while True:
            best = max(steps, key=lambda step: self._promises.get(step, math.inf))
            if best in anew:
                return best
            self._promises[best] = self._promise(*best)
            anew.add(best)

    def _promise(self, key: str, letter: str) -> float:
        """The logarithm of the expected improvement per cost that this step opens up."""
        here = self._here(self._states[key])
        if letter == "F":
            return self._climb(self._trained(here))
        there = self._further(here, self._letters.index(letter))
        return max(self._gain(there), self._climb(self._trained(there)) if self._trains else -math.inf)

    def _here(self, state: _State) -> _Outlook:
        counts, fresh = self._counts(state.chain.word)
        settled = state.settled
        for letter, n, n_fresh in self._uses(counts, fresh):
            for before in range(n - n_fresh, n):
                settled = settled + self._effects.expected(letter, before, 0)[0]
        spread = self._effects.spread.points()
        return _Outlook(state.log_ratios, settled, state.drop, state.floor, spread, counts, fresh)

    def _further(self, past: _Outlook, at: int) -> _Outlook:
        """One more letter."""
        factors, added = self._effects.expected(self._letters[at], past.counts[at], sum(past.fresh))
        return replace(
            past,
            log_ratios=past.log_ratios + factors,
            settled=past.settled + factors,
            drop=past.drop + added,
            counts=_one_more(past.counts, at),
            fresh=_one_more(past.fresh, at),
            cost=past.cost + 1.0,
        )

    def _trained(self, past: _Outlook) -> _Outlook:
        """An F. Whether it is due is not asked: further letters make it so."""
        drop, spread = self._recovery.expected(past.counts, past.fresh, past.floor, past.drop)
        return replace(
            past,
            log_ratios=past.settled,
            drop=drop,
            floor=drop,
            spread=spread,
            fresh=(0,) * len(past.fresh),
            cost=past.cost + 1.0 + _COST_OF_F,
            n_trainings=past.n_trainings + 1,
        )

    def _climb(self, outlook: _Outlook) -> float:
        """The gain here, or further on where letters, alone or with an F, go on to raise it."""
        best = self._gain(outlook)
        for _ in range(_N_LETTERS_AHEAD):
            gains = [(self._gain(ahead), ahead) for ahead in self._ahead(outlook)]
            gain, outlook = max(gains, key=lambda pair: pair[0], default=(-math.inf, outlook))
            if gain <= best:
                break
            best = gain
        return best

    def _ahead(self, outlook: _Outlook) -> Iterator[_Outlook]:
        for at, letter in enumerate(self._letters):
            if self._effects.knows(letter) and outlook.counts[at] < self._limits.get(letter, outlook.counts[at] + 1):
                further = self._further(outlook, at)
                yield further
                if self._trains and outlook.n_trainings < _N_TRAININGS_AHEAD:
                    yield self._trained(further)

    def _gain(self, outlook: _Outlook) -> float:
        """The logarithm of (chance to be admissible x expected improvement / cost)."""
        score = self._score(outlook.log_ratios, outlook.drop)
        better = self._score(outlook.log_ratios + _RATIO_SPREAD, outlook.drop - outlook.spread)
        allowed = log_normal_cdf((self._max_drop - outlook.drop) / outlook.spread)
        return allowed + log_improvement(score, max(better - score, 1e-3), self._best_score) - math.log(outlook.cost)

    def _score(self, log_ratios: Array, drop: float) -> float:
        ratios = dict(zip(_RATIOS, map(math.exp, log_ratios), strict=True))
        accuracy = max(0.0, self._baseline_accuracy - drop / 100.0)
        return self._objective.score(Figures(accuracy, self._baseline_accuracy, **ratios))

    def _counts(self, word: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Uses of each letter in the word, and since its last F."""
        fresh = word[word.rfind("F") + 1 :]
        return tuple(map(word.count, self._letters)), tuple(map(fresh.count, self._letters))

    def _uses(self, counts: tuple[int, ...], fresh: tuple[int, ...]) -> Iterator[tuple[str, int, int]]:
        return zip(self._letters, counts, fresh, strict=True)


def _state_of(observation: Observation, figures: Figures, parent: _State | None) -> _State:
    log_ratios = np.log([max(getattr(figures, name), 1e-9) for name in _RATIOS])
    drop = figures.drop_points
    settles = parent is None or observation.chain.word.endswith("F")
    floor, settled = (drop, log_ratios) if settles or parent is None else (parent.floor, parent.settled)
    return _State(observation.chain, observation.legal, log_ratios, drop, floor, settled)


def _one_more(counts: tuple[int, ...], at: int) -> tuple[int, ...]:
    return (*counts[:at], counts[at] + 1, *counts[at + 1 :])


def log_normal_cdf(z: float) -> float:
    """Of the standard normal distribution; by its asymptotic series where the value is tiny."""
    if z > -6.0:
        return math.log(0.5 * math.erfc(-z / math.sqrt(2.0)))
    return _log_density(z) - math.log(-z)


def log_improvement(mean: float, spread: float, best: float) -> float:
    """The logarithm of E[max(0, x - best)], x normal; by its asymptotic series where the value is tiny."""
    z = (mean - best) / spread
    if z > -6.0:
        return math.log(spread * (z * 0.5 * math.erfc(-z / math.sqrt(2.0)) + math.exp(_log_density(z))))
    return math.log(spread) + _log_density(z) - 2.0 * math.log(-z)


def _log_density(z: float) -> float:
    return -0.5 * z * z - 0.5 * math.log(2.0 * math.pi)
