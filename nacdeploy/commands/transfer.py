"""Training a baseline, applying a strategy, finetuning a result."""

from pathlib import Path
from typing import Unpack

from nacdeploy import models
from nacdeploy.base.errors import UsageError
from nacdeploy.base.progress import Progress, Silent
from nacdeploy.metrics import named, shown
from nacdeploy.profile import Profile
from nacdeploy.profile.settings import Settings
from nacdeploy.results.outcome import Job, checkpoint_folder, finish
from nacdeploy.results.result import Result
from nacdeploy.sessions.options import Options, filled
from nacdeploy.sessions.runs import Runs
from nacdeploy.sessions.session import Session, epoch_report, open_session, task_of, train_baseline
from nacdeploy.sessions.setup import settled, to_apply, wanted
from nacdeploy.strategies.chain import Chain, Link
from nacdeploy.strategies.state import CompressionState
from nacdeploy.strategies.steps import checkpoint as checkpoints
from nacdeploy.strategies.steps import follow as transferring
from nacdeploy.strategies.steps import letters
from nacdeploy.trials import speed


def train(
    *,
    out: Path | str | None = None,
    epochs: int | None = None,
    progress: Progress | None = None,
    **shared: Unpack[Options],
) -> Path:
    """Train the FP32 baseline of a model and write its checkpoint folder."""
    progress = progress or Silent()
    models.name_by_user(shared.get("model"))
    request = wanted(shared, train={"epochs": epochs})
    with Runs(Path(request.options["runs"])).place(out, "train") as place:
        setup = settled(request, progress)
        progress.say(setup.normalised)
        train_baseline(place, setup, progress)
    return place


def transfer(
    *,
    strategy: str,
    precision: Path | str | None = None,
    rules: Path | str | None = None,
    out: Path | str | None = None,
    skip_refused: bool = False,
    post_finetune: int = 0,
    progress: Progress | None = None,
    **shared: Unpack[Options],
) -> Result:
    """Apply a word, a strategy file or a published strategy to a model, deciding anew; leaves a checkpoint.

    Layers that `precision`, an artifact or its precision.json, was measured to be better off with in float stay float.
    `rules` is a rule file of the older grammar (`coding/rule_files.py`): what P, S and C do layer by layer.

    Raises:
        UsageError: unknown letter, parameter, model, data or profile; `precision` holds none that fits; `rules` holds
            no rule.
        RefusedError: a letter does not apply (without `skip_refused`).
    """
    models.name_by_user(shared.get("model"))
    progress, request = progress or Silent(), to_apply(strategy, shared, precision, rules)
    chain, options = request.chain, request.options
    with Runs(Path(options["runs"])).place(out, f"transfer-{chain.word}") as place:
        job = Job("transfer", place, options, progress)
        session = open_session(request, progress)
        state, skipped = _followed(session, chain, skip_refused, post_finetune, progress)
        measured = None
        if session.profile.search.on_speed:
            speed.say_where(session, progress)
            measured = speed.measured(state, session, progress)
        return finish(job, session, state, skipped=skipped, speed=measured)


def preview(
    *,
    strategy: str,
    precision: Path | str | None = None,
    rules: Path | str | None = None,
    skip_refused: bool = False,
    progress: Progress | None = None,
    **shared: Unpack[Options],
) -> list[transferring.Preview]:
    """What `transfer` would do: every letter decided on the structure it would find, nothing trained or written."""
    models.name_by_user(shared.get("model"))
    request = to_apply(strategy, shared, precision, rules)
    session = open_session(request, progress or Silent())
    return transferring.previews(request.chain, session.baseline, session.task, session.profile, skip_refused)


def finetune(
    *,
    source: Path | str,
    epochs: int | None = None,
    out: Path | str | None = None,
    progress: Progress | None = None,
    **shared: Unpack[Options],
) -> Result:
    """Train a compressed checkpoint further (one more F); leaves a new checkpoint."""
    progress, options = progress or Silent(), filled(shared)
    models.name_by_user(options["model"])
    with Runs(Path(options["runs"])).place(out, "finetune") as place:
        job = Job("finetune", place, options, progress)
        session, state = _reopened(Path(source), progress)
        chain = Chain((Link("F", () if epochs is None else (("epochs", epochs),)),))
        letters.check(chain, session.profile)
        state, _ = _followed(session, chain, False, 0, progress, state)
        return finish(job, session, state)


def _reopened(source: Path, progress: Progress) -> tuple[Session, CompressionState]:
    folder = checkpoint_folder(source)
    state, record = checkpoints.load(folder)
    found = checkpoints.baseline_folder(record, folder)
    if found is None:
        raise UsageError(f"the baseline of {folder} ({record.baseline_checkpoint}) is gone: its test score is needed")
    baseline, _ = checkpoints.load(found)
    return Session(Settings.of(record.settings(), str(folder)), task_of(record), baseline, found), state


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
            report=epoch_report(bar, session.task.metric, "F: epoch"),
        )
        state = done.state
        if post_finetune:
            report = epoch_report(bar, session.task.metric, "post-finetune: epoch")
            state = transferring.post_finetune(state, post_finetune, session.task, session.profile, report)
            progress.say(_step_line(state, session.profile))
    return state, done.skipped


def _step_line(state: CompressionState, profile: Profile) -> str:
    step = state.steps[-1]
    explanation = letters.make(step.link, profile).explain(step.decision)
    return f"{step.link}: {shown(named(state.metrics.metric), state.metrics.score)} on validation; {explanation}"
