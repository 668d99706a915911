"""The search: driver, journal and memory joined with the session; the best chain, or a loud end."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

from nacdeploy import profile as profiles
from nacdeploy import records
from nacdeploy.errors import NacdeployError, UsageError
from nacdeploy.jobs import layer_speed, speed
from nacdeploy.jobs.evaluator import Evaluator
from nacdeploy.jobs.final import Final, in_full
from nacdeploy.jobs.layer_speed import LayerSpeeds
from nacdeploy.jobs.outcome import Job, Result, finish
from nacdeploy.jobs.runs import Runs
from nacdeploy.jobs.session import Options, OptionValues, Session, effective_profile, open_session
from nacdeploy.jobs.speed import Speeds
from nacdeploy.latency import Stopwatch
from nacdeploy.profile import Profile
from nacdeploy.progress import Progress, Silent
from nacdeploy.report import figures as pictures
from nacdeploy.strategies import operators
from nacdeploy.strategies.cache import DiskMemory
from nacdeploy.strategies.chain import Link
from nacdeploy.strategies.fidelity import subsets
from nacdeploy.strategies.objective import make as make_objective
from nacdeploy.strategies.search import engine, halving, make_searcher
from nacdeploy.strategies.search.engine import SearchResult
from nacdeploy.strategies.search.journal import Evaluation, Journal

RUN_FILE = "run.json"


@dataclass(frozen=True)
class Run:
    """run.json: what a search was asked for, so that it can go on."""

    profile: dict[str, Any]
    checkpoint: str | None


def search(
    *,
    out: Path | str | None = None,
    resume: Path | str | None = None,
    searcher: str | None = None,
    budget: int | None = None,
    max_drop: float | None = None,
    objective: str | None = None,
    progress: Progress | None = None,
    **shared: Unpack[OptionValues],
) -> Result:
    """Search for the best chain; leaves its checkpoint, strategy.json and the journal. `resume` goes on with a run.

    Raises:
        UsageError: wrong options, or a resumed run of other settings.
        NacdeployError: no chain meets the accuracy budget (the nearest is named), or latency is asked of a target that
            is not here.
    """
    progress, options, watch = progress or Silent(), Options(**shared), Stopwatch()
    wanted = {"searcher": searcher, "budget": budget, "max_drop": max_drop, "objective": objective}
    if resume is not None:
        place = Path(resume)
        options, profile = _resumed(place, options, wanted)
    else:
        profile = effective_profile(options, wanted)
        place = Runs(Path(options.runs)).place(out, "search")
    make_searcher(profile.search.searcher, profile.search, profile.seed)
    _check_alphabet(profile)
    speed.check_target(profile)
    layer_speed.check_given(profile)
    session = open_session(options, profile, profile.search.alphabet, progress)
    profile = session.profile
    with progress.bar("searching") as bar, Journal.open(place / "journal.jsonl", _fingerprint(session)) as journal:
        records.write_json(place / RUN_FILE, Run(profile.model_dump(mode="json"), options.checkpoint))
        memory = DiskMemory(place / "cache", session.task, profile)
        final = _searched(session, memory, journal, place, bar)
    best = _best(final.found, session, place)
    state = final.state or session.baseline
    _say_latency(final, progress)
    drawn = pictures.search_pictures(final.found, best, place)
    return finish(
        Job("search", place, options, progress, watch),
        session,
        state,
        found=final.found,
        drawn=drawn,
        speed=final.speed,
        latency=final.latency,
    )


def _resumed(place: Path, options: Options, wanted: dict[str, Any]) -> tuple[Options, Profile]:
    """The options and profile of a run that goes on, as it recorded them; a larger budget is allowed."""
    if not (place / RUN_FILE).is_file():
        raise UsageError(f"{place} is no search run (it has no {RUN_FILE}); --resume takes the folder of one")
    run = records.read(Run, place / RUN_FILE)
    profile = profiles.from_mapping(run.profile, where=str(place / RUN_FILE))
    profile = profiles.override(profile, {"search": {k: v for k, v in wanted.items() if v is not None}})
    return replace(options, checkpoint=run.checkpoint, model=profile.model, data=profile.data), profile


def _check_alphabet(profile: Profile) -> None:
    alphabet = profile.search.alphabet
    for letter in alphabet:
        operators.make(Link(letter), profile)
    if not set(alphabet) - {"F"}:
        raise UsageError(f"search.alphabet '{alphabet}' has no letter that compresses; give some such as 'FPQ'")


def _fingerprint(session: Session) -> dict[str, Any]:
    """What must be the same for a run to go on: everything but the budget."""
    settings = session.profile.model_dump(mode="json", exclude={"description", "bench", "export"})
    settings["search"].pop("budget")
    versions = {letter: kind.version for letter, kind in sorted(operators.by_letter().items())}
    baseline, images = session.baseline.key, session.task.data.fingerprint
    return {"baseline": baseline, "data_sha256": images, "operators": versions, **_flat(settings)}


def _flat(tables: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Tables within tables as one, keyed as a profile names them: `search.max_drop`."""
    flat: dict[str, Any] = {}
    for key, value in tables.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _searched(session: Session, memory: DiskMemory, journal: Journal, place: Path, bar: Any) -> Final:
    """Search, promote short finetunes, and count and time in full what comes out."""
    profile, table = session.profile, session.profile.search
    objective = make_objective(table)
    speeds = Speeds(session, place) if table.on_speed else None
    layers = LayerSpeeds(session, place) if table.on_speed and table.latency == "table" else None
    evaluator = Evaluator(session.baseline, session.task, profile, memory, speed=layers or speeds)
    evaluator.meter = subsets(session.baseline, session.task, table)
    first, *later = halving.rungs(profile.finetune.epochs, table.fidelity.finetune_fraction)
    evaluator.finetune_epochs = first if later else None
    found = engine.run(
        make_searcher(table.searcher, table, profile.seed, objective),
        evaluator,
        objective,
        table.rules,
        table.alphabet,
        table.budget,
        journal,
        _search_report(bar, profile),
    )
    if later:
        found = halving.promoted(found, objective, evaluator, journal, later)
    return in_full(found, objective, evaluator, speeds, layers)


