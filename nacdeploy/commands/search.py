"""The search: driver, journal, memory and workers joined with the session; the best chain, or a loud end."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack, cast

from nacdeploy import models
from nacdeploy.base import records
from nacdeploy.base.errors import NacdeployError, UsageError
from nacdeploy.base.latency import Stopwatch
from nacdeploy.base.outside import own
from nacdeploy.base.progress import Bar, Progress, default
from nacdeploy.metrics import shown_drop
from nacdeploy.profile import Profile
from nacdeploy.results.outcome import Command, finish, front_of
from nacdeploy.results.result import Result
from nacdeploy.results.run_page import allowed
from nacdeploy.sessions import resuming
from nacdeploy.sessions.options import SEARCH, Options, SearchOptions, filled
from nacdeploy.sessions.resuming import Start
from nacdeploy.sessions.runs import Runs
from nacdeploy.sessions.session import Session, open_session
from nacdeploy.sessions.setup import to_search
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.memory.cache import open_store
from nacdeploy.strategies.operators.finetune.settings import FinetuneTable
from nacdeploy.strategies.search import engine, halving
from nacdeploy.strategies.search.alphabet import Alphabet
from nacdeploy.strategies.search.cluster import Cluster, ray_cluster
from nacdeploy.strategies.search.engine import Limits, Searcher
from nacdeploy.strategies.search.experience import gathered
from nacdeploy.strategies.search.journal import Evaluation, Journal
from nacdeploy.strategies.search.objective import Objective
from nacdeploy.strategies.search.objective import make as make_objective
from nacdeploy.strategies.search.search_result import SearchResult
from nacdeploy.strategies.search.searchers import make_searcher
from nacdeploy.strategies.steps import letters
from nacdeploy.trials import candidates, dense, layer_speed, speed, time_budget
from nacdeploy.trials.dense import Dense
from nacdeploy.trials.equipment import Equipment, equipped
from nacdeploy.trials.final import Final, in_full


def search(
    *,
    out: Path | str | None = None,
    resume: Path | str | None = None,
    fork: bool = False,
    pick: int | None = None,
    workers: int | None = None,
    ray: str | None = None,
    progress: Progress | None = None,
    **asked: Unpack[SearchOptions],
) -> Result:
    """Search for the best chain, and write its checkpoint, strategy.json and the journal.

        >>> import nacdeploy
        >>> result = nacdeploy.search(model="resnet8", data="digits", profile="tiny.toml", budget=1, max_drop=50)
        >>> result.n_evaluations, len(result.chain)
        (1, 1)

    Args:
        resume: the folder of a run to continue.
        fork: begin a new run with the options of `resume` and, in place of some, those given here; rows and memory
            that still hold are reused.
        pick: answer with this member (from 1) of the front of the run that `resume` names.
        experience: folders of earlier searches, from whose journals the searcher learns the effect of each letter.
        workers: processes that evaluate chains; 1 (the default without `ray`) is this process.
        ray: the address of a Ray cluster to run the workers on; without `workers`, one worker per CPU or GPU of it.

    Raises:
        UsageError: wrong options, or a resumed run of other settings, data or code.
        NacdeployError: no chain meets the budget (the message names the nearest), or latency is asked of a target that
            is not installed.
    """
    progress, watch = progress or default(), Stopwatch()
    wanted = {name: asked.get(name) for name in SEARCH}
    _check_budgets(wanted)
    shared = cast(Options, {name: value for name, value in asked.items() if name not in SEARCH})
    with _start(out, resume, fork, pick, shared, wanted) as start:
        _check(start.request.settings.profile)
        with _cluster(workers, ray, _n_devices(start.request.settings.profile)) as cluster:
            session = time_budget.settled(_opened(start, cluster.n_workers if cluster else 1, progress), progress)
            _begin(start, session, progress)
            cache_place = session.profile.search.cache or start.place / resuming.CACHE
            ours = equipped(session, start.place, cache_place, progress.say)
            final = _searched(start.place, session, ours, cluster, progress)
        is_late = False
        own = dense_of(session, final, ours, start, watch, progress) if pick is None else ()
        if pick is not None:
            final = _picked(final, pick, ours, start.place)
            is_late = _say_late(final, session.profile, progress)
        elif final.state is None and not own:
            raise NacdeployError(_nothing(final.found, session.profile, start.place))
        _say_latency(final, progress)
        command = Command("search", start.place, start.request.options, progress, watch)
        rivals = dense.candidates(session, final.state, final.speed, own) if ours.by_clock and not is_late else ()
        how: dict[str, Any] = {"found": final.found, "latency": final.latency, "candidates": rivals}
        if (won := dense.wins(own, final.state)) is not None:
            return finish(command, won.session, won.state, speed=won.speed, n_epochs=won.n_more, **how)
        return finish(command, session, final.state or session.baseline, speed=final.speed, **how)


def dense_of(
    session: Session, final: Final, ours: Equipment, start: Start, watch: Stopwatch, progress: Progress
) -> tuple[Dense, ...]:
    """The smaller dense networks within a search's time; none without a time, or if the hours are over."""
    table = session.profile.search

    def is_late() -> bool:
        return table.max_hours is not None and watch.seconds() >= 3600.0 * table.max_hours

    if ours.by_clock is None or not table.dense or is_late():
        return ()
    n_epochs = final.state.n_epochs if final.state is not None else 0
    runs = Runs(Path(start.request.options["runs"]))
    return dense.trained(dense.Search(session, ours.by_clock, n_epochs, runs, progress, is_late))


