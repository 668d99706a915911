"""The tools of a search for evaluating chains, in its own process as in a worker: subsets, short finetunes, speeds."""

from dataclasses import dataclass
from pathlib import Path

from nacdeploy.base.progress import Say, nobody
from nacdeploy.sessions.session import Session
from nacdeploy.strategies.memory.cache import DiskMemory
from nacdeploy.strategies.operators.finetune.settings import FinetuneTable
from nacdeploy.strategies.search import halving
from nacdeploy.trials.evaluator import Evaluator
from nacdeploy.trials.fidelity import subsets
from nacdeploy.trials.layer_speed import LayerSpeeds
from nacdeploy.trials.speed import Speeds
from nacdeploy.trials.time_budget import ClockSpeeds, clock_speeds


@dataclass(frozen=True)
class Equipment:
    """The tools of a search: the evaluator, the timer of whole networks, the table of layers, and the epochs of
    promotions.

    Timer and table are None if speed does not count. `by_clock` are the speeds where a time is the budget. Without
    promotions F trains in full at once.
    """

    evaluator: Evaluator
    speeds: Speeds | ClockSpeeds | None
    layers: LayerSpeeds | None
    promotions: tuple[int, ...]
    by_clock: ClockSpeeds | None = None


def equipped(session: Session, place: Path, cache: Path | str, say: Say = nobody) -> Equipment:
    """Build the tools that a session's profile asks for.

    `place` is the run's folder, where times are kept; `cache` is the run's memory.

    Raises:
        UsageError: times in `place` were taken elsewhere.
        NacdeployError: the memory cannot be reached.
    """
    profile, table = session.profile, session.profile.search
    by_clock = clock_speeds(session) if table.is_timed else None
    speeds = by_clock or (Speeds(session, place) if table.on_speed else None)
    layers = LayerSpeeds(session, place) if table.on_speed and table.latency == "table" and by_clock is None else None
    first, *later = halving.rungs(profile.of(FinetuneTable).epochs, table.fidelity.finetune_fraction)
    evaluator = Evaluator(
        session.baseline,
        session.task,
        profile,
        DiskMemory.open(cache, session.task, profile, session.baseline, say),
        speed=layers or speeds,
        meter=subsets(session.baseline, session.task, table),
        finetune_epochs=first if later else None,
    )
    return Equipment(evaluator, speeds, layers, tuple(later), by_clock)
