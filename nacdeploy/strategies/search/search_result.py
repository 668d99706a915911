"""What a search found: the best row, the nearest where none is admissible, and the Pareto front."""

from collections.abc import Sequence
from dataclasses import dataclass

from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.search.journal import Evaluation
from nacdeploy.strategies.search.objective import Objective, is_alive
from nacdeploy.strategies.search.pareto import non_dominated


@dataclass(frozen=True)
class SearchResult:
    """What a search found. `evaluations` begins with the untouched model; the other fields never hold it.

    `best` is the admissible chain of most worth. `nearest` is set only where nothing is admissible: the chain
    that lost the least. `front` holds the chains that no other beats in score, speed (or BitOps) and bytes.
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
        n_trainings=len({evaluation.training for evaluation in evaluations if evaluation.training}),
    )


def _compressed(evaluation: Evaluation) -> bool:
    return any(link.letter != "F" for link in Chain.parse(evaluation.chain))


def best_of(evaluations: Sequence[Evaluation], objective: Objective) -> Evaluation | None:
    """The admissible chain of most worth; of equals the one of fewest letters, then the earliest."""
    scored = [
        (objective.worth(e.figures), -len(Chain.parse(e.chain)), e)
        for e in evaluations
        if e.figures is not None and _compressed(e) and objective.admissible(e.figures)
    ]
    return max(scored, key=lambda row: row[:2])[2] if scored else None


def _nearest(evaluations: Sequence[Evaluation], objective: Objective) -> Evaluation | None:
    """The smallest drop; of equals the one of most worth, then the earliest."""
    scored = [
        (-e.figures.drop_points, objective.worth(e.figures), e)
        for e in evaluations
        if e.figures is not None and _compressed(e)
    ]
    return max(scored, key=lambda row: row[:2])[2] if scored else None


def _front(evaluations: Sequence[Evaluation]) -> tuple[Evaluation, ...]:
    """The chains, none destroyed, that nothing evaluated beats in score, cost and bytes, the untouched model
    included; of equals the earliest. The cost is measured speed where every chain has it, else BitOps."""
    figures = {e.chain: e.figures for e in evaluations if e.figures is not None and is_alive(e.figures)}
    measured = all(f.speed_ratio is not None for f in figures.values())
    points: dict[tuple[float, ...], str] = {
        (f.quality, f.speed_ratio or 0.0 if measured else f.bitops_ratio, f.bytes_ratio): chain
        for chain, f in reversed(figures.items())
    }
    front = {points[point] for point in non_dominated(list(points))}
    return tuple(e for e in evaluations if e.chain in front and _compressed(e))
