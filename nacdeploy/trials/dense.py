"""A smaller dense network as a candidate of a search by time: of the same built-in family, trained as long as the
chain's network was in all, and quantized as it would be deployed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from nacdeploy import models
from nacdeploy.base.errors import NacdeployError
from nacdeploy.base.progress import Progress
from nacdeploy.metrics import DEFAULT, is_better, named, scored, shown
from nacdeploy.network.network import Network
from nacdeploy.sessions.runs import Runs
from nacdeploy.sessions.session import Session, member
from nacdeploy.strategies.baseline import plain_network
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.operators.prune import by_time
from nacdeploy.strategies.operators.prune.operator import rule_to_come
from nacdeploy.strategies.search.alphabet import parsed
from nacdeploy.strategies.state import CompressionState
from nacdeploy.strategies.steps.follow import follow
from nacdeploy.trials.speed import Speed
from nacdeploy.trials.time_budget import ClockSpeeds, networks_ms


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


@dataclass(frozen=True)
class Dense:
    """A dense network that was trained and quantized. `session` has its task and settings, and the search's baseline;
    `state` compares with that baseline."""

    session: Session
    state: CompressionState
    speed: Speed
    width: float
    n_epochs: int


def trained(session: Session, n_epochs: int, speeds: ClockSpeeds, runs: Runs, progress: Progress) -> Dense | None:
    """Train and quantize the widest member of the family that is within the time; None if there is none.

    `n_epochs` are those of the chain, which come on top of the baseline's own.
    """
    target_ms = speeds.networks_ms_of_baseline / (session.profile.search.speedup or 1.0)
    width = _widest(session, target_ms, speeds, progress)
    if width is None:
        return None
    total = session.profile.train.epochs + n_epochs
    own = member(session, width, total, runs, progress)
    chain = Chain.parse("Q" if _is_quantized(session) else "")
    state = follow(chain, own.baseline, own.task, own.profile).state
    state = replace(state, baseline=session.baseline.metrics)
    speed = speeds(state)
    progress.say(
        f"dense {_name(session, width)}{str(chain) and ', ' + str(chain)}: {speed.p50_ms:.4g} ms, "
        f"{shown(named(state.metrics.metric), state.metrics.score)} on validation after {total} epochs"
    )
    if speed.ratio < (session.profile.search.speedup or 1.0):
        return None
    kept = replace(own, baseline=session.baseline, baseline_folder=session.baseline_folder)
    return Dense(kept, state, speed, width, total)


def wins(dense: Dense | None, state: CompressionState | None) -> bool:
    """Tell whether the dense network is the better one on validation."""
    if dense is None or state is None:
        return dense is not None
    return is_better(named(state.metrics.metric), dense.state.metrics.score, state.metrics.score)


def candidates(
    session: Session, state: CompressionState | None, speed: Speed | None, dense: Dense | None
) -> tuple[Candidate, ...]:
    """Return the networks within the time, the answer first."""
    found = []
    if state is not None and speed is not None:
        total = session.profile.train.epochs + state.n_epochs
        found.append(_candidate(str(state.chain), state, speed, total, not wins(dense, state)))
    if dense is not None:
        name = f"dense {_name(session, dense.width)}{str(dense.state.chain) and ', ' + str(dense.state.chain)}"
        found.append(_candidate(name, dense.state, dense.speed, dense.n_epochs, wins(dense, state)))
    return tuple(sorted(found, key=lambda each: not each.is_answer))


def _candidate(name: str, state: CompressionState, speed: Speed, n_epochs: int, is_answer: bool) -> Candidate:
    return Candidate(name, state.metrics.score, speed.p50_ms, n_epochs, is_answer, state.metrics.metric)


def _name(session: Session, width: float) -> str:
    return f"{session.task.spec.name} of width {width:g}"


def _is_quantized(session: Session) -> bool:
    return "Q" in parsed(session.profile.search.alphabet).letters


def _widest(session: Session, target_ms: float, speeds: ClockSpeeds, progress: Progress) -> float | None:
    """Return the largest width of the family within the time, by halves: a time follows from the structure, so that no
    network need be trained to know it."""
    widths = models.narrower(session.task.spec)
    try:
        return _by_halves(session, widths, target_ms, speeds)
    except NacdeployError as error:
        progress.say(f"no smaller dense network is a candidate: {error}")
        return None


def _by_halves(session: Session, widths: Sequence[float], target_ms: float, speeds: ClockSpeeds) -> float | None:
    low, high = 0, len(widths)  # widths from `high` on are within the time, those before `low` are not
    while low < high:
        middle = (low + high) // 2
        within = networks_ms(speeds.clock, [speeds.baseline, _deployed(session, widths[middle])])[1] <= target_ms
        low, high = (low, middle) if within else (middle + 1, high)
    return widths[low] if low < len(widths) else None


def _deployed(session: Session, width: float) -> Network:
    task = replace(session.task, spec=replace(session.task.spec, width=width))
    rule = rule_to_come(session.profile) if _is_quantized(session) else None
    return by_time.deployed(plain_network(task, session.profile), rule)
