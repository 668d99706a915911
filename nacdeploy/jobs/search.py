"""The search: driver, journal and memory joined with the session; the best chain, or a loud end."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

from nacdeploy import profile as profiles
from nacdeploy import records
from nacdeploy.errors import NacdeployError, UsageError
from nacdeploy.jobs import speed
from nacdeploy.jobs.evaluator import Evaluator
from nacdeploy.jobs.outcome import Job, Result, finish
from nacdeploy.jobs.runs import Runs
from nacdeploy.jobs.session import Options, OptionValues, Session, effective_profile, open_session
from nacdeploy.latency import Stopwatch
from nacdeploy.profile import Profile
from nacdeploy.progress import Progress, Silent
from nacdeploy.report import figures as pictures
from nacdeploy.strategies import operators
from nacdeploy.strategies.cache import DiskMemory
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.objective import DROP_TOLERANCE
from nacdeploy.strategies.objective import make as make_objective
from nacdeploy.strategies.search import engine, make_searcher
from nacdeploy.strategies.search.alphabet import Alphabet, parsed
from nacdeploy.strategies.search.engine import SearchResult
from nacdeploy.strategies.search.experience import JOURNAL, gathered
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
    experience: Sequence[Path | str] | None = None,
    progress: Progress | None = None,
    **shared: Unpack[OptionValues],
) -> Result:
    """Search for the best chain; leaves its checkpoint, strategy.json and the journal. `resume` goes on with a run.
    `experience` names folders of earlier searches, whose journals teach the searcher what steps do.

    Raises:
        UsageError: wrong options, or a resumed run of other settings.
        NacdeployError: no chain meets the accuracy budget; the nearest is named.
    """
    progress, options, watch = progress or Silent(), Options(**shared), Stopwatch()
    wanted = {"searcher": searcher, "budget": budget, "max_drop": max_drop}
    wanted["experience"] = [str(Path(place).resolve()) for place in experience] if experience else None
    if resume is not None:
        place = Path(resume)
        options, profile = _resumed(place, options, wanted)
    else:
        profile = effective_profile(options, wanted)
        place = Runs(Path(options.runs)).place(out, "search")
    _check_alphabet(profile)
    _searcher(profile)
    session = open_session(options, profile, parsed(profile.search.alphabet).letters, progress)
    profile = session.profile
    with progress.bar("searching") as bar, Journal.open(place / JOURNAL, _fingerprint(session)) as journal:
        records.write_json(place / RUN_FILE, Run(profile.model_dump(mode="json"), options.checkpoint))
        memory = DiskMemory(place / "cache", session.task, profile)
        evaluator = Evaluator(session.baseline, session.task, profile, memory)
        found = _searched(session, evaluator, journal, _search_report(bar, profile))
    best = _best(found, session, evaluator, place, progress)
    state = evaluator.state(Chain.parse(best.chain))
    speed_ratio = best.figures.speed_ratio if best.figures else None
    drawn = pictures.search_pictures(found, best, place)
    return finish(
        Job("search", place, options, progress, watch),
        session,
        state,
        found=found,
        drawn=drawn,
        speed_ratio=speed_ratio,
    )


def _resumed(place: Path, options: Options, wanted: dict[str, Any]) -> tuple[Options, Profile]:
    """The options and profile of a run that goes on, as it recorded them; a larger budget is allowed."""
    if not (place / RUN_FILE).is_file():
        raise UsageError(f"{place} is no search run (it has no {RUN_FILE}); --resume takes the folder of one")
    run = records.read(Run, place / RUN_FILE)
    profile = profiles.from_mapping(run.profile, where=str(place / RUN_FILE))
    profile = profiles.override(profile, {"search": {k: v for k, v in wanted.items() if v is not None}})
    return replace(options, checkpoint=run.checkpoint, model=profile.model, data=profile.data), profile


def _searcher(profile: Profile) -> engine.Searcher:
    table = profile.search
    return make_searcher(table.searcher, table, profile.seed, gathered(table.experience))


def _check_alphabet(profile: Profile) -> None:
    text = profile.search.alphabet
    alphabet = Alphabet.parse(text, lambda link: operators.make(link, profile))
    if not set(alphabet.letters) - {"F"}:
        raise UsageError(f"search.alphabet '{text}' has no letter that compresses; give some such as 'FPQ'")


def _fingerprint(session: Session) -> dict[str, Any]:
    """What must be the same for a run to go on: everything but the budget."""
    settings = session.profile.model_dump(mode="json", exclude={"description", "bench", "export"})
    settings["search"].pop("budget")
    versions = {letter: kind.version for letter, kind in sorted(operators.by_letter().items())}
    baseline, images = session.baseline.key, session.task.data.fingerprint
    taught = [records.sha256_file(Path(place) / JOURNAL) for place in session.profile.search.experience]
    told = {"experience_sha256": taught} if taught else {}
    return {"baseline": baseline, "data_sha256": images, "operators": versions, **told, **_flat(settings)}


def _flat(tables: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Tables within tables as one, keyed as a profile names them: `search.max_drop`."""
    flat: dict[str, Any] = {}
    for key, value in tables.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _searched(
    session: Session, evaluator: Evaluator, journal: Journal, report: Callable[[engine.Progress], None]
) -> SearchResult:
    table = session.profile.search
    return engine.run(
        _searcher(session.profile),
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
    speeds = records.read(dict[str, float], path) if path.is_file() else {}
    limit = session.profile.search.max_drop + DROP_TOLERANCE
    front = [e for e in (*found.front, found.best) if e and e.figures and e.figures.drop_points <= limit]
    speed.say_where(session, progress)
    for evaluation in front:
        if evaluation.state_key not in speeds:
            state = evaluator.state(Chain.parse(evaluation.chain))
            speeds[evaluation.state_key] = speed.measured(state, session, progress)
            records.write_json(path, speeds)
    best = max(front, key=lambda e: speeds[e.state_key])
    figures = replace(best.figures, speed_ratio=speeds[best.state_key]) if best.figures else None
    return replace(best, figures=figures)
