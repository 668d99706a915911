"""Verifying an artifact: its files against their hashes, its engines against a second build."""

from dataclasses import dataclass
from pathlib import Path

from nacdeploy import records
from nacdeploy.errors import NacdeployError, UsageError
from nacdeploy.exporters import artifact, trt, trt_build
from nacdeploy.exporters.artifact import Manifest
from nacdeploy.exporters.trt_build import BuildRecord, Comparison
from nacdeploy.progress import Progress, Silent


@dataclass(frozen=True)
class Unbuilt:
    """An engine that could not be built again here, and why."""

    capability: str
    why: str


@dataclass(frozen=True)
class Verified:
    """What was found: the number of files whose hash is right, the engines that were built again, those that could
    not be, and for each builder what was measured to repeat."""

    artifact: str
    n_files: int
    engines: tuple[Comparison, ...]
    unbuilt: tuple[Unbuilt, ...]
    repeats: dict[str, str]


def verify(path: Path | str, progress: Progress | None = None) -> Verified:
    """Check every file of an artifact and build each of its engines again.

    Raises:
        UsageError: `path` is no artifact, or the record of a build is malformed.
        NacdeployError: a file is missing or damaged.
    """
    folder, progress = Path(path), progress or Silent()
    manifest, _ = artifact.load(folder)
    progress.say(f"{len(manifest.files)} files as their hashes say")
    engines, unbuilt = [], []
    for capability, file in manifest.engines.items():
        try:
            record = _record(manifest, capability, folder)
            again = _again(folder, manifest, record)
        except UsageError:
            raise
        except NacdeployError as error:
            unbuilt.append(Unbuilt(capability, str(error)))
            continue
        engines.append(trt_build.compare(capability, (folder / file).read_bytes(), again))
        progress.say(f"engine {capability} built again: {engines[-1].said}")
    builders = {str(build.get("builder")) for build in manifest.builds.values()}
    repeats = {name: said for name, said in trt_build.REPEATS.items() if name in builders}
    return Verified(str(folder), len(manifest.files), tuple(engines), tuple(unbuilt), repeats)


def _record(manifest: Manifest, capability: str, folder: Path) -> BuildRecord:
    if capability not in manifest.builds:
        raise NacdeployError("the artifact holds no record of its build; export it again")
    return records.from_data(BuildRecord, manifest.builds[capability], where=f"the build of {capability} in {folder}")


def _again(folder: Path, manifest: Manifest, record: BuildRecord) -> bytes:
    graph = folder / (trt.FP16_FILE if trt.FP16_FILE in manifest.files else manifest.model_file)
    cache = trt.cache_file(record.capability)
    timing_cache = (folder / cache).read_bytes() if cache in manifest.files else b""
    return trt_build.rebuild(record, graph.read_bytes(), timing_cache)
