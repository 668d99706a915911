"""What every command starts from (effective profile, task, baseline) and what each ends with (test scores)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, Unpack

import torch
from torch import nn

from nacdeploy import evaluate as evaluation
from nacdeploy import folders, metrics, models, records
from nacdeploy import profile as profiles
from nacdeploy import task as tasks
from nacdeploy.errors import NacdeployError, UsageError
from nacdeploy.jobs import measured, preprocessing
from nacdeploy.jobs.runs import Runs
from nacdeploy.layers.network import Network
from nacdeploy.metrics import DEFAULT, Metric, scored
from nacdeploy.profile import Profile
from nacdeploy.progress import Progress
from nacdeploy.strategies import checkpoint as checkpoints
from nacdeploy.strategies.baseline import control, initial_state, plain_network, train_network
from nacdeploy.strategies.checkpoint import Record
from nacdeploy.strategies.state import CompressionState, state_key
from nacdeploy.task import Task
from nacdeploy.train import Report


class OptionValues(TypedDict, total=False):
    """The shared options as keyword arguments."""

    model: str | None
    data: str | None
    width: float | None
    normalize: str | None
    classes: str | None
    checkpoint: str | None
    profile: str
    seed: int | None
    runs: Path | str
    wandb: bool
    new_head: bool


@dataclass(frozen=True)
class Options:
    """The options that all commands share; None leaves a choice to the profile."""

    model: str | None = None
    data: str | None = None
    width: float | None = None
    normalize: str | None = None
    classes: str | None = None
    checkpoint: str | None = None
    profile: str = "demo"
    seed: int | None = None
    runs: Path | str = "runs"
    wandb: bool = True
    new_head: bool = False

    @classmethod
    def given(cls, **values: Unpack[OptionValues]) -> "Options":
        """The options that a user gives; a model file that he names may run from now on."""
        models.name_by_user(values.get("model"))
        return cls(**values)


@dataclass(frozen=True)
class Session:
    """A profile, its task, the baseline state and the folder of its checkpoint."""

    profile: Profile
    task: Task
    baseline: CompressionState
    baseline_folder: Path


@scored
@dataclass(frozen=True)
class ControlScore:
    """control-*.json beside a baseline: what `n_epochs` more made of its score on the test split."""

    n_epochs: int
    test_score: float
    metric: str = DEFAULT


@scored
@dataclass(frozen=True)
class Scores:
    """Scores on the test split, found once at the end.

    `control` is the FP32 baseline given as many more epochs (`n_control_epochs`) as the chain trained; the drop is
    counted against the better of the two.
    """

    baseline: float
    control: float
    n_control_epochs: int
    compressed: float
    n_images: int
    metric: str = DEFAULT

    @property
    def scored_by(self) -> Metric:
        """The metric itself."""
        return metrics.named(self.metric)

    @property
    def drop(self) -> float:
        """What was lost, in the metric's own unit."""
        is_control_better = metrics.is_better(self.scored_by, self.control, self.baseline)
        best = self.control if is_control_better else self.baseline
        return metrics.drop(self.scored_by, best, self.compressed)


def effective_profile(options: Options, search: dict[str, Any] | None = None) -> Profile:
    """The profile with the options in place of its keys; another model than the profile's has its own default width.

    Raises:
        UsageError: no such profile, or a value that it does not take.
    """
    profile = profiles.load(options.profile)
    given: dict[str, Any] = {k: v for k in ("model", "data", "seed", "width") if (v := getattr(options, k)) is not None}
    if given.get("model", profile.model) != profile.model:
        given.setdefault("width", None)
    if images := preprocessing.asked(options.normalize, options.classes):
        given["images"] = images
    if search:
        given["search"] = {k: v for k, v in search.items() if v is not None}
    return profiles.override(profile, given)


