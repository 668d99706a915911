"""Training a result further."""

from dataclasses import replace
from pathlib import Path
from typing import Unpack

from nacdeploy import models
from nacdeploy.base.errors import UsageError
from nacdeploy.base.progress import Progress, default
from nacdeploy.commands.transfer import followed
from nacdeploy.profile.settings import Settings
from nacdeploy.results.outcome import Command, checkpoint_folder, finish
from nacdeploy.results.result import Result
from nacdeploy.sessions.options import Options, filled
from nacdeploy.sessions.runs import Runs
from nacdeploy.sessions.session import Session, shelves_of, task_of
from nacdeploy.strategies.chain import Chain, Link
from nacdeploy.strategies.state import CompressionState, plain_key
from nacdeploy.strategies.steps import checkpoint as checkpoints
from nacdeploy.strategies.steps import letters
from nacdeploy.task.answers import answered


def finetune(
    *,
    source: Path | str,
    epochs: int | None = None,
    distill: float | None = None,
    out: Path | str | None = None,
    progress: Progress | None = None,
    **shared: Unpack[Options],
) -> Result:
    """Train a compressed checkpoint further (one more F) and write a new checkpoint.

    >>> import nacdeploy
    >>> nacdeploy.finetune(source="runs/transfer-QEF-1", epochs=1).chain
    'QEFF(epochs=1)'

    Args:
        epochs: at most so many; None takes the checkpoint's settings, as for `distill`.
        distill: share of the FP32 network's answers in the loss, from 0 to 1.
    """
    progress, options = progress or default(), filled(shared)
    models.name_by_user(options["model"], options["task"])
    with Runs(Path(options["runs"])).place(out, "finetune") as place:
        command = Command("finetune", place, options, progress)
        session, state = _reopened(Path(source), Runs(Path(options["runs"])), progress)
        given = (("epochs", epochs), ("distill", distill))
        chain = Chain((Link("F", tuple((key, value) for key, value in given if value is not None)),))
        letters.check(chain, session.profile)
        state, _ = followed(session, chain, False, 0, progress, state)
        return finish(command, session, state)


def _reopened(source: Path, runs: Runs, progress: Progress) -> tuple[Session, CompressionState]:
    folder = checkpoint_folder(source)
    state, record = checkpoints.load(folder)
    found = checkpoints.baseline_folder(record, folder)
    if found is None:
        raise UsageError(f"the baseline of {folder} ({record.baseline_checkpoint}) is gone: its test score is needed")
    baseline, _ = checkpoints.load(found)
    state = replace(state, origin=baseline.network)
    task = answered(task_of(record), baseline.network, plain_key(baseline.network))
    settings = Settings.of(record.settings(), str(folder))
    return Session(settings, task, baseline, found, shelves_of(runs, settings.profile, progress)), state
