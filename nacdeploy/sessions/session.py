"""The common start of commands (settings, task, baseline) and their common end (test scores)."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nacdeploy import metrics
from nacdeploy import task as tasks
from nacdeploy.base import folders, records
from nacdeploy.base.errors import NacdeployError, UsageError
from nacdeploy.base.progress import Progress
from nacdeploy.exporters import imported
from nacdeploy.latencies.clock import TableClock
from nacdeploy.metrics import DEFAULT, Metric, scored
from nacdeploy.models import ModelSpec
from nacdeploy.models.from_onnx import OnnxModule
from nacdeploy.models.ports import unported
from nacdeploy.profile import Profile
from nacdeploy.profile.settings import Settings
from nacdeploy.sessions import preprocessing
from nacdeploy.sessions.runs import Runs
from nacdeploy.sessions.setup import Request, Setup, settled
from nacdeploy.strategies.baseline import Fitting, Teacher, control, initial_state, plain_network, train_network
from nacdeploy.strategies.memory.shelves import Shelves
from nacdeploy.strategies.operators.finetune.settings import FinetuneTable
from nacdeploy.strategies.operators.prune.settings import PruneTable
from nacdeploy.strategies.state import CompressionState, plain_key, state_key
from nacdeploy.strategies.steps import checkpoint as checkpoints
from nacdeploy.strategies.steps import processes
from nacdeploy.strategies.steps.checkpoint import Record
from nacdeploy.task import Task
from nacdeploy.task import evaluate as evaluation
from nacdeploy.task.answers import answered
from nacdeploy.task.distillation import Distillation
from nacdeploy.task.training import Report

_CLEARLY = 0.05  # of a score: an untrained network is about as good as no network


@dataclass(frozen=True)
class Session:
    """The settings in force, their task, the baseline state and the folder of its checkpoint, and where trainings under
    way are kept."""

    settings: Settings
    task: Task
    baseline: CompressionState
    baseline_folder: Path
    shelves: Shelves | None = None

    @property
    def profile(self) -> Profile:
        """The values in force."""
        return self.settings.profile


@scored
@dataclass(frozen=True)
class ControlScore:
    """control-*.json beside a baseline: its score on the test split after `n_epochs` more."""

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
        """The loss, in the metric's own unit."""
        is_control_better = metrics.is_better(self.scored_by, self.control, self.baseline)
        best = self.control if is_control_better else self.baseline
        return metrics.drop(self.scored_by, best, self.compressed)


def open_session(request: Request, progress: Progress) -> Session:
    """Open the settings of a request and their baseline.

    The baseline is the user's checkpoint, or was trained before with these settings, or is trained now.

    Raises:
        NacdeployError: a name is unknown, data are missing, or the checkpoint does not fit.
    """
    setup, runs, path = settled(request, progress), Runs(Path(request.options["runs"])), request.options["checkpoint"]
    task, profile = setup.task, setup.profile
    shelves = shelves_of(runs, profile, progress)
    if path is not None:
        new_head = request.options["new_head"]
        baseline, folder, task = _given_baseline(Path(path), new_head, setup, runs, shelves, progress)
        for line in (setup.normalised, *preprocessing.given_lines(baseline, task.data, profile.model, path)):
            progress.say(line)
    elif task.is_own:
        progress.say(setup.normalised)
        _check_finite(setup.network, task.spec.name)
        _check_read(setup, progress)
        baseline, folder, task = _kept_baseline(setup, runs, f"the network of {task.spec.name}")
        _check_direction(baseline, task)
        for line in preprocessing.given_lines(baseline, task.data, profile.model, "the task"):
            progress.say(line)
    else:
        progress.say(setup.normalised)
        folder = runs.baseline(_baseline_key(task, profile))
        baseline = _own_baseline(folder, setup, shelves, progress)
    return Session(setup.settings, timed(task, profile, runs.latencies), baseline, folder, shelves)


def shelves_of(runs: Runs, profile: Profile, progress: Progress) -> Shelves:
    """Return where a command keeps its trainings under way."""
    return Shelves(runs.unfinished, int(profile.search.cache_gib * 2**30), progress.say)


def timed(task: Task, profile: Profile, root: Path) -> Task:
    """Return the task with a clock for letters that work against time; nothing is timed before one asks."""
    carried = profile.of(PruneTable).latency_table
    return replace(task, clock=TableClock(task, profile, root, None if carried is None else Path(carried)))


