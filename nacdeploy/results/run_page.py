"""The page about a run: of a search under way or of any result."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from nacdeploy import profile as profiles
from nacdeploy.base import records
from nacdeploy.base.errors import UsageError
from nacdeploy.forecasts.forecast import Forecast, Found, told_rows
from nacdeploy.metrics import ACCURACY, Metric, named, number, shown, shown_drop
from nacdeploy.profile import Profile
from nacdeploy.reports.figures import Panel, layers_panel, search_panels
from nacdeploy.reports.layers import layer_changes
from nacdeploy.reports.page import Cells, Page
from nacdeploy.sessions.resuming import JOURNAL, RUN_FILE
from nacdeploy.sessions.session import Scores
from nacdeploy.strategies.search import journal
from nacdeploy.strategies.search.journal import Evaluation
from nacdeploy.strategies.search.objective import Figures
from nacdeploy.strategies.search.objective import make as make_objective
from nacdeploy.strategies.search.search_result import SearchResult, result_of
from nacdeploy.strategies.steps import checkpoint as checkpoints
from nacdeploy.trials.dense import Candidate

REPORT_FILE = "report.html"


class Finished(Protocol):
    """The facts of a result that a page tells (`results.result.Result`).

    >>> from nacdeploy import Result
    >>> {"chain", "scores", "figures"} <= set(Result.__dataclass_fields__)
    True
    """

    @property
    def kind(self) -> str: ...
    @property
    def chain(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def data(self) -> str: ...
    @property
    def profile(self) -> str: ...
    @property
    def checkpoint(self) -> str: ...
    @property
    def baseline_checkpoint(self) -> str: ...
    @property
    def figures(self) -> Figures: ...
    @property
    def scores(self) -> Scores: ...
    @property
    def forecast(self) -> Forecast | None: ...
    @property
    def found(self) -> Found | None: ...
    @property
    def candidates(self) -> Sequence[Candidate]: ...


@dataclass(frozen=True)
class Material:
    """The present content of a run's folder: its profile and search, its result, or both."""

    found: SearchResult | None
    profile: Profile | None
    result: Finished | None


def material(folder: Path, result: Finished | None) -> Material:
    """Read what a run's folder holds beside its result.

    Raises:
        UsageError: the folder holds neither a search nor a result.
    """
    if records.is_file(folder / JOURNAL) and records.is_file(folder / RUN_FILE):
        where = folder / RUN_FILE
        data: Any = records.read_json(where)
        recorded = data.get("profile") if isinstance(data, dict) else None
        if not isinstance(recorded, dict):
            raise UsageError(f"{where} records no settings")
        profile = profiles.from_mapping(recorded, where=str(where))
        rows = tuple(journal.read(folder / JOURNAL)[1])
        if not rows:
            raise UsageError(f"{folder} has evaluated nothing yet; ask again when its first chain is done")
        return Material(result_of(rows, make_objective(profile.search, _point(rows))), profile, result)
    if result is None:
        raise UsageError(
            f"{folder} holds neither a search nor a result; report takes the folder of a run, as 'runs/search-1'"
        )
    return Material(None, None, result)


def _point(rows: Sequence[Evaluation]) -> float:
    """Return one point in the unit of the search's metric."""
    untouched = rows[0].figures
    return 1.0 if untouched is None else untouched.scored_by.point(untouched.chance_score)


def page_of(material: Material) -> Page:
    """Return the page of a run: with a result, its figures and layers; without one, the progress of the search."""
    found, result = material.found, material.result
    panels: list[Panel] = search_panels(found, _shown_best(found, result)) if found else []
    if result is not None:
        panels += _layers(result)
    tables = [*(candidate_tables(result) if result else []), *(_search_tables(found) if found else [])]
    return Page(_title(material), _lead(material), _summary(found, result), panels, tables)


def _shown_best(found: SearchResult, result: Finished | None) -> Evaluation | None:
    """Return the chain that the run answered with, else the best so far: a dense network's chain is no chain of the
    search."""
    by_chain = {e.chain: e for e in found.evaluations}
    answered = by_chain.get(result.chain) if result and not dense_answer(result) else None
    return answered or found.best or found.nearest


def dense_answer(result: Finished) -> Candidate | None:
    """Return the dense network that a search by time answered with; None if its answer is a chain."""
    return next((each for each in result.candidates if each.is_answer and each.is_dense), None)


def title_of(result: Finished) -> str:
    """Return the title of a result."""
    if (own := dense_answer(result)) is not None:
        return f"{own.name} on {result.data}"
    return f"{result.chain or 'FP32'} on {result.model}, {result.data}"


def candidate_tables(result: Finished) -> list[Cells]:
    """Return the table of the networks within a search's time, the answer first; no table without a time."""
    if not result.candidates:
        return []
    rows = [
        (
            f"{each.name}{' *' if each.is_answer else ''}",
            shown(named(each.metric), each.score),
            f"{each.p50_ms:.4g}",
            str(each.n_epochs),
        )
        for each in result.candidates
    ]
    columns = ("network", f"{named(result.candidates[0].metric).title}, validation", "ms", "epochs in all")
    return [Cells("Within the time; * is the answer", columns, tuple(rows))]


