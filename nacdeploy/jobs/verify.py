"""Verifying an artifact: its files against their hashes, its engines or OpenVINO's IR against a second build."""

from dataclasses import dataclass
from pathlib import Path

from nacdeploy import records
from nacdeploy.errors import NacdeployError, UsageError
from nacdeploy.exporters import artifact
from nacdeploy.exporters.artifact import IR_FILES, Manifest
from nacdeploy.exporters.targets.openvino import runner as openvino
from nacdeploy.exporters.targets.tensorrt import build as trt
from nacdeploy.exporters.targets.tensorrt import engine as trt_build
from nacdeploy.exporters.targets.tensorrt.engine import BuildRecord, Comparison
from nacdeploy.progress import Progress, Silent

_IR_REPEATS = "measured with OpenVINO 2026.4.1: conversions of one graph repeat byte for byte"


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
    if manifest.target == "openvino":
        try:
            engines.append(_ir_again(folder, manifest))
        except NacdeployError as error:
            unbuilt.append(Unbuilt("openvino", str(error)))
    builders = {str(build.get("builder")) for build in manifest.builds.values()}
    repeats = {name: said for name, said in trt_build.REPEATS.items() if name in builders}
    if manifest.target == "openvino":
        repeats["openvino"] = _IR_REPEATS
    return Verified(str(folder), len(manifest.files), tuple(engines), tuple(unbuilt), repeats)


def _ir_again(folder: Path, manifest: Manifest) -> Comparison:
    """The IR against another conversion of the graph.

    Raises:
        NacdeployError: OpenVINO, or the version that converted it, is not installed.
    """
    if openvino.version() != manifest.builder:
        raise NacdeployError(f"converted by {manifest.builder}, and {openvino.version()} is installed: export again")
    ir = openvino.ir_from_onnx((folder / manifest.model_file).read_bytes())
    is_equal = [(folder / name).read_bytes() for name in IR_FILES] == [ir.xml, ir.weights]
    return Comparison("openvino", is_equal, is_equal, "bytes equal" if is_equal else "bytes differ")


def _record(manifest: Manifest, capability: str, folder: Path) -> BuildRecord:
    if capability not in manifest.builds:
        raise NacdeployError("the artifact holds no record of its build; export it again")
    return records.from_data(BuildRecord, manifest.builds[capability], where=f"the build of {capability} in {folder}")


def _again(folder: Path, manifest: Manifest, record: BuildRecord) -> bytes:
    graph = folder / (trt.FP16_FILE if trt.FP16_FILE in manifest.files else manifest.model_file)
    cache = trt.cache_file(record.capability)
    timing_cache = (folder / cache).read_bytes() if cache in manifest.files else b""
    return trt_build.rebuild(record, graph.read_bytes(), timing_cache)
