"""Which runner an artifact gets: by what it was exported for, and by the device that is here."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nacdeploy.exporters.artifact import IR_FILES, Manifest
from nacdeploy.exporters.targets import gpu
from nacdeploy.exporters.targets.openvino import runner as openvino
from nacdeploy.exporters.targets.openvino.runner import OpenVinoRunner
from nacdeploy.exporters.targets.ort.runner import OnnxRunner
from nacdeploy.exporters.targets.runtime import Runner
from nacdeploy.exporters.targets.tensorrt import build as trt
from nacdeploy.exporters.targets.tensorrt.api import BuilderName
from nacdeploy.exporters.targets.tensorrt.runner import TrtRunner
from nacdeploy.profile.deployment import ExportTable

ENGINE_TARGETS = ("trt", "trt-rtx")
_ON_CPU = "ONNX Runtime, CPUExecutionProvider, all graph optimisations"


@dataclass(frozen=True)
class Picked:
    """A runner, the runtime that it stands for, and what a reader of its times must know ("" for nothing)."""

    runner: Runner
    runtime: str
    note: str = ""


def runs_engines(manifests: Iterable[Manifest]) -> bool:
    """Whether these artifacts are compared on the GPU: there is one, and one of them holds engines."""
    return any(manifest.engines for manifest in manifests) and gpu.present_capability() is not None


def pick(folder: Path, manifest: Manifest, *, threads: int, on_gpu: bool, cuda_graph: bool = False) -> Picked:
    """The runner of an artifact.

    On a GPU: its engine for that GPU; for the uncompressed original an FP16 engine, built here, since FP16 is what
    INT8 has to beat there; for graphs that are not TensorRT's, ONNX Runtime's CUDA provider. Else ONNX Runtime on the
    CPU. OpenVINO's own on the CPU in any case.

    Raises:
        MissingExtraError: OpenVINO is needed and not installed.
        NacdeployError: the engine is of another version, or ONNX Runtime cannot use the GPU.
    """
    if manifest.target == "openvino":
        return Picked(OpenVinoRunner(folder / IR_FILES[0], threads=threads), f"{openvino.version()}, CPU")
    model = folder / manifest.model_file
    if not on_gpu:
        note = "the ONNX graph in ONNX Runtime; the engines' speed is measured on a GPU" if manifest.engines else ""
        return Picked(OnnxRunner(model, threads=threads), _ON_CPU, note)
    capability = gpu.require_gpu("running an engine")
    if capability in manifest.engines:
        plan = (folder / manifest.engines[capability]).read_bytes()
        engine = TrtRunner(plan, built_by=manifest.builder, cuda_graph=cuda_graph)
        return Picked(engine, f"{manifest.builder} engine, {capability}")
    if manifest.engines or not manifest.chain:
        shape = tuple(int(size) for size in manifest.inputs[0].shape[1:])
        return engine_here(model.read_bytes(), manifest.inputs[0].name, shape, cuda_graph=cuda_graph)
    runner = OnnxRunner(model, providers="CUDAExecutionProvider", cuda_graph=cuda_graph)
    return Picked(runner, "ONNX Runtime, CUDAExecutionProvider")


def engine_here(
    onnx_model: bytes,
    input_name: str,
    input_shape: tuple[int, ...],
    *,
    table: ExportTable | None = None,
    builder: BuilderName = "auto",
    cuda_graph: bool = False,
) -> Picked:
    """An engine with an FP16 rest, built now for the GPU here. `input_shape` is (C, H, W).

    Raises:
        NacdeployError: there is no GPU, no builder, or the graph is not for TensorRT.
    """
    capability = gpu.require_gpu("running an engine")
    wanted = (table or ExportTable()).model_copy(update={"compute_capabilities": (capability,), "float_type": "fp16"})
    built = trt.build_engines(onnx_model, wanted, input_name, input_shape, builder=builder, log=lambda line: None)
    runner = TrtRunner(built.files[capability], built_by=built.builder, cuda_graph=cuda_graph)
    return Picked(runner, f"{built.builder} engine, {capability}, built for this run, float rest in FP16")


def speed_note(target: str, capabilities: tuple[str, ...]) -> str:
    """Where a speed is measured, where that is not on the target itself ("" where it is)."""
    missing = missing_gpu(target, capabilities)
    measured = "speed is measured in ONNX Runtime on the CPU, which may rank otherwise than the target"
    return f"{measured}: {missing}" if missing else ""


def missing_gpu(target: str, capabilities: tuple[str, ...]) -> str:
    """Why a target cannot be timed here, for want of its GPU ("" where it can)."""
    present = gpu.present_capability()
    if target not in ENGINE_TARGETS or present in capabilities:
        return ""
    return f"there is no {' or '.join(capabilities)} here" if present is None else f"the GPU here is {present}"
