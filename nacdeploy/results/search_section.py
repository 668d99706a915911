"""The search on the page of a run: networks within a time, fronts, every chain, and how times were taken."""

from collections.abc import Sequence

from nacdeploy.latencies.setting import Setting
from nacdeploy.metrics import ACCURACY, Metric, axis, cell, named, number, shown
from nacdeploy.reports.charts.chart import Axis, Mark, Plane, Series
from nacdeploy.reports.figures import Panel
from nacdeploy.reports.fronts import speed_words
from nacdeploy.reports.page import Cell, Cells, Section, Value
from nacdeploy.strategies.search.journal import Evaluation
from nacdeploy.strategies.search.objective import Figures
from nacdeploy.strategies.search.search_result import SearchResult
from nacdeploy.trials.dense import Candidate
from nacdeploy.trials.final import LatencyReport

_IN_FULL = "The front and the answer were timed in full at the end of the search; others stand as it saw them."


def within_section(candidates: Sequence[Candidate]) -> list[Section]:
    """Return the section of the networks within a search's time, the answer first; none without a time."""
    if not candidates:
        return []
    answer = next((each for each in candidates if each.is_answer), candidates[0])
    kind = "a smaller dense network" if answer.is_dense else "a chain"
    metric = named(answer.metric)
    lead = (
        f"The answer is {kind}: {answer.name}, {answer.p50_ms:.4g} ms and {shown(metric, answer.score)} on validation. "
        "Dense networks are trained for as many epochs as the chain's network was in all."
    )
    panel = _within_panel(candidates, metric)
    return [Section("within", "Within the time", lead, panels=[panel], tables=candidate_tables(candidates))]


def candidate_tables(candidates: Sequence[Candidate]) -> list[Cells]:
    """Return the table of the networks within a search's time, the answer first; no table without a time."""
    if not candidates:
        return []
    rows = tuple(
        (
            f"{each.name}{' *' if each.is_answer else ''}",
            "dense" if each.is_dense else "chain",
            Value(shown(named(each.metric), each.score), each.score),
            Value(f"{each.p50_ms:.4g}", each.p50_ms),
            Value(str(each.n_epochs), each.n_epochs),
        )
        for each in candidates
    )
    metric = named(candidates[0].metric)
    columns = ("network", "kind", f"{metric.title}, validation", "ms", "epochs in all")
    marked = frozenset(at for at, each in enumerate(candidates) if each.is_answer)
    return [Cells("Within the time; * is the answer", columns, rows, marked=marked)]


def search_section(
    found: SearchResult, best: Evaluation | None, lead: str, latency: LatencyReport | None, panels: Sequence[Panel]
) -> Section:
    """Return the section of a search; `best` stands out in its tables."""
    front = sorted(found.front, key=lambda e: e.figures.drop_points if e.figures else 0.0)
    caption = "" if latency is None else _IN_FULL
    tables = [
        _chains("The front (validation)", front, best),
        _chains(f"All {len(found.evaluations)} chains", found.evaluations, best, caption, folded=True),
    ]
    return Section("search", "Search", lead, latency_facts(latency), panels, tables)


def latency_facts(latency: LatencyReport | None) -> tuple[tuple[str, str], ...]:
    """Return how a search took its times; nothing where it took none."""
    if latency is None:
        return ()
    error = latency.table
    return (
        ("times", timed_words(latency.setting)),
        ("networks timed", f"{latency.n_timed_search} during the search, {latency.n_timed_final} at its end"),
        ("rounds, in turns", f"{latency.n_rounds_search} during the search, {latency.n_rounds_final} at its end"),
        *(
            [
                (
                    "estimates by layers",
                    f"off by {100 * error.median_error:.1f} %, at worst {100 * error.worst_error:.1f} %",
                )
            ]
            if error is not None
            else []
        ),
        *([("static instead of exits", f"as fast as {latency.instead_of}")] if latency.instead_of else []),
    )


def timed_words(setting: Setting) -> str:
    """Say where times were taken."""
    threads, batch = setting.threads, setting.batch_size
    return f"measured on {setting.machine}; {setting.runtime}, {threads} thread(s), batch {batch}"


def chain_row(evaluation: Evaluation) -> tuple[Cell, ...]:
    """Return a row of a table of chains; see `chain_columns`."""
    figures, name = evaluation.figures, evaluation.chain or "(untouched)"
    if figures is None:
        return (name, *[Value("")] * 6, evaluation.error or "failed")
    return (name, *_cells(figures), "trained" if evaluation.trained else "")


def chain_columns(metric: Metric) -> tuple[str, ...]:
    """Return the heads of a table of chains."""
    unit = f" {metric.unit}".rstrip()
    return ("chain", f"{metric.title}{unit}", "lost", "BitOps", "MACs", "bytes", "measured speed (95 %)", "note")


def _cells(figures: Figures) -> list[Value]:
    metric = figures.scored_by
    ratios = (figures.bitops_ratio, figures.macs_ratio, figures.bytes_ratio)
    return [
        Value(cell(metric, figures.score), figures.score),
        Value(number(metric, figures.drop), figures.drop),
        *(Value(f"{ratio:.2f}x", ratio) for ratio in ratios),
        Value(speed_words(figures), figures.speed_ratio),
    ]


def _chains(
    title: str, rows: Sequence[Evaluation], best: Evaluation | None, caption: str = "", folded: bool = False
) -> Cells:
    metric = next((e.figures.scored_by for e in rows if e.figures), ACCURACY)
    marked = frozenset(at for at, e in enumerate(rows) if best is not None and e.chain == best.chain)
    return Cells(title, chain_columns(metric), tuple(map(chain_row, rows)), folded, caption, marked).filled


def _within_panel(candidates: Sequence[Candidate], metric: Metric) -> Panel:
    def marks(rows: Sequence[Candidate]) -> tuple[Mark, ...]:
        return tuple(
            Mark(e.p50_ms, metric.scale * e.score, f"{e.name}\n{shown(metric, e.score)}, {e.p50_ms:.4g} ms")
            for e in rows
        )

    series = (
        Series("chain", "blue", marks([e for e in candidates if not e.is_dense])),
        Series("dense", "green", marks([e for e in candidates if e.is_dense]), "square"),
        Series("answer", "red", marks([e for e in candidates if e.is_answer]), "ring"),
    )
    chart = Plane(Axis("measured ms for one image"), Axis(axis(metric)), series)
    return Panel("within", "Score against time", "Every network was timed in turns with the others.", (chart,))
