"""The pictures of a search's chains, score against cost and against speed, and the words for one of them."""

from collections.abc import Mapping

from nacdeploy.metrics import ACCURACY, Metric, axis, shown, shown_drop
from nacdeploy.reports.charts.chart import Axis, Mark, Plane, Series
from nacdeploy.reports.figures import Panel
from nacdeploy.strategies.search.journal import Evaluation
from nacdeploy.strategies.search.objective import Figures
from nacdeploy.strategies.search.search_result import SearchResult

RATIO = "baseline / now"
_N_LETTERS = 24  # of a chain in a legend


def fronts(found: SearchResult, best: Evaluation | None) -> list[Panel]:
    """Return the chains by BitOps, and by speed where some are known. `best` stands in a ring."""
    metric = metric_of(found)
    by_cost = {e.chain: _mark(e, e.figures, e.figures.bitops_ratio) for e in found.evaluations if e.figures}
    caption = f"Every evaluated chain. The line joins those that no other beats in {metric.title} and BitOps."
    panels = [Panel("front", "Pareto front", caption, (_scatter(found, best, f"BitOps ratio ({RATIO})", by_cost),))]
    by_speed = {e.chain: _timed(e, e.figures) for e in found.evaluations if e.figures and e.figures.speed_ratio}
    if by_speed:
        caption = (
            "The same chains by speed, with its 95 % interval where a chain was timed in full. The line joins those "
            "that no other beats."
        )
        chart = _scatter(found, best, f"speed ({RATIO})", by_speed)
        panels.append(Panel("front-speed", "Front by speed", caption, (chart,)))
    return panels


def metric_of(found: SearchResult) -> Metric:
    """Return the metric of a search's chains."""
    return next((e.figures.scored_by for e in found.evaluations if e.figures), ACCURACY)


def word(found: SearchResult) -> str:
    """Say what the chain is that stands out: the best one, or the nearest where nothing is admissible."""
    return "nearest" if found.best is None else "best"


def speed_words(figures: Figures) -> str:
    """Print a speed with its interval; "" without one."""
    if figures.speed_ratio is None:
        return ""
    if figures.speed_low is None or figures.speed_high is None:
        return f"{figures.speed_ratio:.2f}x"
    return f"{figures.speed_ratio:.2f}x ({figures.speed_low:.2f}-{figures.speed_high:.2f})"


def tip(evaluation: Evaluation) -> str:
    """Say what is known of a chain, line by line."""
    figures = evaluation.figures
    name = evaluation.chain or "(untouched)"
    if figures is None:
        return f"{name}\n{evaluation.error or 'failed'}"
    metric = figures.scored_by
    lines = [
        name,
        f"{metric.title}: {shown(metric, figures.score)} ({shown_drop(metric, figures.drop)} lost)",
        f"BitOps {figures.bitops_ratio:.2f}x, MACs {figures.macs_ratio:.2f}x, bytes {figures.bytes_ratio:.2f}x",
    ]
    return "\n".join([*lines, *([f"speed {speed_words(figures)}"] if figures.speed_ratio else [])])


def _mark(
    evaluation: Evaluation, figures: Figures, x: float, low: float | None = None, high: float | None = None
) -> Mark:
    return Mark(x, figures.scored_by.scale * figures.score, tip(evaluation), low=low, high=high)


def _timed(evaluation: Evaluation, figures: Figures) -> Mark:
    return _mark(evaluation, figures, figures.speed_ratio or 0.0, figures.speed_low, figures.speed_high)


def _scatter(found: SearchResult, best: Evaluation | None, across: str, marks: Mapping[str, Mark]) -> Plane:
    """Return the chains that have a mark, by chain."""
    rows = [e for e in found.evaluations if e.chain in marks]
    line = _unbeaten(rows, marks)

    def of(chosen: list[Evaluation]) -> tuple[Mark, ...]:
        return tuple(marks[e.chain] for e in chosen)

    series = [
        *([Series("front", "grey", of(line), "none", is_joined=True)] if len(line) > 1 else []),
        Series("trained", "orange", of([e for e in rows if e.trained])),
        Series("not trained", "blue", of([e for e in rows if not e.trained])),
    ]
    if best is not None and best.chain in marks:
        series.append(Series(f"{word(found)}: {_short(best.chain)}", "red", of([best]), "ring"))
    return Plane(Axis(across, is_log=True), Axis(axis(metric_of(found))), tuple(series))


def _unbeaten(rows: list[Evaluation], marks: Mapping[str, Mark]) -> list[Evaluation]:
    """Return the chains that none of as much x, or more, beats in score, from the largest x on."""
    kept: list[Evaluation] = []
    for each in sorted(rows, key=lambda e: (-marks[e.chain].x, -_quality(e))):
        if not kept or _quality(each) > _quality(kept[-1]):
            kept.append(each)
    return kept


def _quality(evaluation: Evaluation) -> float:
    return evaluation.figures.quality if evaluation.figures else 0.0


def _short(chain: str) -> str:
    return chain if len(chain) <= _N_LETTERS else f"{chain[: _N_LETTERS - 2]}…"
