"""One graph in memory on the CPU: ONNX in ONNX Runtime, or OpenVINO's IR."""

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

Run = Callable[[dict[str, Any]], dict[str, Any]]


def opened(file: Path, outputs: Sequence[str], threads: int) -> Run:
    """Return a function from inputs to outputs, arrays by name."""
    return _in_openvino(file, outputs, threads) if file.suffix == ".xml" else _in_onnx_runtime(file, outputs, threads)


def _in_onnx_runtime(file: Path, outputs: Sequence[str], threads: int) -> Run:
    runtime = import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # other models share these cores
    session = runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    names = list(outputs)
    return lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))


def _in_openvino(file: Path, outputs: Sequence[str], threads: int) -> Run:
    hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    model = import_module("openvino").Core().compile_model(file, "CPU", hints)

    def run(inputs: dict[str, Any]) -> dict[str, Any]:
        found = model(inputs)
        return {name: found[name].copy() for name in outputs}

    return run
