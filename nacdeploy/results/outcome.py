"""The results of a job: scores on the test split, checkpoint, strategy, report and the tracker's rows."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from nacdeploy.base import records, tracking
from nacdeploy.base.errors import NacdeployError, UsageError
from nacdeploy.base.latency import Stopwatch
from nacdeploy.base.outside import own
from nacdeploy.base.progress import Progress
from nacdeploy.forecasts.forecast import Forecast, Found
from nacdeploy.metrics import schema, spelled
from nacdeploy.reports.page import Cells, Page, write_page
from nacdeploy.results import lineage
from nacdeploy.results.result import RESULT_FILE, FrontMember, Result
from nacdeploy.results.run_material import Finished, Material
from nacdeploy.results.run_page import REPORT_FILE, page_of, result_rows
from nacdeploy.results.search_section import candidate_tables
from nacdeploy.sessions.options import TRACKERS, Options
from nacdeploy.sessions.runs import Runs
from nacdeploy.sessions.session import Session, test_scores
from nacdeploy.strategies.search.objective import Figures
from nacdeploy.strategies.search.search_result import SearchResult
from nacdeploy.strategies.state import CompressionState
from nacdeploy.strategies.steps import checkpoint as checkpoints
from nacdeploy.strategies.steps import follow as transferring
from nacdeploy.strategies.strategy import FILE as STRATEGY_FILE
from nacdeploy.strategies.strategy import Strategy, settings_of
from nacdeploy.trials.dense import Candidate
from nacdeploy.trials.evaluator import figures_of
from nacdeploy.trials.final import LatencyReport
from nacdeploy.trials.speed import Speed

CHECKPOINT = "checkpoint"
_WITH_JOURNAL = ("search", "compress")


@dataclass(frozen=True)
class Command:
    """A command under way: its name, the folder it leaves, its options, where it says what it does, its start."""

    kind: str
    place: Path
    options: Options
    progress: Progress
    watch: Stopwatch = field(default_factory=Stopwatch)


def finish(
    command: Command,
    session: Session,
    state: CompressionState,
    *,
    skipped: tuple[transferring.Refusal, ...] = (),
    found: SearchResult | None = None,
    speed: Speed | None = None,
    latency: LatencyReport | None = None,
    candidates: tuple[Candidate, ...] = (),
    told: tuple[Forecast | None, Found | None] = (None, None),
    n_epochs: int | None = None,
) -> Result:
    """Score on the test split, write checkpoint, strategy and result, and tell the tracker.

    `n_epochs` are those beyond the baseline's own, where the chain's letters do not say them.
    """
    n_epochs = state.n_epochs if n_epochs is None else n_epochs
    scores = test_scores(session, state, n_epochs, command.progress)
    result = Result(
        kind=command.kind,
        folder=str(command.place),
        checkpoint=str(command.place / CHECKPOINT),
        baseline_checkpoint=str(session.baseline_folder),
        model=session.task.spec.name,
        data=session.task.data.name,
        profile=session.profile.name,
        chain=str(state.chain),
        figures=figures_of(state, session.profile, speed),
        scores=scores,
        n_epochs=n_epochs,
        seconds=command.watch.seconds(),
        skipped=skipped,
        n_evaluations=len(found.evaluations) - 1 if found else 0,
        n_trainings=found.n_trainings if found else 0,
        front=front_of(found) if found else (),
        latency=latency,
        candidates=candidates,
        forecast=told[0],
        found=told[1],
        schema=schema(session.task.metric.name),
    )
    record = checkpoints.record_of(
        state,
        session.task,
        session.profile,
        test=records.to_data(scores),
        baseline_checkpoint=str(session.baseline_folder),
    )
    with _whole(command) as folder:
        with records.new_directory(folder / CHECKPOINT, replace=True) as inner:
            checkpoints.write(inner, state, record)
        records.write_json(folder / STRATEGY_FILE, _strategy(session, state, result))
        records.write_json(folder / RESULT_FILE, result)
    own.note(command.place / CHECKPOINT / checkpoints.RECORD)
    if session.shelves is not None:
        session.shelves.close()
    Runs(Path(command.options["runs"])).finished(command.place)
    drawn = _report(command.place, Material(found, session.profile, result))
    _track(command, result, found, session, record, drawn)
    return result


def _report(place: Path, material: Material) -> dict[str, Path]:
    """report.html, report.md and the pictures of a result, by name.

    Raises:
        NacdeployError: they cannot be written; the result is whole.
    """
    assert material.result is not None
    page = page_of(material)
    try:
        whole = write_page(place / REPORT_FILE, page)  # before the PNGs, whose resolution moves the layout a little
        pictures = {panel.name: panel.write_png(place) for panel in page.panels}
        _write_report(place, page, material.result, [*pictures.values()])
    except NacdeployError as error:
        raise NacdeployError(
            f"the result in {place} is whole, its report is not: {error}; 'nacdeploy report {place}' draws it again"
        ) from error
    return {**pictures, "report": whole}


def front_of(found: SearchResult) -> tuple[FrontMember, ...]:
    """Return the Pareto front of a search, numbered from the smallest drop on."""
    rows = sorted(((e.chain, e.figures) for e in found.front if e.figures), key=lambda row: row[1].drop_points)
    return tuple(
        FrontMember(number, chain, figures.drop, figures, figures.metric)
        for number, (chain, figures) in enumerate(rows, start=1)
    )


@contextmanager
def _whole(command: Command) -> Iterator[Path]:
    """Make a result's folder appear whole or not at all; the folder of a job with a journal is added to."""
    if command.kind in _WITH_JOURNAL:
        yield command.place
        return
    with records.new_directory(command.place) as folder:
        yield folder


