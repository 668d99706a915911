"""What target openvino can do: convert the graph to an IR, run and time it here."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from nacdeploy.base.errors import NacdeployError
from nacdeploy.exporters.artifacts.artifact import Manifest
from nacdeploy.exporters.targets.openvino import IR_FILES, probe, runner
from nacdeploy.exporters.targets.openvino.runner import OpenVinoRunner
from nacdeploy.exporters.targets.ort.probe import channel_multiple
from nacdeploy.exporters.targets.runtime import Built, Comparison, Picked, Runtime, Source
from nacdeploy.profile.tables.deployment import ExportTable

_REPEATS = "measured with OpenVINO 2026.4.1: conversions of one graph repeat byte for byte"


def _check(table: ExportTable) -> None:
    runner.package()


def _built(source: Source) -> Built:
    ir = runner.ir_from_onnx(source.graph)
    return Built(runner.version(), dict(zip(IR_FILES, (ir.xml, ir.weights), strict=True)))


def _picked(folder: Path, manifest: Manifest, threads: int) -> Picked:
    return Picked(OpenVinoRunner(folder / IR_FILES[0], threads=threads), f"{runner.version()}, CPU")


def _again(folder: Path, manifest: Manifest) -> Comparison:
    """The IR against another conversion of the graph.

    Raises:
        NacdeployError: OpenVINO, or the version that converted it, is not installed.
    """
    if runner.version() != manifest.builder:
        raise NacdeployError(f"converted by {manifest.builder}, and {runner.version()} is installed: export again")
    ir = runner.ir_from_onnx((folder / manifest.model_file).read_bytes())
    is_equal = [(folder / name).read_bytes() for name in IR_FILES] == [ir.xml, ir.weights]
    return Comparison("openvino", is_equal, is_equal, "bytes equal" if is_equal else "bytes differ")


def _rebuilt(folder: Path, manifest: Manifest) -> dict[str, Callable[[], Comparison]]:
    return {"openvino": partial(_again, folder, manifest)}


def _multiples() -> Mapping[str, int]:
    return channel_multiple(OpenVinoRunner).by_precision


RUNTIME = Runtime(
    version=runner.version,
    open=OpenVinoRunner,
    picked=_picked,
    check=_check,
    n_builds=lambda table: 1,
    build=_built,
    rebuilt=_rebuilt,
    repeats=lambda manifest: {"openvino": _REPEATS},
    best_grid=probe.best_grid,
    multiples=_multiples,
)
