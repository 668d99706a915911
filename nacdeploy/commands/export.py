"""Making a checkpoint deployable."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from nacdeploy import models
from nacdeploy import profile as profiles
from nacdeploy.base import folders, records, tracking
from nacdeploy.base.errors import UsageError
from nacdeploy.base.outside import own
from nacdeploy.base.progress import Progress, default
from nacdeploy.base.tracking import download
from nacdeploy.commands import repository as repositories
from nacdeploy.exporters import carry, mlflow_model, targets
from nacdeploy.exporters import export as exporting
from nacdeploy.exporters.artifacts import artifact
from nacdeploy.exporters.artifacts.artifact import DataSource
from nacdeploy.exporters.describe import Context
from nacdeploy.models import pretrained
from nacdeploy.network.network import Network
from nacdeploy.results import lineage
from nacdeploy.results.outcome import checkpoint_folder
from nacdeploy.sessions import measured
from nacdeploy.sessions.runs import Runs
from nacdeploy.sessions.session import task_of
from nacdeploy.strategies.state import plain_key
from nacdeploy.strategies.steps import checkpoint as checkpoints
from nacdeploy.task.answers import answered


def export(
    *,
    target: str | None = None,
    source: Path | str | None = None,
    out: Path | str | None = None,
    profile: str | None = None,
    autotune: bool = False,
    guard: bool | None = None,
    precision: Path | str | None = None,
    model: str | None = None,
    task: Any = None,
    runs: Path | str = "runs",
    wandb: bool = True,
    mlflow: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Make a checkpoint deployable and return the folder of the artifact.

        >>> import nacdeploy
        >>> nacdeploy.export(source="runs/transfer-QEF-1", target="onnx", out="artifact").name
        'artifact'

    `triton` and `triton:BACKEND` write a model repository of a Triton server; its `source` may be an artifact.

    Args:
        autotune: measure which precision is fastest for each group of layers and use that; the measurements are kept
            under `runs` and used again.
        guard: tune only where the network in integers is slower than in float; by default as the profile says.
        precision: an artifact or its precision.json, whose precisions replace the measurement.
        source: a result or checkpoint folder, or `wandb:entity/project/name:alias`, which is downloaded first; by
            default the result finished last.
        task: the task whose network it is, if it is not at hand.
        model: the file of the network. A file that only the checkpoint names does not run until the user names it here.

    Raises:
        UsageError: unknown target, no such checkpoint, both `autotune` and `precision`.
        NacdeployError: the exported graph does not agree with the torch model, or the builder rejects it.
    """
    progress, home = progress or default(), Runs(Path(runs))
    if download.is_remote(source):
        source = download.fetched(str(source), home.root / "downloads")
        progress.say(f"downloaded to {source}; its records are somebody else's until 'nacdeploy trust'")
    models.name_by_user(model, task)
    if autotune and precision is not None:
        raise UsageError("precision is either measured (--autotune) or taken from elsewhere (--precision): give one")
    if (backend := repositories.backend_of(target)) is not None:
        again = partial(export, source=source, profile=profile, autotune=autotune, guard=guard, precision=precision)
        made = partial(again, model=model, task=task, runs=runs, wandb=wandb, mlflow=mlflow, progress=progress)
        return repositories.repository(
            backend, _served(source, home), out, profile, home, lambda inner: made(target=inner), progress
        )
    given = carry.read(Path(precision)) if precision is not None else None
    folder = checkpoint_folder(Path(source) if source is not None else home.last())
    state, record = checkpoints.load(folder)
    settings = record.settings()
    if profile is not None:
        wanted = profiles.load(profile)
        settings = settings.model_copy(update={"export": wanted.export, "target": wanted.target})
    if guard is not None:
        settings = settings.model_copy(update={"export": settings.export.model_copy(update={"guard": guard})})
    chosen = targets.parse(target) if target else settings.target
    chosen.check_io(settings.export.io_type)
    if state.network.quantizers:
        settings = measured.exact_here(settings, chosen, progress)
    measurements = home.measurements(state.key, settings, chosen)
    with home.place(out, f"export-{chosen.name}") as place:
        original = _original(record, folder) if state.steps else None
        tuning = exporting.Tuning(autotune, measurements, original, given)
        float_network = original or state.network
        task = answered(task_of(record), float_network, plain_key(float_network))
        context = _context(record, folder)
        path = exporting.export(state, task, settings, chosen, place, context, progress, tuning)
    own.note(path / artifact.MANIFEST)
    _track(path, record, folder, lineage.sinks(home.root, wandb=wandb, mlflow=mlflow), home, progress)
    return path


