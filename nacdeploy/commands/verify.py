"""Verifying an artifact, a folder or its tar: its files against their hashes, what was built from its graph against a
second build."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from nacdeploy.base import folders, records
from nacdeploy.base.errors import NacdeployError, UsageError
from nacdeploy.base.outside import onnx_files
from nacdeploy.base.progress import Progress, default
from nacdeploy.exporters import targets
from nacdeploy.exporters.artifacts import artifact, tar
from nacdeploy.exporters.artifacts.artifact import Manifest
from nacdeploy.exporters.exits import deployed
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

    A tar is unpacked into a temporary folder, which goes with the call.

    Raises:
        UsageError: `path` is no artifact and no tar of one, or the record of a build is malformed.
        NacdeployError: a file is missing or damaged, or the graph takes values from a file without a hash.
    """
    path, progress = Path(path), progress or default()
    if not records.is_file(path):
        return _verified(path, checked(path), progress)
    with folders.scratch() as folder, _named_by(path, folder):
        root = tar.unpack(path, folder)
        manifest = checked(root)
        tar.check_complete(folder, root, manifest, path)
        return replace(_verified(root, manifest, progress), artifact=str(path))


def checked(folder: Path) -> Manifest:
    """Return the manifest of an artifact whose files are as their hashes say, and whose graph is a sound one.

    Raises:
        UsageError: it is no artifact, or its graph takes values from a file without a hash.
        NacdeployError: a file is missing or damaged.
    """
    manifest, _ = artifact.load(folder)
    onnx_files.content_of(folder / manifest.model_file)
    for name in manifest.cascade.graphs if manifest.cascade else ():
        onnx_files.content_of(folder / name)
    return manifest


def _verified(folder: Path, manifest: Manifest, progress: Progress) -> Verified:
    """Build the engines of a checked artifact again."""
    progress.say(f"{len(manifest.files)} files as their hashes say")
    runtime = runtime_of(targets.parse(manifest.target))
    engines, unbuilt = [], []
    builds = dict(runtime.rebuilt(folder, manifest))
    for place, part in deployed.segments_of(folder, manifest):
        where = place.relative_to(folder)
        builds |= {f"{where}: {name}": compare for name, compare in runtime.rebuilt(place, part).items()}
    for name, compare in builds.items():
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


@contextmanager
def _named_by(path: Path, folder: Path) -> Iterator[None]:
    """Let errors about files in a temporary folder name the tar that they came from."""
    try:
        yield
    except UsageError as error:
        raise UsageError(str(error).replace(str(folder), str(path))) from error
    except NacdeployError as error:
        raise NacdeployError(str(error).replace(str(folder), str(path))) from error
