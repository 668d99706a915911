"""Applying a strategy."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

from nacdeploy import models
from nacdeploy.base.progress import Progress, default
from nacdeploy.forecasts.forecast import Forecast
from nacdeploy.forecasts.plan import Wish, planned
from nacdeploy.metrics import named, shown
from nacdeploy.profile import Profile
from nacdeploy.results.outcome import Command, finish
from nacdeploy.results.result import Result
from nacdeploy.sessions.options import Options
from nacdeploy.sessions.runs import Runs
from nacdeploy.sessions.session import Session, epoch_report, open_session
from nacdeploy.sessions.setup import to_apply
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.state import CompressionState
from nacdeploy.strategies.steps import follow as transferring
from nacdeploy.strategies.steps import letters
from nacdeploy.strategies.strategy import Strategy
from nacdeploy.trials import speed


@dataclass(frozen=True)
class DryRun:
    """The decisions of `transfer` at every letter, and the forecast of its end (None: that was not asked for)."""

    steps: tuple[transferring.Preview, ...]
    forecast: Forecast | None = None


def transfer(
    *,
    strategy: str | Strategy,
    precision: Path | str | None = None,
    rules: Path | str | None = None,
    latency_table: Path | str | None = None,
    out: Path | str | None = None,
    skip_refused: bool = False,
    post_finetune: int = 0,
    forecast: bool | None = None,
    adapt: bool = False,
    max_drop: float | None = None,
    target_ms: float | None = None,
    speedup: float | None = None,
    progress: Progress | None = None,
    **shared: Unpack[Options],
) -> Result:
    """Apply a word, a strategy file or a published strategy to a model, with new decisions, and write a checkpoint.

        >>> import nacdeploy
        >>> result = nacdeploy.transfer(strategy="QP", profile="tiny.toml")
        >>> result.chain, result.folder
        ('QP', 'runs/transfer-QP-1')

    Args:
        precision: an artifact or its precision.json; layers that were measured to be better in float stay float.
        rules: a rule file of the older grammar (`coding/rule_files.py`), which sets P, S and C layer by layer.
        latency_table: times that `analyze` measured on another machine, for a P that leaves a time.
        skip_refused: leave out a letter that does not apply, instead of raising.
        post_finetune: epochs of training after the last letter.
        forecast: tell before the training, by a rehearsal with a part of the images, what will come out (None: if the
            training takes clearly longer than that).
        adapt: change what P, S and D take so that the forecast holds `max_drop` (in the metric's unit) and
            `target_ms`, or `speedup` against the baseline.

    Raises:
        UsageError: unknown letter, parameter, model, data or profile; `precision` holds none that fits; `rules` holds
            no rule; no parameters hold the budget.
        RefusedError: a letter does not apply (without `skip_refused`).
    """
    models.name_by_user(shared.get("model"), shared.get("task"))
    wish = Wish(forecast, adapt, max_drop, target_ms, speedup)
    wish.check(post_finetune)
    progress, request = progress or default(), to_apply(strategy, shared, precision, rules, latency_table)
    options = request.options
    with Runs(Path(options["runs"])).place(out, f"transfer-{request.chain.word}") as place:
        command = Command("transfer", place, options, progress)
        session = open_session(request, progress)
        plan = planned(session, request.chain, request.origin, wish, skip_refused, progress)
        state, skipped = followed(session, plan.chain, skip_refused, post_finetune, progress)
        told, measured = (plan.told, plan.found(state, progress)), None
        if session.profile.search.on_speed:
            measured = speed.measured(state, session, progress)
        return finish(command, session, state, skipped=skipped, speed=measured, told=told)


def preview(
    *,
    strategy: str,
    precision: Path | str | None = None,
    rules: Path | str | None = None,
    latency_table: Path | str | None = None,
    skip_refused: bool = False,
    progress: Progress | None = None,
    **shared: Unpack[Options],
) -> list[transferring.Preview]:
    """Return what `transfer` would decide at every letter, without training or writing anything.

    >>> import nacdeploy
    >>> [step.link for step in nacdeploy.preview(strategy="QP", profile="tiny.toml")]
    ['Q', 'P']
    """
    files = {"precision": precision, "rules": rules, "latency_table": latency_table}
    asked = _Asked(strategy, files, skip_refused, Wish(forecast=False))
    return list(_dry(asked, progress or default(), shared).steps)


def forecast(
    *,
    strategy: str | Strategy,
    precision: Path | str | None = None,
    rules: Path | str | None = None,
    latency_table: Path | str | None = None,
    skip_refused: bool = False,
    adapt: bool = False,
    max_drop: float | None = None,
    target_ms: float | None = None,
    speedup: float | None = None,
    progress: Progress | None = None,
    **shared: Unpack[Options],
) -> DryRun:
    """Return what `transfer` would decide at every letter and what it would give; options as there.

    The chain is rehearsed with a part of the images; nothing is written but the baseline, if it is new.

    >>> import nacdeploy
    >>> run = nacdeploy.forecast(strategy="PF", profile="tiny.toml")
    >>> run.forecast.chain, run.forecast.drop.low <= run.forecast.drop.value
    ('PF', True)
    """
    files = {"precision": precision, "rules": rules, "latency_table": latency_table}
    wish = Wish(True, adapt, max_drop, target_ms, speedup)
    return _dry(_Asked(strategy, files, skip_refused, wish), progress or default(), shared)


@dataclass(frozen=True)
class _Asked:
    """The wishes of a dry run."""

    strategy: str | Strategy
    files: Mapping[str, Path | str | None]
    skip_refused: bool
    wish: Wish


def _dry(asked: _Asked, progress: Progress, shared: Options) -> DryRun:
    models.name_by_user(shared.get("model"), shared.get("task"))
    asked.wish.check()
    request = to_apply(asked.strategy, shared, **asked.files)
    session = open_session(request, progress)
    plan = planned(session, request.chain, request.origin, asked.wish, asked.skip_refused, progress)
    steps = transferring.previews(plan.chain, session.baseline, session.task, session.profile, asked.skip_refused)
    return DryRun(tuple(steps), plan.told)


def followed(
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
            memory=session.shelves,
            after=lambda state: progress.say(_step_line(state, session.profile)),
            report=epoch_report(bar, session.task.metric, "F: epoch"),
        )
        state = done.state
        if post_finetune:
            report = epoch_report(bar, session.task.metric, "post-finetune: epoch")
            how = session.task, session.profile, report, session.shelves
            state = transferring.post_finetune(state, post_finetune, *how)
            progress.say(_step_line(state, session.profile))
    return state, done.skipped


def _step_line(state: CompressionState, profile: Profile) -> str:
    step = state.steps[-1]
    explanation = letters.make(step.link, profile).explain(step.decision)
    return f"{step.link}: {shown(named(state.metrics.metric), state.metrics.score)} on validation; {explanation}"
