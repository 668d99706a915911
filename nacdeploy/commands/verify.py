"""Verifying an artifact: its files against their hashes, what was built from its graph against a second build."""

from dataclasses import dataclass
from pathlib import Path

from nacdeploy.base.errors import NacdeployError, UsageError
from nacdeploy.base.outside import onnx_files
from nacdeploy.base.progress import Progress, default
from nacdeploy.exporters import targets
from nacdeploy.exporters.artifacts import artifact
from nacdeploy.exporters.targets.runtime import Comparison, runtime_of


@dataclass(frozen=True)
class Unbuilt:
    """An engine that could not be built again here, and why."""

    capability: str
    why: str


@dataclass(frozen=True)
class Verified:
    """The findings: the number of files with the right hash, the engines built again, those that could not be, and
    for each builder how far second builds were measured to repeat."""

    artifact: str
    n_files: int
    engines: tuple[Comparison, ...]
    unbuilt: tuple[Unbuilt, ...]
    repeats: dict[str, str]


def verify(path: Path | str, progress: Progress | None = None) -> Verified:
    """Check every file of an artifact and build each of its engines again.

    Raises:
        UsageError: `path` is no artifact, or the record of a build is malformed.
        NacdeployError: a file is missing or damaged, or the graph takes values from a file without a hash.
    """
    folder, progress = Path(path), progress or default()
    manifest, _ = artifact.load(folder)
    onnx_files.content_of(folder / manifest.model_file)
    progress.say(f"{len(manifest.files)} files as their hashes say")
    runtime = runtime_of(targets.parse(manifest.target))
    engines, unbuilt = [], []
    for name, compare in runtime.rebuilt(folder, manifest).items():
        try:
            engines.append(compare())
        except UsageError:
            raise
        except NacdeployError as error:
            unbuilt.append(Unbuilt(name, str(error)))
            continue
        progress.say(f"engine {name} built again: {engines[-1].said}")
    repeats = dict(runtime.repeats(manifest))
    return Verified(str(folder), len(manifest.files), tuple(engines), tuple(unbuilt), repeats)
