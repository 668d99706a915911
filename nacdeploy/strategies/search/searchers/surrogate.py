"""The default searcher: the step with the largest expected improvement per cost, by a surrogate learned on the way.

Every untried step of every known state has outlooks: the state after the step, after an F, and after the further
letters and F's that promise most. An outlook's worth is the expected improvement over the best admissible score
(Mockus, 1978) times the chance that it is admissible, per cost; logarithms keep the far tails in order. The effects of
steps are learned (`effects.py`), from this search and, if experience is given, from prior searches; states are merged
and commuting steps not tried twice (`orders.py`). Deterministic. Nothing legal is ever dropped: the search ends when no
step is left.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import nacdeploy.strategies.search.searchers.ratios as ratios
from nacdeploy.strategies.chain import Chain, Link
from nacdeploy.strategies.search.alphabet import Alphabet
from nacdeploy.strategies.search.objective import Figures, Objective
from nacdeploy.strategies.search.observation import Observation, Word
from nacdeploy.strategies.search.searchers.effects import Array, Effects, TrainingEffects
from nacdeploy.strategies.search.searchers.improvement import log_improvement, log_normal_cdf
from nacdeploy.strategies.search.searchers.orders import Orders

_COST_OF_F = 12.0  # in letters that do not train
_N_LETTERS_AHEAD, _N_TRAININGS_AHEAD = 6, 3
_RATIO_SPREAD = 0.02  # relative, of predicted ratios
_MIN_FRESH_POINTS = 0.1  # a smaller drop says nothing about what F repairs

Step = tuple[str, str]  # a state's key, and the symbol that goes on from there


@dataclass(frozen=True)
class _ChainState:
    """A distinct state under its shortest chain. `floor` and `settled` are the drop and log ratios at its last F."""

    chain: Chain
    word: Word
    legal: tuple[str, ...]
    log_ratios: Array
    drop: float
    floor: float
    settled: Array


class _Outlook(NamedTuple):
    """An expected state. `settled` are the log ratios that an F would bring; `spread` is the deviation of the drop:
    none of what was observed, and more with each letter.

    `counts` and `fresh` are the uses of each letter, and since the last F; `is_trained` says whether there was one.
    """

    log_ratios: Array
    settled: Array
    drop: float
    floor: float
    spread: float
    counts: tuple[int, ...]
    fresh: tuple[int, ...]
    is_trained: bool
    cost: float = 0.0
    n_trainings: int = 0


class SurrogateSearcher:
    """Proposes one step at a time, and learns from each.

    Args:
        alphabet: the steps of the search.
        objective: the objective to improve.
        max_drop: the budget in points.
        experience: the observations of prior searches; they inform the effects of steps, and nothing else.
    """

    def __init__(
        self,
        alphabet: Alphabet,
        objective: Objective,
        max_drop: float,
        experience: Iterable[Sequence[Observation]] = (),
    ) -> None:
        self._links = dict(zip(alphabet.symbols, alphabet.links, strict=True))
        self._letters = tuple(letter for letter in alphabet.letters if letter != "F")
        self._symbols = tuple(symbol for symbol, link in self._links.items() if link.letter != "F")
        self._objective, self._max_drop = objective, max_drop
        self._trainings = tuple(symbol for symbol, link in self._links.items() if link.letter == "F")
        elders: list[SurrogateSearcher] = [_taught(alphabet, objective, max_drop, told) for told in experience]
        self._effects: Effects = Effects(alphabet.families(), [elder._effects for elder in elders])
        self._recoveries: dict[str, TrainingEffects] = {
            symbol: TrainingEffects(len(self._letters), max_drop, [elder._recoveries[symbol] for elder in elders])
            for symbol in self._trainings
        }
        self._states: dict[str, _ChainState] = {}
        self._orders = Orders()
        self._tried: set[Step] = set()
        self._promises: dict[Step, float] = {}
        self._limits: dict[str, int] = {}
        self._baseline: Figures | None = None
        self._best_score = -math.inf

    def propose(self) -> Chain | None:
        """Return the most promising untried step.

        None says that no step can be ranked yet, or that every legal step was tried.
        """
        step = self._choose(self._untried())
        if step is None:
            return None
        key, symbol = step
        self._tried.add(step)
        self._orders.expect((*self._states[key].word, symbol))
        return self._states[key].chain + self._links[symbol]

    def observe(self, observation: Observation) -> None:
        """Merge the state and learn what its last step did. A failed chain teaches nothing."""
        figures, word, key = observation.figures, observation.word, observation.state_key
        self._orders.forget(word)
        if figures is None:
            return
        parent = self._states.get(self._orders.key(word[:-1]) or "") if word else None
        state = _state_of(observation, figures, parent)
        if parent is not None:
            self._learn(observation.chain.links[-1], parent, state)
        self._orders.learn(word, key)
        if key not in self._states or len(word) < len(self._states[key].word):
            self._states[key] = state
        if not word:
            self._baseline = figures
        if not word or observation.admissible:
            self._best_score = max(self._best_score, observation.score)
        self._note_limits(observation)

    def _learn(self, link: Link, parent: _ChainState, now: _ChainState) -> None:
        counts, fresh = self._counts(parent.chain.word)
        if str(link) in self._recoveries:
            self._learn_recovery(str(link), parent, now)
        elif link.letter in self._letters:
            n_before, added = counts[self._letters.index(link.letter)], now.drop - parent.drop
            factors, is_trained = now.log_ratios - parent.log_ratios, "F" in parent.chain.word
            self._effects.learn(str(link), n_before, sum(fresh), factors, added, is_trained)

    def _learn_recovery(self, symbol: str, parent: _ChainState, now: _ChainState) -> None:
        self._promises.clear()  # an F changes what is thought of every step
        counts, fresh = self._counts(parent.chain.word)
        if parent.drop - parent.floor > _MIN_FRESH_POINTS and any(fresh):
            culprit = self._letters.index(max(self._fresh_damage(parent), key=lambda damage: damage[1])[0])
            self._recoveries[symbol].learn(counts, fresh, parent.floor, parent.drop, now.drop, culprit)

    def _fresh_damage(self, state: _ChainState) -> Iterator[tuple[str, float]]:
        """Yield the letters since the last F, each with the estimated points of its last use."""
        n_settled = state.chain.word.rfind("F") + 1
        for at, link in enumerate(state.chain.links[n_settled:], start=n_settled):
            if link.letter not in self._letters:
                continue
            if self._effects.knows(str(link)):
                n_before = state.chain.word[:at].count(link.letter)
                yield link.letter, self._effects.expected(str(link), n_before, 0, n_settled > 0)[1]
            else:
                yield link.letter, 0.0

    def _note_limits(self, observation: Observation) -> None:
        """Note the limit of a letter that is missing where others compress: no plan goes beyond its present count."""
        legal = {self._links[symbol].letter for symbol in observation.legal if symbol in self._links}
        if legal & set(self._letters):
            for letter in set(self._letters) - legal:
                count = observation.chain.word.count(letter)
                self._limits[letter] = min(self._limits.get(letter, count), count)

    def _untried(self) -> list[Step]:
        """Return all untried steps; steps expected to lead to known states only if nothing else is left."""
        steps = [
            ((key, symbol), (*state.word, symbol))
            for key, state in self._states.items()
            for symbol in state.legal
            if (key, symbol) not in self._tried
        ]
        steps = [
            (s, word) for s, word in steps if self._orders.key(word) is None and not self._orders.is_under_way(word)
        ]
        return [s for s, word in steps if not self._orders.expects_nothing_new(word)] or [s for s, _ in steps]

    def _choose(self, steps: list[Step]) -> Step | None:
        """Return a first use of a step that cannot be predicted, the ends of a family first; else the most promising
        step."""
        unknown = {symbol for symbol in self._symbols if not self._effects.knows(symbol)}
        under_way = {symbol for _, symbol in self._tried} & unknown if self._orders.n_under_way else set()
        first = [step for step in steps if step[1] in unknown - under_way]
        if first:
            return min(first, key=lambda step: not self._effects.is_end(step[1]))
        known = [step for step in steps if step[1] not in unknown]
        return self._most_promising(known) if known else None

    def _most_promising(self, steps: list[Step]) -> Step:
        """Return the first step of the ranking that is still first after a new estimate: promises mostly fall."""
        anew: set[Step] = set()
        while True:
            best = max(steps, key=lambda step: self._promises.get(step, math.inf))
            if best in anew:
                return best
            self._promises[best] = self._promise(*best)
            anew.add(best)

    def _promise(self, key: str, symbol: str) -> float:
        """Return the logarithm of the expected improvement per cost that this step opens up."""
        here = self._here(self._states[key])
        if symbol in self._recoveries:
            return self._climb(self._trained(here, symbol))
        there = self._further(here, symbol)
        return max([self._gain(there), *(self._climb(self._trained(there, f)) for f in self._trainings[:1])])

    def _here(self, state: _ChainState) -> _Outlook:
        counts, fresh = self._counts(state.chain.word)
        settled, word = state.settled, state.chain.word
        for at in range(word.rfind("F") + 1, len(word)):
            settled = settled + self._effects.expected(state.word[at], word[:at].count(word[at]), 0, "F" in word)[0]
        return _Outlook(state.log_ratios, settled, state.drop, state.floor, 0.0, counts, fresh, "F" in word)

    def _further(self, past: _Outlook, symbol: str) -> _Outlook:
        """Return the outlook after one more letter."""
        at = self._letters.index(self._links[symbol].letter)
        where = (past.counts[at], sum(past.fresh), past.is_trained)
        factors, added = self._effects.expected(symbol, *where)
        return past._replace(
            log_ratios=past.log_ratios + factors,
            settled=past.settled + factors,
            drop=past.drop + added,
            spread=math.hypot(past.spread, self._effects.spread_points(symbol, *where)),
            counts=_one_more(past.counts, at),
            fresh=_one_more(past.fresh, at),
            cost=past.cost + 1.0,
        )

    def _trained(self, past: _Outlook, symbol: str) -> _Outlook:
        """Return the outlook after an F, whether or not an F is due: further letters make it so."""
        drop, spread = self._recoveries[symbol].expected(past.counts, past.fresh, past.floor, past.drop)
        return past._replace(
            log_ratios=past.settled,
            drop=drop,
            floor=drop,
            spread=spread,
            fresh=(0,) * len(past.fresh),
            cost=past.cost + 1.0 + _COST_OF_F,
            n_trainings=past.n_trainings + 1,
            is_trained=True,
        )

    def _climb(self, outlook: _Outlook) -> float:
        """Return the gain here, or after further letters, alone or with an F, while these raise it."""
        best = self._gain(outlook)
        for _ in range(_N_LETTERS_AHEAD):
            gains = [(self._gain(ahead), ahead) for ahead in self._ahead(outlook)]
            gain, outlook = max(gains, key=lambda pair: pair[0], default=(-math.inf, outlook))
            if gain <= best:
                break
            best = gain
        return best

    def _ahead(self, outlook: _Outlook) -> Iterator[_Outlook]:
        for symbol in filter(self._effects.knows, self._symbols):
            letter = self._links[symbol].letter
            if outlook.counts[self._letters.index(letter)] < self._limits.get(letter, math.inf):
                further = self._further(outlook, symbol)
                yield further
                if outlook.n_trainings < _N_TRAININGS_AHEAD:
                    yield from (self._trained(further, f) for f in self._trainings[:1])

    def _gain(self, outlook: _Outlook) -> float:
        """Return the logarithm of (chance to be admissible x expected improvement / cost)."""
        score = self._score(outlook.log_ratios, outlook.drop)
        better = self._score(outlook.log_ratios + _RATIO_SPREAD, outlook.drop - outlook.spread)
        allowed = log_normal_cdf((self._max_drop - outlook.drop) / outlook.spread)
        return allowed + log_improvement(score, max(better - score, 1e-3), self._best_score) - math.log(outlook.cost)

    def _score(self, log_ratios: Array, drop: float) -> float:
        assert self._baseline is not None
        quality = max(0.0, self._baseline.baseline_quality - drop / 100.0)
        return self._objective.score(ratios.with_logs(self._baseline, log_ratios, quality))

    def _counts(self, word: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Count the uses of each letter in the word, and since its last F."""
        fresh = word[word.rfind("F") + 1 :]
        return tuple(map(word.count, self._letters)), tuple(map(fresh.count, self._letters))


def _taught(
    alphabet: Alphabet, objective: Objective, max_drop: float, observations: Sequence[Observation]
) -> SurrogateSearcher:
    """Return a searcher with the observations of a prior search."""
    elder = SurrogateSearcher(alphabet, objective, max_drop)
    for observation in observations:
        elder.observe(observation)
    return elder


def _state_of(observation: Observation, figures: Figures, parent: _ChainState | None) -> _ChainState:
    log_ratios, drop = ratios.logs(figures), figures.drop_points
    settles = parent is None or observation.chain.word.endswith("F")
    floor, settled = (drop, log_ratios) if settles or parent is None else (parent.floor, parent.settled)
    return _ChainState(observation.chain, observation.word, observation.legal, log_ratios, drop, floor, settled)


def _one_more(counts: tuple[int, ...], at: int) -> tuple[int, ...]:
    return (*counts[:at], counts[at] + 1, *counts[at + 1 :])
