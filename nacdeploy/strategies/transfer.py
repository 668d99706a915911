"""Transfer: a strategy carried over to a model, every letter deciding anew on what it finds there."""

from collections.abc import Callable
from dataclasses import dataclass

from nacdeploy import train
from nacdeploy.errors import RefusedError
from nacdeploy.profile import Profile
from nacdeploy.strategies import operators
from nacdeploy.strategies.advance import Memory, advance
from nacdeploy.strategies.chain import Chain, Link
from nacdeploy.strategies.state import CompressionState
from nacdeploy.task import Task


@dataclass(frozen=True)
class Refusal:
    """A letter that did not apply: its position in the chain (from 1) and the reason."""

    position: int
    link: str
    reason: str


@dataclass(frozen=True)
class Transferred:
    """The state at the end of a chain and the letters that were skipped on the way."""

    state: CompressionState
    skipped: tuple[Refusal, ...] = ()


def follow(
    chain: Chain,
    state: CompressionState,
    task: Task,
    profile: Profile,
    *,
    skip_refused: bool = False,
    memory: Memory | None = None,
    after: Callable[[CompressionState], None] = lambda state: None,
    report: train.Report = lambda *progress: None,
) -> Transferred:
    """Apply `chain` letter by letter; F always runs.

    Raises:
        UsageError: unknown letter or parameter, before anything is run.
        RefusedError: a letter does not apply, without `skip_refused`.
    """
    operators.check(chain, profile)
    skipped: list[Refusal] = []
    for position, link in enumerate(chain, start=1):
        try:
            state = advance(state, link, task, profile, memory, report)
        except RefusedError as error:
            if not skip_refused:
                hint = "--skip-refused would leave it out"
                raise RefusedError(f"{error} (position {position} of '{chain}'; {hint})") from error
            skipped.append(Refusal(position, str(link), str(error)))
        else:
            after(state)
    return Transferred(state, tuple(skipped))


def post_finetune(
    state: CompressionState, n_epochs: int, task: Task, profile: Profile, report: train.Report = lambda *progress: None
) -> CompressionState:
    """One more F of `n_epochs` epochs with NAC's patience for it (Plateau, early stop after a third)."""
    link = Link("F", (("epochs", n_epochs), ("early_stop_patience", max(1, n_epochs // 3))))
    return advance(state, link, task, profile, report=report)
