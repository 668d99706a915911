"""The engine: asks a searcher for chains, has new chains evaluated within the limits, and journals them.

The engine knows neither models nor operators: `Workers` are handed in. Up to `window` proposals are in flight, and they
are observed strictly in the order of proposing: the result of a search depends on its window, never on the number or
speed of the workers. A chain in the journal is answered from the journal, so that a killed search, started again with
the same seed, walks the same path without running anything twice.
"""

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, field, replace
from functools import partial
from typing import Protocol

from nacdeploy.base.errors import DivergedError, LostWorkerError, NacdeployError, RefusedError
from nacdeploy.base.latency import Stopwatch
from nacdeploy.profile.tables.search import RulesTable
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.search.journal import Evaluation, Journal, failed
from nacdeploy.strategies.search.objective import Figures, Objective
from nacdeploy.strategies.search.observation import Observation, observed
from nacdeploy.strategies.search.search_result import SearchResult as SearchResult
from nacdeploy.strategies.search.search_result import best_of, result_of

MAX_REPEATS = 1000


class Searcher(Protocol):
    """A strategy for walking through chains. The engine first calls `observe` with the empty chain, then `propose`.

    >>> class OneLetter:
    ...     def __init__(self):
    ...         self.waiting = []
    ...     def propose(self):
    ...         return self.waiting.pop() if self.waiting else None
    ...     def observe(self, observation):
    ...         if not len(observation.chain):
    ...             self.waiting = [Chain.parse(letter) for letter in observation.legal]
    >>> searcher: Searcher = OneLetter()
    >>> searcher.observe(Observation(Chain(), None, 0.0, True, ("F", "Q"), "empty"))
    >>> str(searcher.propose()), str(searcher.propose()), searcher.propose()
    ('Q', 'F', None)
    """

    def propose(self) -> Chain | None:
        """Return a chain whose proper prefixes have all been observed, ending in a legal letter.

        The engine may call again before the observation arrives. None says that there is nothing to propose now; with
        nothing in flight, the search is over.
        """
        ...

    def observe(self, observation: Observation) -> None:
        """Take the observation of a proposed chain; observations come in the order of proposing."""
        ...


Evaluate = Callable[[Chain], Evaluation]


# An evaluation under way: a function that waits for the row. RefusedError, DivergedError and LostWorkerError make the
# chain a failed one; with any other NacdeployError the search cannot go on.
Pending = Callable[[], Evaluation]
# The evaluators of chains, this process or several others: a function that begins an evaluation, at once or when its
# turn comes.
Workers = Callable[[Chain], Pending]


def in_process(evaluate: Evaluate) -> Workers:
    """One worker, this process: every chain is evaluated when its result is asked for."""
    return lambda chain: partial(evaluate, chain)


@dataclass(frozen=True)
class Limits:
    """The end of a search: evaluated chains (journaled ones count), distinct trainings, or hours of this process; and
    the number in flight."""

    budget: int
    max_trainings: int | None = None
    window: int = 1
    max_hours: float | None = None


@dataclass(frozen=True)
class Standing:
    """The standing of a search after an evaluation; the untouched model is number 0.

    `seconds` is the wall time since this process began the search. `reused`: the last evaluation came from a journal,
    or led to an earlier state or training.
    """

    n_done: int
    budget: int
    best: Evaluation | None
    last: Evaluation
    n_trainings: int = 0
    max_trainings: int | None = None
    seconds: float = 0.0
    reused: bool = False


def run(
    searcher: Searcher,
    workers: Workers,
    objective: Objective,
    rules: RulesTable,
    alphabet: str,
    limits: Limits,
    journal: Journal,
    progress: Callable[[Standing], None],
    taken: Mapping[str, Evaluation] | None = None,
) -> SearchResult:
    """Search until a limit is reached or the searcher has nothing left.

    Args:
        taken: valid rows of another journal, by chain; each enters this journal when it is proposed.

    Raises:
        NacdeployError: the untouched model could not be evaluated, or the journal cannot be written.
    """
    journaled = {evaluation.chain: evaluation for evaluation in journal.evaluations}
    known = {**(taken or {}), **journaled}
    walk = _Walk(searcher, workers, objective, rules, alphabet, limits, journal, progress, known, frozenset(journaled))
    walk.propose(Chain())
    while walk.flight:
        walk.land()
        walk.fill()
    return result_of(tuple(walk.evaluations), objective)


