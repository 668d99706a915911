"""The commands as functions: `nacdeploy.train/search/transfer/finetune/export/bench`, joining the rooms.

Every function takes the options of the command of its name as keyword arguments (`nacdeploy.search(model="resnet8",
budget=8)`) and returns a frozen dataclass or a folder; progress goes to a `Progress`, silent by default.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

from nacdeploy import data as datasets
from nacdeploy import profile as profiles
from nacdeploy import records, tracking
from nacdeploy import task as tasks
from nacdeploy.errors import NacdeployError, UsageError, unknown
from nacdeploy.exporters import artifact
from nacdeploy.exporters import export as exporting
from nacdeploy.latency import Stopwatch
from nacdeploy.profile import Profile
from nacdeploy.progress import Progress, Silent
from nacdeploy.report import figures as pictures
from nacdeploy.report.summary import write_report
from nacdeploy.runners import bench as bench_runner
from nacdeploy.runs import Runs
from nacdeploy.session import (
    Options,
    OptionValues,
    Scores,
    Session,
    effective_profile,
    epoch_report,
    open_session,
    task_of,
    test_scores,
    train_baseline,
)
from nacdeploy.strategies import checkpoint as checkpoints
from nacdeploy.strategies import operators
from nacdeploy.strategies import transfer as transferring
from nacdeploy.strategies.cache import DiskMemory
from nacdeploy.strategies.chain import Chain, Link
from nacdeploy.strategies.evaluator import Evaluator, figures_of
from nacdeploy.strategies.objective import Figures
from nacdeploy.strategies.objective import make as make_objective
from nacdeploy.strategies.search import engine, make_searcher
from nacdeploy.strategies.search.engine import SearchResult
from nacdeploy.strategies.search.journal import Evaluation, Journal
from nacdeploy.strategies.state import CompressionState
from nacdeploy.strategies.strategy import FILE as STRATEGY_FILE
from nacdeploy.strategies.strategy import TABLES, Strategy, resolve

RESULT_FILE, RUN_FILE, CHECKPOINT = "result.json", "run.json", "checkpoint"


@dataclass(frozen=True)
class Result:
    """What a command left behind: result.json. Ratios are analytic, scores are on the test split."""

    kind: str
    folder: str
    checkpoint: str
    baseline_checkpoint: str
    model: str
    data: str
    profile: str
    chain: str
    figures: Figures
    scores: Scores
    n_epochs: int
    seconds: float
    skipped: tuple[transferring.Refusal, ...] = ()
    n_evaluations: int = 0
    n_trainings: int = 0
    schema: int = records.SCHEMA_VERSION


def train(
    *,
    out: Path | str | None = None,
    epochs: int | None = None,
    progress: Progress | None = None,
    **shared: Unpack[OptionValues],
) -> Path:
    """Train the FP32 baseline of a model and write its checkpoint folder."""
    progress, options = progress or Silent(), Options(**shared)
    profile = effective_profile(options)
    if epochs is not None:
        profile = profiles.override(profile, {"train": {"epochs": epochs}})
    place = Runs(Path(options.runs)).place(out, "train")
    task = tasks.make(profile.model, profile.data, profile)
    train_baseline(place, task, profile, progress)
    return place


def transfer(
    *,
    strategy: str,
    out: Path | str | None = None,
    skip_refused: bool = False,
    post_finetune: int = 0,
    progress: Progress | None = None,
    **shared: Unpack[OptionValues],
) -> Result:
    """Apply a word, a strategy file or a published strategy to a model, deciding anew; leaves a checkpoint.

    Raises:
        UsageError: unknown letter, parameter, model, data or profile.
        RefusedError: a letter does not apply (without `skip_refused`).
    """
    progress, watch, options = progress or Silent(), Stopwatch(), Options(**shared)
    found = resolve(strategy)
    profile = _with_settings(effective_profile(options), found)
    chain = Chain.parse(found.chain)
    operators.check(chain, profile)
    runs = Runs(Path(options.runs))
    place = runs.place(out, f"transfer-{chain.word}")
    session = open_session(options, profile, progress)
    state, skipped = _followed(session, chain, skip_refused, post_finetune, progress)
    return _finish(session, state, "transfer", place, runs, watch, progress, options, skipped=skipped)


def preview(
    *, strategy: str, skip_refused: bool = False, progress: Progress | None = None, **shared: Unpack[OptionValues]
) -> list[transferring.Preview]:
    """What `transfer` would do: every letter decided on the structure it would find, nothing trained or written."""
    found, options = resolve(strategy), Options(**shared)
    profile = _with_settings(effective_profile(options), found)
    chain = Chain.parse(found.chain)
    operators.check(chain, profile)
    session = open_session(options, profile, progress or Silent())
    return transferring.previews(chain, session.baseline, session.task, session.profile, skip_refused)


def finetune(
    *,
    source: Path | str,
    epochs: int | None = None,
    out: Path | str | None = None,
    progress: Progress | None = None,
    **shared: Unpack[OptionValues],
) -> Result:
    """Train a compressed checkpoint further (one more F); leaves a new checkpoint."""
    progress, watch, options = progress or Silent(), Stopwatch(), Options(**shared)
    runs = Runs(Path(options.runs))
    place = runs.place(out, "finetune")
    session, state = _reopened(Path(source), progress)
    parameters = () if epochs is None else (("epochs", epochs),)
    state, _ = _followed(session, Chain((Link("F", parameters),)), False, 0, progress, state)
    return _finish(session, state, "finetune", place, runs, watch, progress, options)


def search(
    *,
    out: Path | str | None = None,
    resume: Path | str | None = None,
    searcher: str | None = None,
    budget: int | None = None,
    max_drop: float | None = None,
    progress: Progress | None = None,
    **shared: Unpack[OptionValues],
) -> Result:
    """Search for the best chain; leaves its checkpoint, strategy.json and the journal. `resume` goes on with a run.

    Raises:
        UsageError: wrong options, or a resumed run of other settings.
        NacdeployError: no chain meets the accuracy budget; the nearest is named.
    """
    progress, watch, options = progress or Silent(), Stopwatch(), Options(**shared)
    runs = Runs(Path(options.runs))
    wanted = {"searcher": searcher, "budget": budget, "max_drop": max_drop}
    if resume is not None:
        place = Path(resume)
        options, profile = _resumed(place, options, wanted)
    else:
        profile = effective_profile(options, wanted)
        place = runs.place(out, "search")
    make_searcher(profile.search.searcher, profile.search, profile.seed)
    _check_alphabet(profile)
    session = open_session(options, profile, progress)
    profile = session.profile
    place.mkdir(parents=True, exist_ok=True)
    run = {"profile": profile.model_dump(mode="json"), "checkpoint": options.checkpoint}
    records.write_json(place / RUN_FILE, run)
    memory = DiskMemory(place / "cache", session.task, profile)
    with progress.bar("searching") as bar, Journal.open(place / "journal.jsonl", _fingerprint(session)) as journal:
        evaluator = Evaluator(session.baseline, session.task, profile, memory)
        found = _searched(session, evaluator, journal, _search_report(bar, profile))
    best = _best(found, session, evaluator, place, progress)
    state = evaluator.state(Chain.parse(best.chain))
    drawn = pictures.search_pictures(found, best, place)
    return _finish(session, state, "search", place, runs, watch, progress, options, found=found, drawn=drawn)


def export(
    *,
    target: str | None = None,
    source: Path | str | None = None,
    out: Path | str | None = None,
    profile: str | None = None,
    runs: Path | str = "runs",
    wandb: bool = True,
    progress: Progress | None = None,
) -> Path:
    """Make a checkpoint deployable; returns the artifact folder.

    Raises:
        UsageError: unknown target, no such checkpoint.
        NacdeployError: the exported graph does not agree with the torch model, or the builder rejects it.
    """
    progress, home = progress or Silent(), Runs(Path(runs))
    folder = checkpoint_folder(Path(source) if source is not None else home.last())
    state, record = checkpoints.load(folder)
    settings = record.settings()
    if profile is not None:
        settings = settings.model_copy(update={"export": profiles.load(profile).export})
    target = target or settings.target
    if target not in exporting.TARGETS:
        raise unknown("target", target, exporting.TARGETS)
    place = home.place(out, f"export-{target}")
    path = exporting.export(state, task_of(record), settings, target, place, _context(record, folder), progress)
    tracker = tracking.open_tracker(
        home.root / "tracking", wandb=wandb, project="nacdeploy", config={"target": target}, say=progress.say
    )
    tracker.artifact(path, f"{record.model.name}-{record.chain or 'fp32'}-{target}", {"parents": [str(folder)]})
    tracker.close()
    return path


def bench(
    artifacts: Sequence[Path | str],
    *,
    baseline: Path | str | None = None,
    data: str | None = None,
    batch: int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> bench_runner.Table:
    """Time artifacts and the FP32 baseline in turns in one run, and score them on the test split.

    Without `baseline`, the FP32 network that the first artifact came from is exported once and used.

    Raises:
        UsageError: no artifact, or data of another shape.
        NacdeployError: a file of an artifact is damaged.
    """
    progress = progress or Silent()
    paths = [Path(path) for path in artifacts]
    manifest, _ = artifact.load(paths[0])
    table = profiles.DataTable.model_validate(manifest.data["images"])
    dataset = datasets.load(data or manifest.data["name"], table)
    given = {"batch_sizes": (batch,) if batch else None, "threads": threads}
    settings = profiles.BenchTable.model_validate({k: v for k, v in given.items() if v is not None})
    reference = Path(baseline) if baseline is not None else _exported_baseline(manifest, progress)
    progress.say(f"timing {len(paths)} artifact(s) against {reference}, turn by turn")
    return bench_runner.bench(paths, reference, dataset, settings)


def _exported_baseline(manifest: artifact.Manifest, progress: Progress) -> Path:
    """The FP32 artifact beside the baseline's checkpoint."""
    folder = Path(manifest.baseline.get("checkpoint", ""))
    if not checkpoints.is_checkpoint(folder):
        raise UsageError(
            f"the FP32 checkpoint of this artifact ({folder}) is gone; give an FP32 artifact with --baseline"
        )
    place = folder / "onnx"
    if not artifact.is_artifact(place):
        state, record = checkpoints.load(folder)
        context = _context(record, folder)
        exporting.export(state, task_of(record), record.settings(), "ort", place, context, progress)
    return place