def _title(material: Material) -> str:
    if material.result is not None:
        return title_of(material.result)
    profile = material.profile
    return f"Search on {profile.model}, {profile.data}, under way" if profile else "Run"


def _lead(material: Material) -> str:
    found, profile = material.found, material.profile
    if found is None or profile is None:
        return f"{material.result.kind} with profile {material.result.profile}" if material.result else ""
    n_done = len(found.evaluations) - 1
    table = profile.search
    own = dense_answer(material.result) if material.result is not None else None
    answer = f"The answer is {own.name}, better on validation than any chain within the time. " if own else ""
    return answer + (
        f"{n_done} of {table.budget} chains evaluated by '{table.searcher}' over the letters {table.alphabet}, "
        f"{found.n_trainings} trainings; objective '{table.objective}', at most {allowed(profile)} lost on "
        "validation. Ratios are baseline / now: more is better."
    )


def _summary(found: SearchResult | None, result: Finished | None) -> Cells:
    if result is not None:
        rows = (*summary_rows(result.figures, result.scores), *told_rows(result.forecast, result.found))
        return Cells("Result", ("figure", "value"), rows)
    best = found and (found.best or found.nearest)
    if not best:
        return Cells("So far", ("figure", "value"), (("chains", "only the untouched model is evaluated"),))
    kind = "best so far" if found and found.best else "nearest to the budget"
    if best.figures is None:
        return Cells(kind, ("chain",), ((best.chain,),))
    return Cells("So far", _columns(best.figures.scored_by), (_chain_row(best),))


def allowed(profile: Profile) -> str:
    """Print the drop that a search allows."""
    budget = profile.search.max_drop
    return "one point" if budget is None else f"{budget:g} {named(profile.metric).drop_unit}"


def _columns(metric: Metric) -> tuple[str, ...]:
    return ("chain", metric.title, "lost", "BitOps", "bytes", "speed")


def _chain_row(evaluation: Evaluation) -> tuple[str, ...]:
    figures = evaluation.figures
    if figures is None:
        return (evaluation.chain, evaluation.error or "failed", "", "", "", "")
    return (evaluation.chain or "(untouched)", *_cells(figures))


def _cells(figures: Figures) -> tuple[str, ...]:
    speed = "" if figures.speed_ratio is None else f"{figures.speed_ratio:.2f}x"
    return (
        shown(figures.scored_by, figures.score),
        number(figures.scored_by, figures.drop),
        f"{figures.bitops_ratio:.2f}x",
        f"{figures.bytes_ratio:.2f}x",
        speed,
    )


def _search_tables(found: SearchResult) -> list[Cells]:
    front = sorted(found.front, key=lambda e: e.figures.drop_points if e.figures else 0.0)
    scores = [e.figures.scored_by for e in found.evaluations if e.figures]
    columns = _columns(scores[0] if scores else ACCURACY)
    return [
        Cells("The front (validation)", columns, tuple(map(_chain_row, front))),
        Cells(f"All {len(found.evaluations)} chains", columns, tuple(map(_chain_row, found.evaluations)), folded=True),
    ]


def _layers(result: Finished) -> Sequence[Panel]:
    """Return the picture by layer, where both checkpoints are still there and of one architecture."""
    places = [Path(result.checkpoint), Path(result.baseline_checkpoint)]
    if not all(map(checkpoints.is_checkpoint, places)):
        return []
    if len({checkpoints.read_record(place).model.name for place in places}) > 1:
        return []
    compressed, baseline = (checkpoints.load(place)[0] for place in places)
    return [layers_panel(layer_changes(baseline.network, compressed.network))]


def summary_rows(figures: Figures, scores: Scores) -> tuple[tuple[str, str], ...]:
    """Return the scores on the test split and the ratios, each with its name; measured speed where there is one."""
    metric = figures.scored_by
    speed = [("measured speed against FP32", f"{figures.speed_ratio:.2f}x")] if figures.speed_ratio else []
    return (
        (f"FP32 baseline, test {metric.title}", shown(metric, scores.baseline)),
        (f"control (FP32, {scores.n_control_epochs} epochs more)", shown(metric, scores.control)),
        (f"compressed, test {metric.title}", shown(metric, scores.compressed)),
        (f"{metric.title} lost against the better of the two", shown_drop(metric, scores.drop)),
        ("BitOps ratio (analytic)", f"{figures.bitops_ratio:.2f}x"),
        ("MACs ratio (analytic)", f"{figures.macs_ratio:.2f}x"),
        ("memory ratio (analytic, heads and scales charged)", f"{figures.bytes_ratio:.2f}x"),
        ("NAC's own BitOpsCR / MemCR", f"{figures.nac_bitops_ratio:.2f} / {figures.nac_memory_ratio:.2f}"),
        *speed,
    )
