"""The choice of a runner for an artifact: by the artifact's target, and by the device that is here."""

from collections.abc import Iterable
from pathlib import Path

from nacdeploy.base.outside import onnx_files
from nacdeploy.exporters import targets
from nacdeploy.exporters.artifacts.artifact import Manifest
from nacdeploy.exporters.targets import gpu
from nacdeploy.exporters.targets.ort.runner import OnnxRunner
from nacdeploy.exporters.targets.runtime import Picked, Runtime, runtime_of
from nacdeploy.profile.tables.deployment import ExportTable

_ON_CPU = "ONNX Runtime, CPUExecutionProvider, all graph optimisations"


def gpu_host(manifests: Iterable[Manifest]) -> Runtime | None:
    """Return the runtime on whose GPU these artifacts are compared, or None if they are compared on the CPU.

    There must be a GPU, and one of the artifacts must hold engines for it.
    """
    if gpu.present_capability() is None:
        return None
    runtimes = (runtime_of(targets.parse(manifest.target)) for manifest in manifests if manifest.engines)
    return next((runtime for runtime in runtimes if runtime.on_gpu is not None), None)


def pick(
    folder: Path, manifest: Manifest, *, threads: int, host: Runtime | None = None, cuda_graph: bool = False
) -> Picked:
    """Return the runner of an artifact.

    The first that works: its own runtime if it runs on every CPU, the runner of `host` on its GPU, ONNX Runtime on the
    CPU.

    Raises:
        UsageError: the package of its target is not installed.
        MissingExtraError: its runtime is not installed.
        NacdeployError: an engine is of another version, or ONNX Runtime cannot use the GPU.
    """
    own = runtime_of(targets.parse(manifest.target))
    model = folder / manifest.model_file
    if own.picked is not None:
        return own.picked(folder, manifest, threads)
    if own.open is not None:
        return Picked(own.open(onnx_files.content_of(model), threads=threads), f"{own.version()}, CPU")
    if host is not None and host.on_gpu is not None:
        return host.on_gpu(folder, manifest, cuda_graph)
    note = "the ONNX graph in ONNX Runtime; the engines' speed is measured on a GPU" if manifest.engines else ""
    return Picked(OnnxRunner(onnx_files.content_of(model), threads=threads), _ON_CPU, note)


def speed_note(runtime: Runtime, table: ExportTable) -> str:
    """Say where a speed is measured, or "" if on the target itself."""
    missing = runtime.missing(table)
    measured = "speed is measured in ONNX Runtime on the CPU, which may rank otherwise than the target"
    return f"{measured}: {missing}" if missing else ""