def checkpoint_folder(path: Path) -> Path:
    """The checkpoint of a result folder, or the checkpoint folder itself.

    Raises:
        UsageError: it is neither.
    """
    if checkpoints.is_checkpoint(path):
        return path
    if checkpoints.is_checkpoint(path / CHECKPOINT):
        return path / CHECKPOINT
    raise UsageError(f"{path} holds no checkpoint; --from takes a folder that search, transfer, finetune or train left")


def _with_settings(profile: Profile, strategy: Strategy) -> Profile:
    """A strategy file brings the tables that its letters were found with."""
    return profiles.override(profile, {t: strategy.settings[t] for t in TABLES if t in strategy.settings})


def _reopened(source: Path, progress: Progress) -> tuple[Session, CompressionState]:
    folder = checkpoint_folder(source)
    state, record = checkpoints.load(folder)
    task, profile = task_of(record), record.settings()
    if record.baseline_checkpoint is None or not checkpoints.is_checkpoint(Path(record.baseline_checkpoint)):
        raise UsageError(f"the baseline of {folder} ({record.baseline_checkpoint}) is gone: its test score is needed")
    baseline, _ = checkpoints.load(Path(record.baseline_checkpoint))
    return Session(profile, task, baseline, Path(record.baseline_checkpoint)), state