def member(
    session: Session,
    spec: ModelSpec,
    n_epochs: int,
    runs: Runs,
    progress: Progress,
    taught: Distillation | None = None,
) -> Session:
    """Return a session of the same settings with another network, trained for so many epochs, or trained so before; if
    `taught`, by the session's own network."""
    settings = session.settings.over(
        ("another network", {"model": spec.name, "width": spec.width, "train": {"epochs": n_epochs}})
    )
    task, profile = replace(session.task, spec=spec), settings.profile
    setup = Setup(settings, task, plain_network(task, profile), "")
    key = _baseline_key(task, profile)
    teacher = None if taught is None else Teacher(session.baseline.network, taught)
    if taught is not None:
        key = records.sha256_data([key, session.baseline.key, taught.weight, taught.temperature])
    folder = runs.baseline(key)
    shelves = session.shelves or shelves_of(runs, profile, progress)
    baseline = _own_baseline(folder, setup, shelves, progress, teacher)
    return Session(settings, timed(task, profile, runs.latencies), baseline, folder, shelves)


def _baseline_key(task: Task, profile: Profile) -> str:
    """Return the hash of all that a trained baseline depends on."""
    recipe = profile.train.model_dump(mode="json")
    spec, data = task.spec.content, _seen(task, profile)
    return records.sha256_data({"model": spec, "data": data, "seed": profile.seed, "recipe": recipe})


def _seen(task: Task, profile: Profile) -> list[Any]:
    """Return the normalised images and labels, and the metric. Their own statistics follow from them: keys stay
    unchanged."""
    data, images = task.data, profile.images
    is_own = all(scale in (None, "data") for scale in (images.mean, images.std))
    trained_for = [] if task.metric.name == DEFAULT else [task.metric.name, task.metric.version]
    return [
        data.fingerprint,
        data.augment,
        *([] if is_own else [data.mean, data.std]),
        *data.as_taken.items(),
        *trained_for,
    ]


def train_baseline(
    folder: Path, setup: Setup, shelves: Shelves, progress: Progress, teacher: Teacher | None = None
) -> CompressionState:
    """Train the FP32 network by the recipe of the settings, from its first or given values, and write its
    checkpoint."""
    network, task, profile = setup.network, setup.task, setup.profile
    with progress.bar(f"training the baseline {task.spec.name} on {task.data.name}") as bar:
        report = epoch_report(bar, task.metric)
        unfinished = shelves.of_network(network, task, profile.train, profile.seed, teacher)
        how = profile.train, profile.seed, report, teacher, unfinished
        fit = train_network(network, task, *how, *([] if teacher else [_fitting(profile)]))
    state = initial_state(network, task)
    progress.say(
        f"trained the baseline {task.spec.name} on {task.data.name} for {fit.n_epochs} epochs: "
        f"{metrics.shown(task.metric, state.metrics.score)} on validation -> {folder}"
    )
    with folders.joined_directory(folder) as temporary:
        checkpoints.write(temporary, state, checkpoints.record_of(state, task, profile))
    unfinished.drop()
    return state


def test_scores(session: Session, state: CompressionState, n_epochs: int, progress: Progress) -> Scores:
    """Score baseline, control and compressed network on the test split; `n_epochs` are those of the compressed one
    beyond the baseline's own."""
    task = session.task
    baseline = evaluation.evaluate(session.baseline.network, task, task.data.test).score
    is_taught = task.data.answered_by or not getattr(task.metric, "trains", True)  # a network is no worse than itself
    control_score = _control_score(session, n_epochs, progress) if n_epochs and not is_taught else baseline
    compressed = evaluation.evaluate(state.network, task, task.data.test).score
    return Scores(baseline, control_score, n_epochs, compressed, len(task.data.test), task.metric.name)


def epoch_report(bar: Any, metric: Metric, title: str = "epoch") -> Report:
    """Show epochs on a bar."""

    def report(epoch: int, n_epochs: int, score: float) -> None:
        bar.update(epoch, n_epochs, f"{title} {epoch}: {metrics.shown(metric, score)} on validation")

    return report


def task_of(record: Record) -> Task:
    """Return the task of a checkpoint.

    Raises:
        UsageError: the data differ from the checkpoint's.
    """
    profile = record.settings()
    located = record.model.located
    task = tasks.make(located, located if profile.data == record.model.name else profile.data, profile)
    if task.data.fingerprint != record.data.get("fingerprint"):
        raise UsageError(f"the data set '{profile.data}' has changed since the checkpoint was made; give it unchanged")
    return task


def _own_baseline(
    folder: Path, setup: Setup, shelves: Shelves, progress: Progress, teacher: Teacher | None = None
) -> CompressionState:
    if checkpoints.is_checkpoint(folder):
        state, _ = checkpoints.load(folder)
        state.network.set_grid(setup.network.grid)
        progress.say(f"baseline from {folder}: {metrics.shown(setup.task.metric, state.metrics.score)} on validation")
        return state
    folders.check_writable(folder)
    return train_baseline(folder, setup, shelves, progress, teacher)


