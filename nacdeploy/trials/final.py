"""The end of a search: its front and its answer counted on all validation images and timed in full, in turns.

A search may decide by a part of the images, few rounds or estimates; its answer never rests on these.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from nacdeploy.latencies.setting import Setting
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.search.journal import Evaluation
from nacdeploy.strategies.search.objective import Objective
from nacdeploy.strategies.search.search_result import SearchResult, result_of
from nacdeploy.strategies.state import CompressionState
from nacdeploy.trials.evaluator import Evaluator, figures_of
from nacdeploy.trials.layer_speed import LayerSpeeds, TableError
from nacdeploy.trials.speed import Speed, Speeds
from nacdeploy.trials.time_budget import ClockSpeeds
from nacdeploy.trials.ways import timed_key

N_TIMED = 6  # networks timed whole at the end at least, where there are so many


@dataclass(frozen=True)
class LatencyReport:
    """The method of a search's speeds: the place, the interleaved rounds, and the structures timed during and at the
    end.

    With `source` "table", also the error of the estimates. `instead_of` is the chain with exits that a chain without
    exits, as fast and of no lower score, took the place of.
    """

    source: str
    setting: Setting
    n_rounds_search: int
    n_timed_search: int
    n_rounds_final: int
    n_timed_final: int
    table: TableError | None = None
    instead_of: str = ""


@dataclass(frozen=True)
class Final:
    """The result of a search with its front and best in full; the state of the best, and its speed."""

    found: SearchResult
    state: CompressionState | None
    speed: Speed | None = None
    latency: LatencyReport | None = None


def in_full(
    found: SearchResult,
    objective: Objective,
    evaluator: Evaluator,
    speeds: Speeds | ClockSpeeds | None = None,
    table: LayerSpeeds | None = None,
) -> Final:
    """The same search with its front and best counted in full, and timed in full where speed matters."""
    found = _counted(found, objective, evaluator)
    if speeds is not None:
        return _timed(found, objective, evaluator, speeds, table)
    return Final(found, evaluator.in_full(Chain.parse(found.best.chain)) if found.best else None)


def _counted(found: SearchResult, objective: Objective, evaluator: Evaluator) -> SearchResult:
    """Count all images for the front, the best and the nearest, until these stay the same."""
    rows = {evaluation.chain: evaluation for evaluation in found.evaluations}
    while True:
        found = result_of(tuple(rows.values()), objective)
        ends = [e for e in (*found.front, found.best, found.nearest) if e and e.figures and e.figures.half_width]
        if not ends:
            return found
        for evaluation in ends:
            state = evaluator.in_full(Chain.parse(evaluation.chain))
            rows[evaluation.chain] = _with_figures(evaluation, state, evaluator, None)


def _timed(
    found: SearchResult,
    objective: Objective,
    evaluator: Evaluator,
    speeds: Speeds | ClockSpeeds,
    table: LayerSpeeds | None,
) -> Final:
    chosen = _to_time(found, objective)
    states = {e.chain: evaluator.in_full(Chain.parse(e.chain)) for e in chosen}
    keys = {chain: timed_key(state) for chain, state in states.items()}
    n_search, profile = speeds.n_kept, evaluator.profile
    times = speeds.in_full(list(states.values())) if states else {}
    timed = {e.chain: _with_figures(e, states[e.chain], evaluator, times[keys[e.chain]]) for e in chosen}
    ends = result_of((found.evaluations[0], *timed.values()), objective)
    best = _least_loss(ends.best, ends.front, objective)
    static = _static(best, list(timed.values()), objective)
    instead = "" if best is None or static is None else best.chain
    best = static or best
    plain = {keys[chain]: state for chain, state in states.items() if not state.network.exits}
    error = table.error(plain, times) if table else None
    source, rounds = ("table" if table else "measured"), (profile.search.n_latency_rounds, profile.bench.n_rounds)
    report = LatencyReport(source, speeds.setting, rounds[0], n_search, rounds[1], len(times), error, instead)
    evaluations = tuple(timed.get(e.chain, e) for e in found.evaluations)
    nearest = found.nearest and timed.get(found.nearest.chain, found.nearest)
    found = replace(found, evaluations=evaluations, best=best, nearest=nearest, front=ends.front)
    if best is None:
        return Final(found, None, None, report)
    return Final(found, states[best.chain], times[keys[best.chain]], report)


def _to_time(found: SearchResult, objective: Objective) -> list[Evaluation]:
    """Return the chains to time: the front, the best and the nearest, and of the others those of most worth."""
    ends = {e.chain: e for e in (*found.front, found.best, found.nearest) if e is not None}
    others = [e for e in found.evaluations[1:] if e.figures is not None and objective.admissible(e.figures)]
    others.sort(key=lambda e: -objective.worth(e.figures) if e.figures else 0.0)
    for evaluation in others:
        if len(ends) < N_TIMED and not (evaluation.figures and evaluation.figures.half_width):
            ends.setdefault(evaluation.chain, evaluation)
    return list(ends.values())


def _least_loss(best: Evaluation | None, front: Sequence[Evaluation], objective: Objective) -> Evaluation | None:
    """Among front members whose speed interval overlaps the best's, return the most accurate.

    A chain is faster only if its interval is. This applies if speed alone ranks.
    """
    if best is None or best.figures is None or objective.name in ("pareto", "time"):
        return best
    low = best.figures.speed_low or 0.0
    ties = [
        (e.figures.quality, e)
        for e in front
        if e.figures and objective.admissible(e.figures) and (e.figures.speed_high or 0.0) >= low
    ]
    return max([(best.figures.quality, best), *ties], key=lambda tie: tie[0])[1]


def _static(best: Evaluation | None, timed: Sequence[Evaluation], objective: Objective) -> Evaluation | None:
    """Return a chain without exits that is as fast as the best one, which has exits, at no lower score; or None."""
    if best is None or best.figures is None or "E" not in _letters(best) or objective.name in ("pareto", "time"):
        return None
    low, quality = best.figures.speed_low or best.figures.speed_ratio or 0.0, best.figures.quality
    found = [
        (e.figures.speed_ratio or 0.0, e)
        for e in timed
        if e.figures and "E" not in _letters(e) and objective.admissible(e.figures)
        if e.figures.quality >= quality and (e.figures.speed_high or e.figures.speed_ratio or 0.0) >= low
    ]
    return max(found, key=lambda pair: pair[0])[1] if found else None


def _letters(evaluation: Evaluation) -> set[str]:
    return {link.letter for link in Chain.parse(evaluation.chain)}


def _with_figures(
    evaluation: Evaluation, state: CompressionState, evaluator: Evaluator, speed: Speed | None
) -> Evaluation:
    figures, was = figures_of(state, evaluator.profile, speed), evaluation.figures
    if speed is None and was is not None:
        figures = replace(figures, speed_ratio=was.speed_ratio, speed_low=was.speed_low, speed_high=was.speed_high)
    return replace(evaluation, figures=figures)