def _followed(
    session: Session,
    chain: Chain,
    skip_refused: bool,
    post_finetune: int,
    progress: Progress,
    start: CompressionState | None = None,
) -> tuple[CompressionState, tuple[transferring.Refusal, ...]]:
    with progress.bar(f"applying {chain}") as bar:
        done = transferring.follow(
            chain,
            start or session.baseline,
            session.task,
            session.profile,
            skip_refused=skip_refused,
            after=lambda state: progress.say(_step_line(state, session.profile)),
            report=epoch_report(bar, "F: epoch"),
        )
        state = done.state
        if post_finetune:
            report = epoch_report(bar, "post-finetune: epoch")
            state = transferring.post_finetune(state, post_finetune, session.task, session.profile, report)
            progress.say(_step_line(state, session.profile))
    return state, done.skipped


def _step_line(state: CompressionState, profile: Profile) -> str:
    step = state.steps[-1]
    explanation = operators.make(step.link, profile).explain(step.decision)
    return f"{step.link}: {100 * state.metrics.accuracy:.2f} % on validation; {explanation}"


def _resumed(place: Path, options: Options, wanted: dict[str, Any]) -> tuple[Options, Profile]:
    """The options and profile of a run that goes on, as it recorded them; a larger budget is allowed."""
    if not (place / RUN_FILE).is_file():
        raise UsageError(f"{place} is no search run (it has no {RUN_FILE}); --resume takes the folder of one")
    run = records.read_json(place / RUN_FILE)
    profile = profiles.from_mapping(run["profile"], where=str(place / RUN_FILE))
    profile = profiles.override(profile, {"search": {k: v for k, v in wanted.items() if v is not None}})
    return replace(options, checkpoint=run["checkpoint"], model=profile.model, data=profile.data), profile


