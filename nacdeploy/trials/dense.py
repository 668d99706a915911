"""Smaller dense networks as candidates of a search by time: relatives of the network, trained as long as the chain's
network was in all, and quantized as they would be deployed.

Of each of two depths the widest within the time is trained, and the better of them once more with the big network as
its teacher. A time follows from the structure, so that no network need be trained to know it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from nacdeploy.base.errors import NacdeployError
from nacdeploy.base.progress import Progress
from nacdeploy.metrics import DEFAULT, is_better, named, scored, shown
from nacdeploy.models import ModelSpec, families
from nacdeploy.network.network import Network
from nacdeploy.sessions.runs import Runs
from nacdeploy.sessions.session import Session, member
from nacdeploy.strategies.baseline import plain_network
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.operators.finetune.settings import FinetuneTable
from nacdeploy.strategies.operators.prune import by_time
from nacdeploy.strategies.operators.prune.operator import rule_to_come
from nacdeploy.strategies.operators.prune.settings import PruneTable
from nacdeploy.strategies.state import CompressionState
from nacdeploy.strategies.steps.follow import follow
from nacdeploy.task.distillation import Distillation
from nacdeploy.trials.speed import Speed
from nacdeploy.trials.time_budget import ClockSpeeds, has_q, networks_ms

_WEIGHT = 0.5  # of the teacher, where the profile's F has none
_N_DEPTHS = 2


@scored
@dataclass(frozen=True)
class Candidate:
    """A network within the time: the chain's, or a dense one; with its score on validation, its time in ms, and the
    epochs that it was trained in all."""

    name: str
    score: float
    p50_ms: float
    n_epochs: int
    is_answer: bool
    metric: str = DEFAULT
    is_dense: bool = False


@dataclass(frozen=True)
class Dense:
    """A dense network that was trained and quantized.

    Attributes:
        session: its task and settings, and the search's baseline.
        state: the network, compared with that baseline.
        speed: its time.
        n_epochs: that it was trained in all.
        n_more: those beyond the baseline's own.
        is_taught: whether the big network was its teacher.
    """

    session: Session
    state: CompressionState
    speed: Speed
    n_epochs: int
    n_more: int
    is_taught: bool

    @property
    def name(self) -> str:
        """The name for people."""
        taught, chain = ", taught by the big one" if self.is_taught else "", str(self.state.chain)
        return f"dense {families.said(self.session.task.spec)}{taught}{chain and ', ' + chain}"


@dataclass(frozen=True)
class Search:
    """A search that looks for dense networks: its session and clock, the epochs of its chain beyond the baseline's own,
    where trainings are kept, and whether its hours are over."""

    session: Session
    speeds: ClockSpeeds
    n_more: int
    runs: Runs
    progress: Progress
    is_late: Callable[[], bool]

    @property
    def speedup(self) -> float:
        """The least ratio that is asked for."""
        return self.session.profile.search.speedup or 1.0

    @property
    def target_ms(self) -> float:
        """The most time that is allowed."""
        return self.speeds.networks_ms_of_baseline / self.speedup


def trained(search: Search) -> tuple[Dense, ...]:
    """Train and quantize the smaller dense networks that are within the time; none if the network's name says nothing
    of relatives."""
    found = []
    for spec in _within(search):
        if not search.is_late() and (made := _made(search, spec)) is not None:
            found.append(made)
    first = best(found)
    if first is not None and _is_taught(search.session) and not search.is_late():
        made = _made(search, first.session.task.spec, _teaching(search.session))
        found += [made] if made is not None else []
    return tuple(found)


def best(found: Sequence[Dense]) -> Dense | None:
    """Return the one with the best score on validation, the earlier of two with the same; None of none."""
    winner: Dense | None = None
    for each in found:
        if winner is None or _is_better(each.state, winner.state):
            winner = each
    return winner


def wins(found: Sequence[Dense], state: CompressionState | None) -> Dense | None:
    """Return the dense network that is the answer; None if the chain's network is."""
    winner = best(found)
    return winner if winner is not None and (state is None or _is_better(winner.state, state)) else None