def open_session(options: Options, profile: Profile, letters: str, progress: Progress) -> Session:
    """The task of the profile, and its baseline: the user's checkpoint, one trained before with these settings, or one
    that is trained now. `letters` are those of the chains to come.

    Raises:
        NacdeployError: a name is unknown, data are missing, or the checkpoint does not fit.
    """
    record = None
    if options.checkpoint is not None and Path(options.checkpoint).is_dir():
        record = checkpoints.read_record(Path(options.checkpoint))
        profile = _with_model_of(record, options, profile)
    profile = measured.resolved(profile, letters, progress)
    profile, why = preprocessing.settled(profile, record, options.checkpoint is not None)
    task = tasks.make(profile.model, profile.data, profile)
    normalised = preprocessing.line(task.data, why)
    if options.checkpoint is not None:
        baseline, folder = _given_baseline(options, task, profile, progress)
        for line in (normalised, *preprocessing.given_lines(baseline, task.data, profile.model, options.checkpoint)):
            progress.say(line)
    else:
        progress.say(normalised)
        folder = Runs(Path(options.runs)).baseline(baseline_key(task, profile))
        baseline = _own_baseline(folder, task, profile, progress)
    return Session(profile, task, baseline, folder)


def baseline_key(task: Task, profile: Profile) -> str:
    """What a trained baseline depends on, as a hash."""
    recipe = profile.train.model_dump(mode="json")
    spec, data = records.to_data(task.spec), _seen(task, profile)
    return records.sha256_data({"model": spec, "data": data, "seed": profile.seed, "recipe": recipe})


def _seen(task: Task, profile: Profile) -> list[Any]:
    """The images and labels as a network sees them, and what it is trained for. Their own statistics follow from them:
    keys stay what they were."""
    data, images = task.data, profile.images
    is_own = all(scale in (None, "data") for scale in (images.mean, images.std))
    trained_for = [] if task.metric.name == DEFAULT else [task.metric.name, task.metric.version]
    return [data.fingerprint, data.augment, *([] if is_own else [data.mean, data.std]), *trained_for]


def train_baseline(
    folder: Path, task: Task, profile: Profile, progress: Progress, network: Network | None = None
) -> CompressionState:
    """Train the FP32 network by the profile's recipe, from its first values or those of `network`, and write its
    checkpoint."""
    network = network or plain_network(task, profile)
    with progress.bar(f"training the baseline {task.spec.name} on {task.data.name}") as bar:
        fit = train_network(network, task, profile.train, profile.seed, epoch_report(bar, task.metric))
    state = initial_state(network, task)
    progress.say(
        f"trained the baseline {task.spec.name} on {task.data.name} for {fit.n_epochs} epochs: "
        f"{metrics.shown(task.metric, state.metrics.score)} on validation -> {folder}"
    )
    with folders.joined_directory(folder) as temporary:
        checkpoints.write(temporary, state, checkpoints.record_of(state, task, profile))
    return state


def test_scores(session: Session, state: CompressionState, progress: Progress) -> Scores:
    """Score baseline, control and compressed network on the test split."""
    task = session.task
    baseline = evaluation.evaluate(session.baseline.network, task, task.data.test).score
    control_score = _control_score(session, state.n_epochs, progress) if state.n_epochs else baseline
    compressed = evaluation.evaluate(state.network, task, task.data.test).score
    return Scores(baseline, control_score, state.n_epochs, compressed, len(task.data.test), task.metric.name)


def epoch_report(bar: Any, metric: Metric, title: str = "epoch") -> Report:
    """Show epochs on a bar."""

    def report(epoch: int, n_epochs: int, score: float) -> None:
        bar.update(epoch, n_epochs, f"{title} {epoch}: {metrics.shown(metric, score)} on validation")

    return report


def task_of(record: Record) -> Task:
    """The task that a checkpoint was made for.

    Raises:
        UsageError: the data are not the ones it was made with.
    """
    profile = record.settings()
    task = tasks.make(record.model.located, profile.data, profile)
    if task.data.fingerprint != record.data.get("fingerprint"):
        raise UsageError(f"the data set '{profile.data}' has changed since the checkpoint was made; give it unchanged")
    return task