def _check_alphabet(profile: Profile) -> None:
    for letter in profile.search.alphabet:
        operators.make(Link(letter), profile)


def _fingerprint(session: Session) -> dict[str, Any]:
    """What must be the same for a run to go on: everything but the budget."""
    settings = session.profile.model_dump(mode="json", exclude={"description", "bench", "export"})
    settings["search"].pop("budget")
    versions = {letter: kind.version for letter, kind in sorted(operators.by_letter().items())}
    baseline, data = session.baseline.key, session.task.data.fingerprint
    return {"baseline": baseline, "data": data, "operators": versions, **settings}


def _searched(
    session: Session, evaluator: Evaluator, journal: Journal, report: Callable[[engine.Progress], None]
) -> SearchResult:
    table = session.profile.search
    return engine.run(
        make_searcher(table.searcher, table, session.profile.seed),
        evaluator,
        make_objective(table),
        table.rules,
        table.alphabet,
        table.budget,
        journal,
        report,
    )


def _search_report(bar: Any, profile: Profile) -> Callable[[engine.Progress], None]:
    def report(progress: engine.Progress) -> None:
        best = progress.best.chain if progress.best else "none yet"
        bar.update(progress.n_done, progress.budget, f"last {progress.last.chain or 'baseline'}, best {best}")

    return report


def _best(found: SearchResult, session: Session, evaluator: Evaluator, place: Path, progress: Progress) -> Evaluation:
    """The chain that the search answers with.

    Raises:
        NacdeployError: none is within the accuracy budget.
    """
    limit = session.profile.search.max_drop
    if found.best is None:
        if found.nearest is None or found.nearest.figures is None:
            raise NacdeployError(f"NO CHAIN could be evaluated within {session.profile.search.budget} evaluations")
        nearest = found.nearest
        raise NacdeployError(
            f"NO CHAIN MEETS THE ACCURACY BUDGET of {limit:g} points: the nearest, '{nearest.chain}', loses "
            f"{found.nearest.figures.drop_points:.2f} points on validation; raise --max-drop or --budget "
            f"(the run is kept in {place}: --resume {place} goes on with it)"
        )
    if session.profile.search.figure == "speed":
        return _fastest(found, session, evaluator, place, progress)
    return found.best