def _strategy(session: Session, state: CompressionState, result: Result) -> Strategy:
    settings = settings_of(state.chain, session.profile)
    del settings["quantize"]["grid"]  # the machine's own, measured again where the strategy is applied
    settings.get("prune", {}).pop("latency_table", None)  # a path of this machine
    origin = {"model": result.model, "data": result.data, "figures": records.to_data(result.figures)}
    if result.forecast is not None:
        origin["forecast"] = records.to_data(result.forecast)
    return Strategy(state.chain, settings, origin)


def _track(
    command: Command,
    result: Result,
    found: SearchResult | None,
    session: Session,
    record: checkpoints.Record,
    drawn: Mapping[str, Path],
) -> None:
    config = {"kind": command.kind, **session.profile.model_dump(mode="json")}
    told = {name: command.options[name] for name in TRACKERS}  # type: ignore[literal-required]
    sinks, say = lineage.sinks(command.options["runs"], **told), command.progress.say
    tracker = tracking.open_tracker(command.place, sinks, project="nacdeploy", config=config, say=say)
    rows = [e for e in found.evaluations if e.figures] if found else []
    for evaluation in rows:
        tracker.row("evaluation", records.to_data(evaluation))
    if rows:
        named = (spelled(name, session.task.metric.name) for name in ("score", "drop"))
        columns = ("chain", *named, "bitops_ratio", "macs_ratio", "bytes_ratio", "seconds")
        table = [[e.chain, *_columns(e.figures), e.seconds] for e in rows if e.figures]
        tracker.table("strategies", columns, table)
    for name, path in drawn.items():
        tracker.media(name, path)
    figures = records.to_data(result)
    tracker.row("result", {"command": figures.pop("kind"), **figures})
    for item in lineage.of_result(result, record, command.place / STRATEGY_FILE):
        tracker.artifact(item)
    tracker.close()


def _columns(figures: Figures) -> tuple[float, ...]:
    return (figures.score, figures.drop, figures.bitops_ratio, figures.macs_ratio, figures.bytes_ratio)


def checkpoint_folder(path: Path) -> Path:
    """Return the checkpoint of a result folder, or the checkpoint folder itself.

    Raises:
        UsageError: it is neither.
    """
    if checkpoints.is_checkpoint(path):
        return path
    if checkpoints.is_checkpoint(path / CHECKPOINT):
        return path / CHECKPOINT
    raise UsageError(f"{path} holds no checkpoint; --from takes a folder that search, transfer, finetune or train left")


def _write_report(folder: Path, page: Page, result: Finished, pictures: Sequence[Path] = ()) -> Path:
    """Write `report.md` into `folder`: scores on the test split, ratios, a forecast, the networks within a time,
    pictures beside it."""
    lines = [f"# {page.title}"]
    for table in (Cells("", ("figure", "value"), result_rows(result)), *candidate_tables(result.candidates)):
        lines += ["", *([f"{table.title}:", ""] if table.title else []), f"| {' | '.join(table.columns)} |"]
        lines += ["|" + "---|" * len(table.columns), *(f"| {' | '.join(map(str, row))} |" for row in table.rows)]
    lines += ["", *(f"![{picture.stem}]({picture.name})" for picture in pictures)]
    lines += ["", "Measured latency: `nacdeploy bench` on the exported artifact."]
    path = folder / "report.md"
    records.write_text(path, "\n".join(lines) + "\n")
    return path