def candidates(
    session: Session, state: CompressionState | None, speed: Speed | None, found: Sequence[Dense]
) -> tuple[Candidate, ...]:
    """Return the networks within the time, the answer first."""
    rows, answer = [], wins(found, state)
    if state is not None and speed is not None:
        total = session.profile.train.epochs + state.n_epochs
        rows.append(_candidate(str(state.chain), state, speed, total, answer is None))
    for each in found:
        row = _candidate(each.name, each.state, each.speed, each.n_epochs, each is answer)
        rows.append(replace(row, is_dense=True))
    return tuple(sorted(rows, key=lambda each: not each.is_answer))


def _made(search: Search, spec: ModelSpec, taught: Distillation | None = None) -> Dense | None:
    """Train and quantize one network; None if it fails, or is not within the time after all."""
    session, progress = search.session, search.progress
    total = session.profile.train.epochs + search.n_more
    try:
        own = member(session, spec, total, search.runs, progress, taught)
        chain = Chain.parse("Q" if _is_quantized(session) else "")
        state = follow(chain, own.baseline, own.task, own.profile).state
    except NacdeployError as error:
        progress.say(f"dense {families.said(spec)} is no candidate: {error}")
        return None
    state = replace(state, baseline=session.baseline.metrics)
    kept = replace(own, baseline=session.baseline, baseline_folder=session.baseline_folder)
    found = Dense(kept, state, search.speeds(state), total, search.n_more, taught is not None)
    score = shown(named(state.metrics.metric), state.metrics.score)
    progress.say(f"{found.name}: {found.speed.p50_ms:.4g} ms, {score} on validation after {total} epochs")
    return found if found.speed.ratio >= search.speedup else None


def _is_taught(session: Session) -> bool:
    """Tell whether the big network may teach: where labels are its own answers, they are its teaching already."""
    return not session.task.data.answered_by and getattr(session.task.metric, "trains", True)


def _teaching(session: Session) -> Distillation:
    table = session.profile.of(FinetuneTable)
    return Distillation(table.distill or _WEIGHT, table.distill_temperature)


def _is_better(one: CompressionState, other: CompressionState) -> bool:
    return is_better(named(one.metrics.metric), one.metrics.score, other.metrics.score)


def _candidate(name: str, state: CompressionState, speed: Speed, n_epochs: int, is_answer: bool) -> Candidate:
    return Candidate(name, state.metrics.score, speed.p50_ms, n_epochs, is_answer, state.metrics.metric)


def _is_quantized(session: Session) -> bool:
    return has_q(session) and session.profile.of(PruneTable).runs_as == by_time.INT8  # as the time budget has settled


def _within(search: Search) -> Iterator[ModelSpec]:
    """Yield of each depth the largest relative within the time."""
    try:
        lines = families.lines(search.session.task.spec)[:_N_DEPTHS]
    except NacdeployError as error:
        search.progress.say(f"no smaller dense network is a candidate: {error}")
        return
    for line in lines:
        try:
            found = _by_halves(search, line)
        except NacdeployError as error:
            search.progress.say(f"{families.said(line[0])} and smaller ones are no candidates: {error}")
            continue
        if found is not None:
            yield found


def _by_halves(search: Search, line: Sequence[ModelSpec]) -> ModelSpec | None:
    low, high = 0, len(line)  # those from `high` on are within the time, those before `low` are not
    while low < high:
        middle = (low + high) // 2
        networks = [search.speeds.baseline, _deployed(search.session, line[middle])]
        within = networks_ms(search.speeds.clock, networks)[1] <= search.target_ms
        low, high = (low, middle) if within else (middle + 1, high)
    return line[low] if low < len(line) else None


def _deployed(session: Session, spec: ModelSpec) -> Network:
    rule = rule_to_come(session.profile) if _is_quantized(session) else None
    return by_time.deployed(plain_network(replace(session.task, spec=spec), session.profile), rule)
