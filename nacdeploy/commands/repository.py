"""A model repository for a Triton server: an artifact as the server takes it."""

from collections.abc import Callable
from pathlib import Path

from nacdeploy import profile as profiles
from nacdeploy.base.errors import UsageError, unknown
from nacdeploy.base.progress import Progress
from nacdeploy.exporters.artifacts import artifact
from nacdeploy.exporters.triton import repository as repositories
from nacdeploy.exporters.triton.configuration import BACKENDS, ONNX_RUNTIME, OPENVINO, PYTHON, TENSORRT, Served
from nacdeploy.profile.tables.deployment import ExportTable
from nacdeploy.sessions.runs import Runs
from nacdeploy.strategies.steps import checkpoint as checkpoints

TRITON = "triton"
# The target of the artifact that a backend serves.
_TARGETS = {PYTHON: "ort", ONNX_RUNTIME: "onnx", OPENVINO: "openvino", TENSORRT: "trt"}


def backend_of(target: str | None) -> str | None:
    """Return the backend of `triton` or `triton:BACKEND`; None for every other target.

    >>> backend_of("triton"), backend_of("triton:tensorrt"), backend_of("ort")
    ('python', 'tensorrt', None)

    Raises:
        UsageError: there is no such backend.
    """
    name, _, backend = (target or "").partition(":")
    if name != TRITON:
        return None
    if backend not in ("", *BACKENDS):
        raise unknown("backend of Triton", backend, BACKENDS)
    return backend or PYTHON


def repository(
    backend: str,
    source: Path,
    out: Path | str | None,
    profile: str | None,
    home: Runs,
    exported: Callable[[str], Path],
    progress: Progress,
) -> Path:
    """Write the model repository of a checkpoint, or of an artifact, and return its folder.

    Args:
        exported: makes the artifact of the checkpoint for a target.

    Raises:
        UsageError: the backend does not serve this artifact.
    """
    with home.place(out, "export-triton") as place:
        is_made = not artifact.is_artifact(source)
        folder = exported(_TARGETS[backend]) if is_made else source
        served = _served(backend, folder, _table(source, profile))
        names = repositories.write(folder, place, served)
    if is_made:
        progress.say(f"the artifact that it serves: {folder}")
    progress.say(f"models: {', '.join(names)}; ask for {names[0]}")
    return place


def _served(backend: str, folder: Path, table: ExportTable) -> Served:
    manifest, _ = artifact.load(folder)
    threads = manifest.data.bench.threads if manifest.data is not None else 1
    return Served(backend, table.max_batch, table.queue_delay_us, table.instances, threads)


def _table(source: Path, profile: str | None) -> ExportTable:
    """Return the settings of the export: a profile's, those of the checkpoint, or the defaults."""
    if profile is not None:
        return profiles.load(profile).export
    if artifact.is_artifact(source):
        return ExportTable()
    return checkpoints.read_record(source).settings().export


def listed(folder: Path) -> list[str]:
    """Return the names of the models of a repository, the first to be asked; none if `folder` is no repository."""
    found = sorted((each.parent.name for each in folder.glob("*/config.pbtxt")), key=lambda name: (len(name), name))
    if not found and not artifact.is_artifact(folder):
        raise UsageError(f"{folder} is neither an artifact nor a model repository")
    return found