@dataclass
class _Walk:
    """A search under way.

    `flight` holds the proposals that are not observed yet, without a `Pending` if the chain was proposed before;
    `trainings` and `states` are the keys in the rows so far.
    """

    searcher: Searcher
    workers: Workers
    objective: Objective
    rules: RulesTable
    alphabet: str
    limits: Limits
    journal: Journal
    progress: Callable[[Standing], None]
    known: Mapping[str, Evaluation]
    journaled: frozenset[str]
    flight: deque[tuple[Chain, Pending | None]] = field(default_factory=deque)
    proposed: set[str] = field(default_factory=set)
    seen: dict[str, Observation] = field(default_factory=dict)
    evaluations: list[Evaluation] = field(default_factory=list)
    trainings: set[str] = field(default_factory=set)
    states: set[str] = field(default_factory=set)
    best: Evaluation | None = None
    n_repeats: int = 0
    watch: Stopwatch = field(default_factory=Stopwatch)

    def fill(self) -> None:
        """Ask the searcher until the window is full.

        When the trainings are used up, proposals in flight are dropped: the rows never hold more trainings than
        allowed.
        """
        if self._is_trained_out():
            self.flight.clear()
            return
        while len(self.flight) < self.limits.window and not self._is_full() and not self._is_late():
            chain = self.searcher.propose()
            if chain is None:
                return
            self.propose(chain)

    def propose(self, chain: Chain) -> None:
        """Put a proposal in flight."""
        name = str(chain)
        self.n_repeats += 1
        pending: Pending | None = None
        if name not in self.proposed:
            _check_proposal(chain, self.seen)
            self.proposed.add(name)
            self.n_repeats = 0
            pending = partial(self.known.__getitem__, name) if name in self.known else self.workers(chain)
        self.flight.append((chain, pending))

    def land(self) -> None:
        """Wait for the oldest proposal, journal it and let the searcher observe it."""
        chain, pending = self.flight.popleft()
        if pending is not None:
            self._add(chain, _row(chain, pending))
        self.searcher.observe(self.seen[str(chain)])

    def _add(self, chain: Chain, evaluation: Evaluation) -> None:
        is_first = evaluation.training is not None and evaluation.training not in self.trainings
        evaluation = replace(evaluation, trained=is_first)
        if evaluation.chain not in self.journaled:
            self.journal.append(evaluation)
        reused = evaluation.state_key in self.states or evaluation.chain in self.known
        reused = reused or (evaluation.training is not None and not is_first)
        self.trainings |= {evaluation.training} if evaluation.training else set()
        self.states.add(evaluation.state_key)
        self.evaluations.append(evaluation)
        if evaluation.figures is not None:
            self.objective.note(evaluation.figures)
        self.seen[evaluation.chain] = observed(chain, evaluation, self.objective, self.rules, self.alphabet)
        self.best = best_of([self.best, evaluation] if self.best else [evaluation], self.objective)
        self.progress(self._progress(evaluation, reused))

    def _progress(self, last: Evaluation, reused: bool) -> Standing:
        return Standing(
            n_done=len(self.evaluations) - 1,
            budget=self.limits.budget,
            best=self.best,
            last=last,
            n_trainings=len(self.trainings),
            max_trainings=self.limits.max_trainings,
            seconds=self.watch.seconds(),
            reused=reused,
        )

    def _is_full(self) -> bool:
        return len(self.proposed) > self.limits.budget or self.n_repeats >= MAX_REPEATS

    def _is_late(self) -> bool:
        """Whether the hours are over: what is in flight still lands."""
        hours = self.limits.max_hours
        return hours is not None and self.watch.seconds() >= 3600.0 * hours

    def _is_trained_out(self) -> bool:
        return self.limits.max_trainings is not None and len(self.trainings) >= self.limits.max_trainings


def _check_proposal(chain: Chain, seen: Mapping[str, Observation]) -> None:
    if not len(chain):
        return
    parent = seen.get(str(Chain(chain.links[:-1])))
    if parent is None or str(chain.links[-1]) not in parent.legal:
        raise ValueError(f"the searcher proposed '{chain}', whose last letter is not legal after what it observed")


def evaluated(chain: Chain, workers: Workers, journal: Journal) -> Evaluation:
    """Evaluate a chain and return its new row, in the journal."""
    evaluation = _row(chain, workers(chain))
    journal.append(evaluation)
    return evaluation


def _row(chain: Chain, pending: Pending) -> Evaluation:
    """Return the row of a chain. A failed chain is a row too; a failure of the untouched model ends the search."""
    try:
        evaluation = pending()
    except (RefusedError, DivergedError, LostWorkerError) as error:
        evaluation = failed(chain, str(error))
    if evaluation.figures is not None and not _finite(evaluation.figures):
        reason = "a figure of the result is not a finite number"
        evaluation = failed(chain, reason, evaluation.seconds, evaluation.training)
    if evaluation.error is not None and not len(chain):
        raise NacdeployError(f"the untouched model cannot be evaluated: {evaluation.error}")
    return evaluation


def _finite(figures: Figures) -> bool:
    return all(math.isfinite(value) for value in astuple(figures) if not isinstance(value, str | None))
