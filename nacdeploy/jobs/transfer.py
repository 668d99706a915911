"""Training a baseline, applying a strategy, finetuning a result."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

from nacdeploy import profile as profiles
from nacdeploy import task as tasks
from nacdeploy.coding import rules as rule_files
from nacdeploy.errors import UsageError
from nacdeploy.exporters import carry
from nacdeploy.exporters.tune import Precisions
from nacdeploy.jobs import preprocessing, speed
from nacdeploy.jobs.outcome import Job, checkpoint_folder, finish
from nacdeploy.jobs.result import Result
from nacdeploy.jobs.runs import Runs
from nacdeploy.jobs.session import (
    Options,
    OptionValues,
    Session,
    effective_profile,
    epoch_report,
    open_session,
    task_of,
    train_baseline,
)
from nacdeploy.metrics import named, shown
from nacdeploy.profile import Profile
from nacdeploy.progress import Progress, Silent
from nacdeploy.strategies import checkpoint as checkpoints
from nacdeploy.strategies import operators
from nacdeploy.strategies import transfer as transferring
from nacdeploy.strategies.chain import Chain, Link
from nacdeploy.strategies.state import CompressionState
from nacdeploy.strategies.strategy import TABLES, Strategy, resolve


def train(
    *,
    out: Path | str | None = None,
    epochs: int | None = None,
    progress: Progress | None = None,
    **shared: Unpack[OptionValues],
) -> Path:
    """Train the FP32 baseline of a model and write its checkpoint folder."""
    progress, options = progress or Silent(), Options.given(**shared)
    profile = effective_profile(options)
    if epochs is not None:
        profile = profiles.override(profile, {"train": {"epochs": epochs}})
    with Runs(Path(options.runs)).place(out, "train") as place:
        profile, why = preprocessing.settled(profile, None, False)
        task = tasks.make(profile.model, profile.data, profile)
        progress.say(preprocessing.line(task.data, why))
        train_baseline(place, task, profile, progress)
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
    **shared: Unpack[OptionValues],
) -> Result:
    """Apply a word, a strategy file or a published strategy to a model, deciding anew; leaves a checkpoint.

    Layers that `precision`, an artifact or its precision.json, was measured to be better off with in float stay float.
    `rules` is a rule file of the older grammar (`coding/rules.py`): what P, S and C do layer by layer.

    Raises:
        UsageError: unknown letter, parameter, model, data or profile; `precision` holds none that fits; `rules` holds
            no rule.
        RefusedError: a letter does not apply (without `skip_refused`).
    """
    progress, options = progress or Silent(), Options.given(**shared)
    found = resolve(strategy)
    profile = _with_settings(effective_profile(options), found)
    chain = Chain.parse(found.chain)
    operators.check(chain, profile)
    precisions = _measured(precision, chain)
    with Runs(Path(options.runs)).place(out, f"transfer-{chain.word}") as place:
        job = Job("transfer", place, options, progress)
        session = _in_precision(open_session(options, profile, chain.word, progress), precisions, progress)
        session = _by_rules(session, rules, chain, progress)
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
    **shared: Unpack[OptionValues],
) -> list[transferring.Preview]:
    """What `transfer` would do: every letter decided on the structure it would find, nothing trained or written."""
    progress, found, options = progress or Silent(), resolve(strategy), Options.given(**shared)
    profile = _with_settings(effective_profile(options), found)
    chain = Chain.parse(found.chain)
    operators.check(chain, profile)
    precisions = _measured(precision, chain)
    session = _in_precision(open_session(options, profile, chain.word, progress), precisions, progress)
    session = _by_rules(session, rules, chain, progress)
    return transferring.previews(chain, session.baseline, session.task, session.profile, skip_refused)


def finetune(
    *,
    source: Path | str,
    epochs: int | None = None,
    out: Path | str | None = None,
    progress: Progress | None = None,
    **shared: Unpack[OptionValues],
) -> Result:
    """Train a compressed checkpoint further (one more F); leaves a new checkpoint."""
    progress, options = progress or Silent(), Options.given(**shared)
    with Runs(Path(options.runs)).place(out, "finetune") as place:
        job = Job("finetune", place, options, progress)
        session, state = _reopened(Path(source), progress)
        parameters = () if epochs is None else (("epochs", epochs),)
        state, _ = _followed(session, Chain((Link("F", parameters),)), False, 0, progress, state)
        return finish(job, session, state)


def _with_settings(profile: Profile, strategy: Strategy) -> Profile:
    """A strategy file brings the tables that its letters were found with."""
    return profiles.override(profile, {t: strategy.settings[t] for t in TABLES if t in strategy.settings})


def _measured(precision: Path | str | None, chain: Chain) -> Precisions | None:
    if precision is not None and "Q" not in chain.word:
        raise UsageError(f"--precision says which layers Q leaves in float, and '{chain}' has no Q")
    return carry.read(Path(precision)) if precision is not None else None


def _in_precision(session: Session, precisions: Precisions | None, progress: Progress) -> Session:
    """The session with the layers left out of Q that were measured elsewhere to be better off in float."""
    if precisions is None:
        return session
    found = carry.carried(precisions, session.baseline.network)
    progress.say(str(found))
    exclude = dict.fromkeys((*session.profile.quantize.exclude, *found.floats))
    return replace(session, profile=profiles.override(session.profile, {"quantize": {"exclude": [*exclude]}}))


def _by_rules(session: Session, rules: Path | str | None, chain: Chain, progress: Progress) -> Session:
    """The session with what a rule file says of the network's layers in its profile; what is ignored is said. Layers
    that the profile excludes stay excluded."""
    if rules is None:
        return session
    n_times = chain.word.count("S")
    found = rule_files.tables(rule_files.read(Path(rules)), session.baseline.network.layers, max(n_times, 1))
    for line in (*found.ignored, *_unread(found.tables, chain)):
        progress.say(line)
    if n_times and found.n_stages > n_times:
        taken = "last is" if n_times == 1 else f"last {n_times} are"
        progress.say(
            f"{rules} has {found.n_stages} stages of pruning: the {taken} taken; another S would take one more"
        )
    tables = {key: _excluding(session.profile, key, table) for key, table in found.tables.items()}
    return replace(session, profile=profiles.override(session.profile, tables))


def _unread(tables: dict[str, dict[str, Any]], chain: Chain) -> list[str]:
    """The tables of rules whose letter is not in the chain."""
    read_by = {"sparsify": "S", "prune": "P", "code": "C"}
    unread = [read_by[key] for key in tables if read_by[key] not in chain.word]
    return [f"rules for {letter}, which is not in '{chain}': ignored" for letter in unread]


def _excluding(profile: Profile, key: str, table: dict[str, Any]) -> dict[str, Any]:
    """A table of rules that leaves out what the profile's own leaves out."""
    if "exclude" not in table:
        return table
    return {**table, "exclude": [*dict.fromkeys((*getattr(profile, key).exclude, *table["exclude"]))]}


def _reopened(source: Path, progress: Progress) -> tuple[Session, CompressionState]:
    folder = checkpoint_folder(source)
    state, record = checkpoints.load(folder)
    task, profile = task_of(record), record.settings()
    found = checkpoints.baseline_folder(record, folder)
    if found is None:
        raise UsageError(f"the baseline of {folder} ({record.baseline_checkpoint}) is gone: its test score is needed")
    baseline, _ = checkpoints.load(found)
    return Session(profile, task, baseline, found), state


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
    explanation = operators.make(step.link, profile).explain(step.decision)
    return f"{step.link}: {shown(named(state.metrics.metric), state.metrics.score)} on validation; {explanation}"