def _own_baseline(folder: Path, task: Task, profile: Profile, progress: Progress) -> CompressionState:
    if checkpoints.is_checkpoint(folder):
        state, _ = checkpoints.load(folder)
        state.network.lay_on(plain_network(task, profile).grid)
        progress.say(f"baseline from {folder}: {metrics.shown(task.metric, state.metrics.score)} on validation")
        return state
    folders.check_writable(folder)
    return train_baseline(folder, task, profile, progress)


def _given_baseline(
    options: Options, task: Task, profile: Profile, progress: Progress
) -> tuple[CompressionState, Path]:
    """The user's network; a plain state dict is written as a checkpoint folder, so that later commands find it."""
    path, runs, network = Path(str(options.checkpoint)), Runs(Path(options.runs)), plain_network(task, profile)
    if checkpoints.is_checkpoint(path):
        record = checkpoints.read_record(path)
        if record.chain:
            raise UsageError(f"{path} is compressed already ('{record.chain}'); --checkpoint takes the FP32 network")
        values = checkpoints.read_values(path / checkpoints.VALUES, record.values_sha256)
        checkpoints.fill(network, values, str(path))
        _check_finite(network, path)
        return initial_state(network, task), path
    found = checkpoints.load_plain(path, network.backbone, new_head=options.new_head)
    _check_finite(network, path)
    for note in found.notes:
        progress.say(f"{path}: {note}")
    if found.new_head:
        return _with_new_head(network, runs, task, profile, progress)
    state = initial_state(network, task)
    folder = runs.baseline(records.sha256_data([state.key, *_seen(task, profile)]))
    with folders.joined_directory(folder) as temporary:
        checkpoints.write(temporary, state, checkpoints.record_of(state, task, profile, note=f"from {path.name}"))
    return state, folder


def _with_new_head(
    network: Network, runs: Runs, task: Task, profile: Profile, progress: Progress
) -> tuple[CompressionState, Path]:
    """A given network whose head was drawn anew, trained by the profile's recipe; kept like every baseline."""
    begun = records.sha256_data([baseline_key(task, profile), state_key(network)])
    folder = runs.baseline(begun)
    if checkpoints.is_checkpoint(folder):
        return _own_baseline(folder, task, profile, progress), folder
    return train_baseline(folder, task, profile, progress, network), folder


def _check_finite(network: nn.Module, path: Path) -> None:
    for name, value in network.state_dict().items():
        if not torch.isfinite(value).all():
            raise UsageError(f"{path}: '{name}' holds values that are not finite numbers; give a network that is well")
        if name.endswith("running_var") and (value < 0).any():
            raise UsageError(
                f"{path}: '{name}' holds negative variances: the file is damaged; give a network that is well"
            )


def _with_model_of(record: Record, options: Options, profile: Profile) -> Profile:
    """A checkpoint folder knows its model: it need not be named again."""
    if options.model is not None:
        return profile
    given: dict[str, Any] = {"model": record.model.located, "width": record.model.width}
    if options.data is None:
        theirs = record.settings()
        images = {**theirs.images.model_dump(mode="json"), **preprocessing.given_keys(profile)}
        given |= {"data": theirs.data, "images": images}
    return profiles.override(profile, given)


def _control_score(session: Session, n_epochs: int, progress: Progress) -> float:
    profile, task = session.profile, session.task
    recipe = [profile.finetune.model_dump(), profile.seed, *_seen(task, profile)]
    key = records.sha256_data([session.baseline.key, *recipe])
    path = session.baseline_folder / f"control-{n_epochs}-{key[:12]}.json"
    if path.is_file():
        return records.read(ControlScore, path).test_score
    with progress.bar(f"control: the FP32 baseline, {n_epochs} epochs more") as bar:
        state = control(session.baseline, n_epochs, task, profile, epoch_report(bar, task.metric))
    score = evaluation.evaluate(state.network, task, task.data.test).score
    try:
        records.write_json(path, ControlScore(n_epochs, score, task.metric.name))
    except NacdeployError as error:  # a user's own checkpoint may lie where nothing can be written
        progress.say(f"the control's score is not kept for the next time: {error}")
    return score