def _given_baseline(
    path: Path, new_head: bool, setup: Setup, runs: Runs, shelves: Shelves, progress: Progress
) -> tuple[CompressionState, Path, Task]:
    """Return the user's network, its folder and the task, with the network's answers where there are no labels.

    A plain state dict is written as a checkpoint folder, so that later commands find it; so is the checkpoint of a file
    that has changed since.
    """
    network, task, profile = setup.network, setup.task, setup.profile
    if checkpoints.is_checkpoint(path):
        record = checkpoints.read_record(path)
        if record.chain:
            raise UsageError(f"{path} is compressed already ('{record.chain}'); --checkpoint takes the FP32 network")
        values = checkpoints.read_values(path / checkpoints.VALUES, record.values_sha256)
        checkpoints.fill(network, values, str(path))
        _check_finite(network, path)
        if record.model.source_sha256 != task.spec.source_sha256:  # later commands could not build it from there
            progress.say(f"{path} was trained by another version of {task.spec.name}; its weights fit this one too")
            return _kept_baseline(setup, runs, f"from {path.name}")
        task = answered(task, network, plain_key(network))
        return initial_state(network, task), path, task
    found = checkpoints.load_plain(path, network.backbone, new_head=new_head)
    _check_finite(network, path)
    for note in found.notes:
        progress.say(f"{path}: {note}")
    if found.new_head:  # trained by the recipe, and kept like every baseline
        folder = runs.baseline(records.sha256_data([_baseline_key(task, profile), state_key(network)]))
        return _own_baseline(folder, setup, shelves, progress), folder, task
    return _kept_baseline(setup, runs, f"from {path.name}")


def _kept_baseline(setup: Setup, runs: Runs, note: str) -> tuple[CompressionState, Path, Task]:
    """Write a network as it is as a checkpoint folder, so that later commands find it."""
    profile, network = setup.profile, setup.network
    task = answered(setup.task, network, plain_key(network))
    state = initial_state(network, task)
    folder = runs.baseline(records.sha256_data([state.key, *_seen(task, profile)]))
    with folders.joined_directory(folder) as temporary:
        checkpoints.write(temporary, state, checkpoints.record_of(state, task, profile, note=note))
    return state, folder, task


def _check_read(setup: Setup, progress: Progress) -> None:
    """Check that a network which was read from an ONNX file answers as the file.

    Raises:
        NacdeployError: it does not.
    """
    backbone, spec = setup.network.backbone, setup.task.spec
    if isinstance(backbone, OnnxModule) and spec.ports is not None:
        whole = unported(backbone)
        assert isinstance(whole, OnnxModule)
        assert setup.task.original is not None
        progress.say(imported.check(setup.task.original, whole, spec.ports, setup.task.data.validation.images[:3]))


def _check_direction(baseline: CompressionState, task: Task) -> None:
    """Refuse a network of one's own that is worse than answers of zeros: its metric has the wrong direction, or it is
    not trained.

    Raises:
        UsageError: it is worse.
    """
    metric, found = task.metric, baseline.metrics
    is_clear = abs(found.chance - found.score) > _CLEARLY * max(abs(found.chance), abs(found.score))
    if is_clear and isinstance(metric, metrics.Custom) and metrics.is_better(metric, found.chance, found.score):
        other = "lower" if metric.higher_is_better else "higher"
        raise UsageError(
            f"by metric '{metric.title}' the network ({metrics.shown(metric, found.score)}) is worse than answers that "
            f"are zero everywhere ({metrics.shown(metric, found.chance)}): say Measure(lower_is_better=) if {other} is "
            "better, or train it first: nacdeploy train --task"
        )


def _check_finite(network: nn.Module, path: Path | str) -> None:
    for name, value in network.state_dict().items():
        if not torch.isfinite(value).all():
            raise UsageError(f"{path}: '{name}' holds values that are not finite numbers; give a network that is well")
        if name.endswith("running_var") and (value < 0).any():
            raise UsageError(
                f"{path}: '{name}' holds negative variances: the file is damaged; give a network that is well"
            )


def _fitting(profile: Profile) -> Fitting:
    """Return how a network that is no letter's is trained: by as many processes as its recipe says."""
    return partial(processes.fit, place=processes.Place(profile))


def _control_score(session: Session, n_epochs: int, progress: Progress) -> float:
    profile, task = session.profile, session.task
    recipe = [profile.of(FinetuneTable).model_dump(), profile.seed, *_seen(task, profile)]
    key = records.sha256_data([session.baseline.key, *recipe])
    path = session.baseline_folder / f"control-{n_epochs}-{key[:12]}.json"
    if path.is_file():
        return records.read(ControlScore, path).test_score
    with progress.bar(f"control: the FP32 baseline, {n_epochs} epochs more") as bar:
        keep = None if session.shelves is None else session.shelves.of_network
        report = epoch_report(bar, task.metric)
        state = control(session.baseline, n_epochs, task, profile, report, keep, _fitting(profile))
    score = evaluation.evaluate(state.network, task, task.data.test).score
    try:
        records.write_json(path, ControlScore(n_epochs, score, task.metric.name))
    except NacdeployError as error:  # a user's own checkpoint may lie where nothing can be written
        progress.say(f"the control's score is not kept for the next time: {error}")
    return score