@contextmanager
def _start(
    out: Path | str | None,
    source: Path | str | None,
    fork: bool,
    pick: int | None,
    shared: Options,
    wanted: dict[str, Any],
) -> Iterator[Start]:
    """Yield the start of a search, with its folder reserved within the block, or of a resumed one."""
    if source is None and (fork or pick is not None):
        raise UsageError(f"--{'fork' if fork else 'pick'} needs a run that is there: give its folder with --resume RUN")
    if fork and pick is not None:
        raise UsageError("--pick answers from a run as it is, --fork begins another; give one of them")
    models.name_by_user(shared.get("model"), shared.get("task"))
    if source is not None and not fork:
        yield resuming.resumed(Path(source), shared, wanted)
        return
    with Runs(Path(filled(shared)["runs"])).place(out, "search") as place:
        if source is not None:
            yield resuming.forked(Path(source), place, shared, wanted)
        else:
            yield resuming.begun(place, shared, wanted)


@contextmanager
def _cluster(n_workers: int | None, address: str | None, n_devices: int) -> Iterator[Cluster | None]:
    """The Ray that candidates run on; None: this process."""
    if address is None and (n_workers or 1) == 1:
        yield None
        return
    with ray_cluster(n_workers, address, n_devices) as cluster:
        yield cluster


def _n_devices(profile: Profile) -> int:
    """Return the devices that one candidate needs: one for each process of its trainings, by the profile or by a letter
    of the alphabet."""
    links = Alphabet.parse(profile.search.alphabet).links
    by_letter = [int(value) for link in links for key, value in link.parameters if key == "processes"]
    return max(profile.of(FinetuneTable).processes, *by_letter, 1)


def _opened(start: Start, n_workers: int, progress: Progress) -> Session:
    """The session, its window chosen."""
    session = open_session(to_search(start.request, n_workers), progress)
    table = session.profile.search
    if n_workers > 1 or table.window != 1:
        progress.say(
            f"{n_workers} worker{'s' if n_workers > 1 else ''} of {table.threads} CPU thread(s), window "
            f"{table.window}: what is found depends on the window, not on the workers"
        )
    return session


def _begin(start: Start, session: Session, progress: Progress) -> None:
    """The folder of a new run appears whole, with what a fork takes over, so that a kill leaves one that goes on."""
    if start.kept:
        progress.say(
            f"{start.place} keeps the defaults that it began with: {', '.join(map(str, start.kept))} by default now"
        )
    if (start.place / resuming.RUN_FILE).is_file():
        return
    with records.new_directory(start.place) as folder:
        if start.source is not None:
            resuming.take_over(start.source, folder, session, progress)
        records.write_json(folder / resuming.RUN_FILE, start.run(session.profile))
    own.note(start.place / resuming.RUN_FILE)