def _fastest(
    found: SearchResult, session: Session, evaluator: Evaluator, place: Path, progress: Progress
) -> Evaluation:
    """The member of the front that runs fastest; every measurement is kept and reused by a resumed run."""
    path = place / "speeds.json"
    speeds: dict[str, float] = records.read_json(path) if path.is_file() else {}
    limit = session.profile.search.max_drop
    front = [e for e in (*found.front, found.best) if e and e.figures and e.figures.drop_points <= limit]
    for evaluation in front:
        if evaluation.state_key not in speeds:
            state = evaluator.state(Chain.parse(evaluation.chain))
            speeds[evaluation.state_key] = bench_runner.speed_ratio(
                state, session.baseline, session.profile.bench, session.profile.export.opset
            )
            records.write_json(path, speeds)
            progress.say(f"{evaluation.chain}: {speeds[evaluation.state_key]:.2f}x measured (a fresh run may differ)")
    return max(front, key=lambda e: speeds[e.state_key])


def _finish(
    session: Session,
    state: CompressionState,
    kind: str,
    place: Path,
    runs: Runs,
    watch: Stopwatch,
    progress: Progress,
    options: Options,
    skipped: tuple[transferring.Refusal, ...] = (),
    found: SearchResult | None = None,
    drawn: Sequence[Path] = (),
) -> Result:
    """Score on the test split, write checkpoint, strategy and result, and tell the tracker."""
    scores = test_scores(session, state, progress)
    result = Result(
        kind=kind,
        folder=str(place),
        checkpoint=str(place / CHECKPOINT),
        baseline_checkpoint=str(session.baseline_folder),
        model=session.task.spec.name,
        data=session.task.data.name,
        profile=session.profile.name,
        chain=str(state.chain),
        figures=figures_of(state, session.profile),
        scores=scores,
        n_epochs=state.n_epochs,
        seconds=watch.seconds(),
        skipped=skipped,
        n_evaluations=len(found.evaluations) - 1 if found else 0,
        n_trainings=found.n_trainings if found else 0,
    )
    record = checkpoints.record_of(
        state,
        session.task,
        session.profile,
        test=records.to_data(scores),
        baseline_checkpoint=str(session.baseline_folder),
    )
    with records.new_directory(place / CHECKPOINT, replace=True) as folder:
        checkpoints.write(folder, state, record)
    records.write_json(place / STRATEGY_FILE, _strategy(session, state, result))
    title = f"{result.chain} on {result.model}, {result.data}"
    write_report(place, title, result.figures, scores, drawn)
    records.write_json(place / RESULT_FILE, result)
    runs.finished(place)
    _track(result, found, place, session, options, progress)
    return result


def _strategy(session: Session, state: CompressionState, result: Result) -> Strategy:
    settings = session.profile.model_dump(mode="json", include=set(TABLES))
    origin = {"model": result.model, "data": result.data, "figures": records.to_data(result.figures)}
    return Strategy(str(state.chain), settings, origin)


def _track(
    result: Result, found: SearchResult | None, place: Path, session: Session, options: Options, progress: Progress
) -> None:
    config = {"kind": result.kind, **session.profile.model_dump(mode="json")}
    tracker = tracking.open_tracker(place, wandb=options.wandb, project="nacdeploy", config=config, say=progress.say)
    rows = [e for e in found.evaluations if e.figures] if found else []
    for evaluation in rows:
        tracker.row("evaluation", records.to_data(evaluation))
    if rows:
        columns = ("chain", "accuracy", "drop_points", "bitops_ratio", "macs_ratio", "bytes_ratio", "seconds")
        table = [[e.chain, *_columns(e.figures), e.seconds] for e in rows if e.figures]
        tracker.table("strategies", columns, table)
    tracker.row("result", records.to_data(result))
    tracker.artifact(place / CHECKPOINT, f"{result.model}-{result.chain}", {"parents": [result.baseline_checkpoint]})
    tracker.close()


def _columns(figures: Figures) -> tuple[float, ...]:
    return (figures.accuracy, figures.drop_points, figures.bitops_ratio, figures.macs_ratio, figures.bytes_ratio)


def _context(record: checkpoints.Record, folder: Path) -> exporting.Context:
    baseline = {"checkpoint": record.baseline_checkpoint or str(folder), "test": record.test}
    data = {**record.data, "images": record.profile["images"]}
    return exporting.Context(list(record.steps), records.to_data(record.model), data, baseline)
