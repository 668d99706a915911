"""The search: driver, journal, memory and workers joined with the session; the best chain, or a loud end."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

from nacdeploy import profile as profiles
from nacdeploy import records
from nacdeploy.errors import NacdeployError, UsageError
from nacdeploy.jobs import candidates, resuming, speed
from nacdeploy.jobs.evaluator import Evaluator
from nacdeploy.jobs.outcome import Job, finish, front_of
from nacdeploy.jobs.result import Result
from nacdeploy.jobs.resuming import Asked, Start
from nacdeploy.jobs.runs import Runs
from nacdeploy.jobs.session import Options, OptionValues, Session, effective_profile, open_session
from nacdeploy.latency import Stopwatch
from nacdeploy.profile import Profile
from nacdeploy.progress import Progress, Silent
from nacdeploy.strategies import operators
from nacdeploy.strategies.cache import DiskMemory, open_store
from nacdeploy.strategies.chain import Chain, Link
from nacdeploy.strategies.objective import DROP_TOLERANCE
from nacdeploy.strategies.objective import make as make_objective
from nacdeploy.strategies.search import engine, make_searcher
from nacdeploy.strategies.search.engine import Limits
from nacdeploy.strategies.search.journal import Evaluation, Journal
from nacdeploy.strategies.search.result import SearchResult
from nacdeploy.strategies.search.workers import Cluster, ray_cluster


def search(
    *,
    out: Path | str | None = None,
    resume: Path | str | None = None,
    fork: bool = False,
    pick: int | None = None,
    searcher: str | None = None,
    budget: int | None = None,
    max_trainings: int | None = None,
    max_drop: float | None = None,
    cache: str | None = None,
    workers: int | None = None,
    ray: str | None = None,
    progress: Progress | None = None,
    **shared: Unpack[OptionValues],
) -> Result:
    """Search for the best chain; leaves its checkpoint, strategy.json and the journal. `resume` goes on with a run.

    Args:
        fork: begin a new run as `resume` was asked for, with what is given here in place of its own; rows and memory
            that still hold are taken over.
        pick: answer with this member (from 1) of the front of the run that `resume` names.
        workers: processes that evaluate chains; 1 (the default without `ray`) is this process.
        ray: address of a Ray cluster that they run on; without `workers` as many as it has CPUs or GPUs.

    Raises:
        UsageError: wrong options, or a resumed run of other settings, data or code.
        NacdeployError: no chain meets the accuracy budget; the nearest is named.
    """
    progress, watch = progress or Silent(), Stopwatch()
    wanted: dict[str, Any] = {"searcher": searcher, "budget": budget, "max_trainings": max_trainings}
    wanted |= {"max_drop": max_drop, "cache": cache}
    start = _start(out, resume, fork, pick, dict(shared), wanted)
    make_searcher(start.profile.search.searcher, start.profile.search, start.profile.seed)
    _check_alphabet(start.profile)
    if start.profile.search.cache:
        open_store(start.profile.search.cache, start.profile)  # what cannot be reached is found before the work
    with _cluster(workers, ray) as cluster:
        session = _opened(start, cluster.n_workers if cluster else 1, progress)
        _begin(start, session, progress)
        evaluator = _evaluator(session, start.place, progress)
        found = _searched(start.place, session, evaluator, cluster, progress)
    best = (
        _best(found, session, evaluator, start.place, progress) if pick is None else _picked(found, pick, start.place)
    )
    state = evaluator.state(Chain.parse(best.chain))
    speed_ratio = best.figures.speed_ratio if best.figures else None
    job = Job("search", start.place, start.options, progress, watch)
    return finish(job, session, state, found=found, speed_ratio=speed_ratio)


def _start(
    out: Path | str | None,
    source: Path | str | None,
    fork: bool,
    pick: int | None,
    shared: dict[str, Any],
    wanted: dict[str, Any],
) -> Start:
    if source is None and (fork or pick is not None):
        raise UsageError(f"--{'fork' if fork else 'pick'} needs a run that is there: give its folder with --resume RUN")
    if fork and pick is not None:
        raise UsageError("--pick answers from a run as it is, --fork begins another; give one of them")
    options = Options(**shared)
    if source is not None and not fork:
        return resuming.resumed(Path(source), options, wanted)
    place = Runs(Path(options.runs)).place(out, "search")
    if source is not None:
        return resuming.forked(Path(source), place, shared, options, wanted)
    return Start(place, options, effective_profile(options, wanted), Asked.of(options, wanted))


@contextmanager
def _cluster(n_workers: int | None, address: str | None) -> Iterator[Cluster | None]:
    """The Ray that candidates run on; None: this process."""
    if address is None and (n_workers or 1) == 1:
        yield None
        return
    with ray_cluster(n_workers, address) as cluster:
        yield cluster


def _opened(start: Start, n_workers: int, progress: Progress) -> Session:
    """The session, its window chosen."""
    window = start.profile.search.window or n_workers
    profile = profiles.override(start.profile, {"search": {"window": window}})
    session = open_session(start.options, profile, profile.search.alphabet, progress)
    if n_workers > 1 or window > 1:
        progress.say(
            f"{n_workers} worker{'s' if n_workers > 1 else ''} of {profile.search.threads} CPU thread(s), window "
            f"{window}: what is found depends on the window, not on the workers"
        )
    return session


def _evaluator(session: Session, place: Path, progress: Progress) -> Evaluator:
    location = session.profile.search.cache or place / resuming.CACHE
    memory = DiskMemory.open(location, session.task, session.profile, session.baseline, progress.say)
    return Evaluator(session.baseline, session.task, session.profile, memory)


def _begin(start: Start, session: Session, progress: Progress) -> None:
    """The folder of a new run appears whole, with what a fork takes over, so that a kill leaves one that goes on."""
    if (start.place / resuming.RUN_FILE).is_file():
        return
    with records.new_directory(start.place) as folder:
        if start.source is not None:
            resuming.take_over(start.source, folder, resuming.fingerprint(session), progress)
        records.write_json(folder / resuming.RUN_FILE, start.run(session.profile))


def _check_alphabet(profile: Profile) -> None:
    alphabet = profile.search.alphabet
    for letter in alphabet:
        operators.make(Link(letter), profile)
    if not set(alphabet) - {"F"}:
        raise UsageError(f"search.alphabet '{alphabet}' has no letter that compresses; give some such as 'FPQ'")


def _searched(
    place: Path, session: Session, evaluator: Evaluator, cluster: Cluster | None, progress: Progress
) -> SearchResult:
    table = session.profile.search
    limits = Limits(table.budget, table.max_trainings, table.window or 1)
    with ExitStack() as stack:
        bar = stack.enter_context(progress.bar("searching"))
        journal = stack.enter_context(Journal.open(place / resuming.JOURNAL, resuming.fingerprint(session)))
        ours: engine.Workers = engine.InProcess(evaluator)
        if cluster is not None:
            opener = candidates.opener(session, evaluator.memory.location)
            ours = candidates.Candidates(stack.enter_context(cluster.pool(opener)))
        return engine.run(
            make_searcher(table.searcher, table, session.profile.seed),
            ours,
            make_objective(table),
            table.rules,
            table.alphabet,
            limits,
            journal,
            _search_report(bar),
            resuming.taken(place),
        )


def _search_report(bar: Any) -> Callable[[engine.Progress], None]:
    def report(progress: engine.Progress) -> None:
        best = progress.best.chain if progress.best else "none yet"
        bar.update(progress.n_done, progress.budget, f"last {progress.last.chain or 'baseline'}, best {best}")

    return report


def _picked(found: SearchResult, pick: int, place: Path) -> Evaluation:
    """A member of the front, as `result.json` numbers them."""
    members = front_of(found)
    if not 1 <= pick <= len(members):
        listed = ", ".join(f"{member.number}: {member.chain}" for member in members) or "nothing"
        raise UsageError(f"--pick {pick} is not in the front of {place}, which holds {listed}")
    return next(e for e in found.front if e.chain == members[pick - 1].chain)


def _best(found: SearchResult, session: Session, evaluator: Evaluator, place: Path, progress: Progress) -> Evaluation:
    """The chain that the search answers with.

    Raises:
        NacdeployError: none is within the accuracy budget.
    """
    if found.best is None:
        raise NacdeployError(_nothing(found, session.profile, place))
    if session.profile.search.figure == "speed":
        return _fastest(found, session, evaluator, place, progress)
    return found.best


def _nothing(found: SearchResult, profile: Profile, place: Path) -> str:
    """What to say where there is no answer: how far the nearest is, and what would work."""
    limit, further = profile.search.max_drop, _further(found, profile, place)
    spent = f"evaluations: {len(found.evaluations) - 1}, trainings: {found.n_trainings}"
    if found.nearest is None or found.nearest.figures is None:
        failures = [e for e in found.evaluations if e.error]
        last = f", {len(failures)} of them failed, the last: {failures[-1].error}" if failures else ""
        return f"NO CHAIN that compresses could be evaluated ({spent}{last}); {further}"
    return (
        f"NO CHAIN MEETS THE ACCURACY BUDGET of {limit:g} points: the nearest, '{found.nearest.chain}', loses "
        f"{found.nearest.figures.drop_points:.2f} points on validation ({spent}); {further}; "
        f"--resume {place} --fork --max-drop POINTS allows more loss, and reuses what is done"
    )


def _further(found: SearchResult, profile: Profile, place: Path) -> str:
    """How a run goes on beyond its end."""
    table = profile.search
    if len(found.evaluations) > table.budget:
        return f"--resume {place} --budget N goes on with the run"
    if table.max_trainings is not None and found.n_trainings >= table.max_trainings:
        return f"--resume {place} --max-trainings N goes on with the run"
    return "nothing is left that the rules and the alphabet allow; a profile that allows more would work"


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