def _search_report(bar: Any, profile: Profile) -> Callable[[engine.Progress], None]:
    def report(progress: engine.Progress) -> None:
        best = progress.best.chain if progress.best else "none yet"
        bar.update(progress.n_done, progress.budget, f"last {progress.last.chain or 'baseline'}, best {best}")

    return report


def _best(found: SearchResult, session: Session, place: Path) -> Evaluation:
    """The chain that the search answers with.

    Raises:
        NacdeployError: none is within the accuracy budget.
    """
    table = session.profile.search
    if found.best is not None:
        return found.best
    if found.nearest is None or found.nearest.figures is None:
        failures = [e.error for e in found.evaluations if e.error]
        why = f"; the last one: {failures[-1]}" if failures else ""
        raise NacdeployError(f"NO CHAIN could be evaluated within {table.budget} evaluations{why}")
    figures = found.nearest.figures
    fast = f" at {figures.speed_ratio:.2f}x the baseline's speed" if figures.speed_ratio is not None else ""
    raise NacdeployError(
        f"NO CHAIN MEETS THE ACCURACY BUDGET of {table.max_drop:g} points: the nearest, '{found.nearest.chain}', loses "
        f"{figures.drop_points:.2f} points on validation{fast}; raise --max-drop or --budget "
        f"(the run is kept in {place}: --resume {place} goes on with it)"
    )


def _say_latency(final: Final, progress: Progress) -> None:
    """How the speeds were found, and how far estimates were off."""
    report, speed_of_best, best = final.latency, final.speed, final.found.best
    if report is None or speed_of_best is None or best is None:
        return
    low, high = speed_of_best.low or 0.0, speed_of_best.high or 0.0
    progress.say(
        f"{best.chain}: {speed_of_best.ratio:.2f}x measured ({low:.2f} to {high:.2f}, 95 %; a fresh run may differ), "
        f"{report.n_timed_final} networks in turns with the baseline, {report.n_rounds_final} rounds, "
        f"{report.setting.runtime}, {report.setting.threads} thread(s)"
    )
    if table := report.table:
        progress.say(
            f"table of {table.n_layers} layers: estimates of {table.n_networks} networks, each with the factor of the "
            f"others, are off by {100 * table.median_error:.0f} % in the median and {100 * table.worst_error:.0f} % at "
            "worst"
        )