def _check_budgets(asked: dict[str, Any]) -> None:
    """Refuse a budget in two units, or beside an objective of another kind."""
    given = [name for name in ("target_ms", "speedup", "objective") if asked[name] is not None]
    if len(given) > 1 and given != ["objective"]:
        first, second = (f"--{name.replace('_', '-')}" for name in given[:2])
        raise UsageError(f"{first} and {second} each say what the search is for: give one of them")


def _check_alphabet(profile: Profile) -> None:
    text = profile.search.alphabet
    alphabet = Alphabet.parse(text, lambda link: letters.make(link, profile))
    if not set(alphabet.letters) - {"F"}:
        raise UsageError(f"search.alphabet '{text}' has no letter that compresses; give some such as 'FPQ'")


def _check(profile: Profile) -> None:
    """Refuse, before any work, settings that would not work."""
    _check_alphabet(profile)
    _searcher(profile, make_objective(profile.search))
    speed.check_target(profile)
    layer_speed.check_given(profile)
    if profile.search.cache:
        open_store(profile.search.cache, profile)


def _searched(place: Path, session: Session, ours: Equipment, cluster: Cluster | None, progress: Progress) -> Final:
    """Search, promote short finetunes, and count and time in full what comes out."""
    table, point = session.profile.search, session.task.metric.point(session.baseline.metrics.chance)
    objective = make_objective(table, point)
    limits = Limits(table.budget, table.max_trainings, table.window or 1, table.max_hours)
    with ExitStack() as stack:
        bar = stack.enter_context(progress.bar("searching"))
        journal = stack.enter_context(Journal.open(place / resuming.JOURNAL, resuming.fingerprint(session)))
        workers: engine.Workers = engine.in_process(ours.evaluator)
        if cluster is not None:
            opener = candidates.opener(session, place, ours.evaluator.memory.location)
            workers = candidates.on_pool(stack.enter_context(cluster.pool(opener)))
        found = engine.run(
            _searcher(session.profile, objective),
            workers,
            objective,
            table.rules,
            table.alphabet,
            limits,
            journal,
            _search_report(bar),
            resuming.taken(place),
        )
        if ours.promotions:
            found = halving.promoted(found, objective, workers, journal, ours.promotions)
    return in_full(found, objective, ours.evaluator, ours.speeds, ours.layers)


def _searcher(profile: Profile, objective: Objective) -> Searcher:
    table = profile.search
    return make_searcher(table.searcher, table, profile.seed, objective, gathered(table.experience))


def _search_report(bar: Bar) -> Callable[[engine.Standing], None]:
    """Show on a bar how far a search is, by the limit that it will meet first, and what it has found."""

    def report(progress: engine.Standing) -> None:
        by_chains = (progress.n_done, progress.budget)
        by_trainings = (progress.n_trainings, progress.max_trainings or progress.budget)
        n_done, total = max(by_chains, by_trainings, key=lambda part: part[0] / part[1])
        bar.update(n_done, total, standing(progress))

    return report


def standing(progress: engine.Standing) -> str:
    """The best chain so far with its figures, what is left to spend, and the last chain."""
    left = f"{progress.budget - progress.n_done} chains"
    if progress.max_trainings is not None:
        left += f", {progress.max_trainings - progress.n_trainings} trainings"
    last = f"last {progress.last.chain or 'baseline'}{' (reused)' if progress.reused else ''}"
    return f"best {_said(progress.best)}; left: {left}; {last}"


def _said(best: Evaluation | None) -> str:
    if best is None or best.figures is None:
        return "none yet"
    figures = best.figures
    gain = (
        f"{figures.bitops_ratio:.1f}x BitOps" if figures.speed_ratio is None else f"{figures.speed_ratio:.2f}x faster"
    )
    return f"{best.chain} ({gain}, {shown_drop(figures.scored_by, figures.drop, '+')} lost)"


