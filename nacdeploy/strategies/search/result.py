"""What a search found: the best row, the nearest where none is admissible, and the Pareto front."""

from collections.abc import Sequence
from dataclasses import dataclass

from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.objective import Objective
from nacdeploy.strategies.search.journal import Evaluation


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


def result_of(evaluations: tuple[Evaluation, ...], objective: Objective) -> SearchResult:
    """What came of a search, from its rows."""
    best = best_of(evaluations, objective)
    return SearchResult(
        evaluations=evaluations,
        best=best,
        nearest=_nearest(evaluations, objective) if best is None else None,
        front=_front(evaluations),
        n_trainings=sum(evaluation.trained for evaluation in evaluations),
    )


def _compressed(evaluation: Evaluation) -> bool:
    return any(link.letter != "F" for link in Chain.parse(evaluation.chain))


def best_of(evaluations: Sequence[Evaluation], objective: Objective) -> Evaluation | None:
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
