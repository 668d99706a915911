"""The engine: asks a searcher for chains, evaluates what is new within a budget, and journals it.

It knows neither models nor operators: `evaluate` is handed in. A chain of the journal is answered from it, so that a
killed search, started again with the same seed, walks the same path without running anything twice.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from typing import Protocol

from nacdeploy.errors import DivergedError, NacdeployError, RefusedError
from nacdeploy.profile import RulesTable
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.objective import Figures, Objective
from nacdeploy.strategies.search.journal import Evaluation, Journal, failed
from nacdeploy.strategies.search.observation import Observation, observed

MAX_REPEATS = 1000


class Searcher(Protocol):
    """A way to walk through chains. It is told the observation of the empty chain before anything is asked of it."""

    def propose(self) -> Chain | None:
        """A chain all of whose proper prefixes have been observed, ending in a legal letter; None: nothing is left."""
        ...

    def observe(self, observation: Observation) -> None:
        """What became of the proposed chain."""
        ...


Evaluate = Callable[[Chain], Evaluation]


@dataclass(frozen=True)
class Progress:
    """Where a search stands after an evaluation; the untouched model is number 0."""

    n_done: int
    budget: int
    best: Evaluation | None
    last: Evaluation


@dataclass(frozen=True)
class SearchResult:
    """What a search found. `evaluations` begins with the untouched model; the other fields never hold it.

    `best` is the admissible chain of the highest score. `nearest` is set only where nothing is admissible: the chain
    that lost the least accuracy. `front` holds the chains that no other beats in accuracy, speed (or BitOps) and bytes.
    """

    evaluations: tuple[Evaluation, ...]
    best: Evaluation | None
    nearest: Evaluation | None
    front: tuple[Evaluation, ...]
    n_trainings: int


def run(
    searcher: Searcher,
    evaluate: Evaluate,
    objective: Objective,
    rules: RulesTable,
    alphabet: str,
    budget: int,
    journal: Journal,
    progress: Callable[[Progress], None],
) -> SearchResult:
    """Search until `budget` chains are evaluated (journaled ones count) or the searcher has nothing left.

    Raises:
        NacdeployError: the untouched model could not be evaluated, or the journal cannot be written.
    """
    journaled = {evaluation.chain: evaluation for evaluation in journal.evaluations}
    seen: dict[str, Observation] = {}
    evaluations: list[Evaluation] = []
    best: Evaluation | None = None
    chain: Chain | None = Chain()
    n_repeats = 0
    while chain is not None:
        n_repeats += 1
        if str(chain) not in seen:
            _check_proposal(chain, seen)
            evaluation = journaled.get(str(chain)) or _evaluate(chain, evaluate, journal)
            evaluations.append(evaluation)
            seen[str(chain)] = observed(chain, evaluation, objective, rules, alphabet)
            best = _best([best, evaluation] if best else [evaluation], objective)
            progress(Progress(len(evaluations) - 1, budget, best, evaluation))
            n_repeats = 0
        searcher.observe(seen[str(chain)])
        chain = searcher.propose() if len(evaluations) <= budget and n_repeats < MAX_REPEATS else None
    return _result(tuple(evaluations), objective)


def _check_proposal(chain: Chain, seen: dict[str, Observation]) -> None:
    if not len(chain):
        return
    parent = seen.get(str(Chain(chain.links[:-1])))
    if parent is None or str(chain.links[-1]) not in parent.legal:
        raise ValueError(f"the searcher proposed '{chain}', whose last letter is not legal after what it observed")


def _evaluate(chain: Chain, evaluate: Evaluate, journal: Journal) -> Evaluation:
    """A new row, in the journal. A chain that fails is a row too; an untouched model that fails ends the search."""
    try:
        evaluation = evaluate(chain)
    except (RefusedError, DivergedError) as error:
        evaluation = failed(chain, str(error))
    if evaluation.figures is not None and not _finite(evaluation.figures):
        evaluation = failed(chain, "a figure of the result is not a finite number", evaluation.seconds)
    if evaluation.error is not None and not len(chain):
        raise NacdeployError(f"the untouched model cannot be evaluated: {evaluation.error}")
    journal.append(evaluation)
    return evaluation


def _finite(figures: Figures) -> bool:
    return all(math.isfinite(value) for value in astuple(figures) if value is not None)


def _result(evaluations: tuple[Evaluation, ...], objective: Objective) -> SearchResult:
    best = _best(evaluations, objective)
    return SearchResult(
        evaluations=evaluations,
        best=best,
        nearest=_nearest(evaluations, objective) if best is None else None,
        front=_front(evaluations),
        n_trainings=sum(evaluation.trained for evaluation in evaluations),
    )


def _compressed(evaluation: Evaluation) -> bool:
    return any(link.letter != "F" for link in Chain.parse(evaluation.chain))


def _best(evaluations: Sequence[Evaluation], objective: Objective) -> Evaluation | None:
    """The highest admissible score; of equals the one of fewest letters, then the earliest."""
    scored = [
        (objective.score(e.figures), -len(Chain.parse(e.chain)), e)
        for e in evaluations
        if e.figures is not None and _compressed(e) and objective.admissible(e.figures)
    ]
    return max(scored, key=lambda row: row[:2])[2] if scored else None


def _nearest(evaluations: Sequence[Evaluation], objective: Objective) -> Evaluation | None:
    """The smallest drop; of equals the highest score, then the earliest."""
    scored = [
        (-e.figures.drop_points, objective.score(e.figures), e)
        for e in evaluations
        if e.figures is not None and _compressed(e)
    ]
    return max(scored, key=lambda row: row[:2])[2] if scored else None


def _front(evaluations: Sequence[Evaluation]) -> tuple[Evaluation, ...]:
    """The chains that nothing evaluated beats in accuracy, cost and bytes, the untouched model included; of equals
    the earliest. The cost is measured speed where every chain has it, else BitOps."""
    figures = {e.chain: e.figures for e in evaluations if e.figures is not None}
    measured = all(f.speed_ratio is not None for f in figures.values())
    points = {
        (f.accuracy, f.speed_ratio or 0.0 if measured else f.bitops_ratio, f.bytes_ratio): chain
        for chain, f in reversed(figures.items())
    }
    front = {chain for point, chain in points.items() if not any(_dominates(other, point) for other in points)}
    return tuple(e for e in evaluations if e.chain in front and _compressed(e))


def _dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a >= b for a, b in zip(one, other, strict=True))