def _track(
    path: Path, record: checkpoints.Record, source: Path, sinks: tracking.Sinks, home: Runs, progress: Progress
) -> None:
    manifest, _ = artifact.load(path)
    config = {"target": manifest.target, "chain": manifest.chain}
    tracker = tracking.open_tracker(home.root / "tracking", sinks, project="nacdeploy", config=config, say=progress.say)
    tracker.artifact(lineage.of_artifact(path, record, source, manifest.target, mlflow_model.served(manifest)))
    tracker.close()


def _served(source: Path | str | None, home: Runs) -> Path:
    """Return the artifact or checkpoint that a server is to serve."""
    folder = Path(source) if source is not None else home.last()
    return folder if artifact.is_artifact(folder) else checkpoint_folder(folder)


def _original(record: checkpoints.Record, folder: Path) -> Network | None:
    """Return the FP32 network that a compressed checkpoint came from, where it is still there."""
    baseline = checkpoints.baseline_folder(record, folder)
    if baseline is None:
        return None
    state, _ = checkpoints.load(baseline)
    return state.network


@contextmanager
def exported_baseline(manifest: artifact.Manifest, path: Path, progress: Progress) -> Iterator[Path]:
    """Yield the FP32 artifact of the network behind an artifact: beside the network's checkpoint, or for this block
    only if somebody else's artifact would write outside its own folder."""
    named, record = str(manifest.baseline.get("checkpoint")), path / artifact.MANIFEST
    home = path.absolute().parent
    folder = checkpoints.named_folder(named, record, [home])
    if folder is None:
        raise UsageError(
            f"the FP32 checkpoint of this artifact ({named[:200]}) is gone, or lies where somebody else's artifact "
            f"does not lead; give an FP32 artifact with --baseline, or 'nacdeploy trust {path}'"
        )
    place = folder / "onnx"
    if artifact.is_artifact(place):
        yield place
    elif own.is_inside(folder, [home]) or own.is_own(record):
        yield _export_float(folder, place, progress)
    else:
        with folders.scratch() as temporary:
            yield _export_float(folder, temporary / "onnx", progress)


def _export_float(folder: Path, place: Path, progress: Progress) -> Path:
    state, record = checkpoints.load(folder)
    context = _context(record, folder)
    reference = targets.parse(targets.REFERENCE)
    task = answered(task_of(record), state.network, plain_key(state.network))
    return exporting.export(state, task, record.settings(), reference, place, context, progress)


def _context(record: checkpoints.Record, folder: Path) -> Context:
    baseline = {"checkpoint": record.baseline_checkpoint or str(folder), "test": record.test}
    data = {**record.data, "images": record.profile["images"], "bench": record.profile["bench"]}
    steps = records.from_data(tuple[checkpoints.StepRecord, ...], record.steps, where=f"the steps of {folder}")
    source = records.from_data(DataSource, data, where=f"the data of {folder}")
    return Context(steps, records.to_data(record.model), source, baseline, _license(record, folder))


def _license(record: checkpoints.Record, folder: Path) -> str:
    """Return what a library says of its weights, where the network did not begin from values drawn here."""
    baseline = folder if not record.chain else checkpoints.baseline_folder(record, folder)
    was_given = baseline is not None and checkpoints.read_record(baseline).note.startswith("from ")
    return pretrained.license_of(record.model.name) if was_given else ""