def _picked(final: Final, pick: int, ours: Equipment, place: Path) -> Final:
    """A member of the front, as `result.json` numbers them, in place of the best."""
    members = front_of(final.found)
    if not 1 <= pick <= len(members):
        listed = ", ".join(f"{member.number}: {member.chain}" for member in members) or "nothing"
        raise UsageError(f"--pick {pick} is not in the front of {place}, which holds {listed}")
    best = next(e for e in final.found.front if e.chain == members[pick - 1].chain)
    state = ours.evaluator.in_full(Chain.parse(best.chain))
    speed_of_it = next(iter(ours.speeds.in_full([state]).values())) if ours.speeds else None
    return replace(final, found=replace(final.found, best=best), state=state, speed=speed_of_it)


def _say_late(final: Final, profile: Profile, progress: Progress) -> bool:
    """Say it if a member takes more than the time that its search asked for; return whether it does."""
    speed, asked = final.speed, profile.search.speedup
    if speed is None or asked is None or speed.ratio >= asked:
        return False
    asked_ms = speed.baseline_ms / asked
    progress.say(f"ABOVE THE TIME: this member takes {speed.p50_ms:.4g} ms, and {asked_ms:.4g} ms were asked for")
    return True


def _nothing(found: SearchResult, profile: Profile, place: Path) -> str:
    """Explain that there is no answer: the distance of the nearest chain, and what would work."""
    limit, further = allowed(profile), _further(found, profile, place)
    spent = f"evaluations: {len(found.evaluations) - 1}, trainings: {found.n_trainings}"
    if found.nearest is None or found.nearest.figures is None:
        failures = [e for e in found.evaluations if e.error]
        last = f", {len(failures)} of them failed, the last: {failures[-1].error}" if failures else ""
        return f"NO CHAIN that compresses could be evaluated ({spent}{last}); {further}"
    figures, metric = found.nearest.figures, found.nearest.figures.scored_by
    ratio = figures.speed_ratio
    fast = f" at {ratio:.2f}x the baseline's speed" if ratio is not None else ""
    return (
        f"NO CHAIN MEETS THE {metric.title.upper()} BUDGET of {limit}: the nearest, '{found.nearest.chain}', loses "
        f"{shown_drop(metric, figures.drop)} on validation{fast} ({spent}); {further}; --resume {place} --fork "
        f"--max-drop {metric.drop_unit.upper()} allows more loss, and reuses what is done"
    )


def _further(found: SearchResult, profile: Profile, place: Path) -> str:
    """Explain how to continue a run beyond its end."""
    table = profile.search
    if len(found.evaluations) > table.budget:
        return f"--resume {place} --budget N goes on with the run"
    if table.max_trainings is not None and found.n_trainings >= table.max_trainings:
        return f"--resume {place} --max-trainings N goes on with the run"
    if table.max_hours is not None and len(found.evaluations) <= table.budget:
        return f"--resume {place} --max-hours H goes on with the run"
    return "nothing is left that the rules and the alphabet allow; a profile that allows more would work"


def _say_latency(final: Final, progress: Progress) -> None:
    """How the speeds were found, and how far estimates were off."""
    report, speed_of_best, best = final.latency, final.speed, final.found.best
    if report is None or speed_of_best is None or best is None:
        return
    low, high = speed_of_best.low, speed_of_best.high
    within = "" if low is None or high is None else f"{low:.2f} to {high:.2f}, 95 %; "
    progress.say(
        f"{best.chain}: {speed_of_best.p50_ms:.4g} ms, {speed_of_best.ratio:.2f}x measured ({within}a fresh run may "
        "differ), "
        f"{report.n_timed_final} networks in turns with the baseline, {report.n_rounds_final} rounds, "
        f"{report.setting.runtime}, {report.setting.threads} thread(s)"
    )
    if report.instead_of:
        progress.say(f"{best.chain} is taken in place of {report.instead_of}: as fast without exits, at no lower score")
    if table := report.table:
        progress.say(
            f"table of {table.n_layers} layers: estimates of {table.n_networks} networks, each with the factor of the "
            f"others, are off by {100 * table.median_error:.0f} % in the median and {100 * table.worst_error:.0f} % at "
            "worst"
        )
