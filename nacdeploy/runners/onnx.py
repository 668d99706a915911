"""OnnxRunner: a model in ONNX Runtime on the CPU."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as failures

from nacdeploy.errors import NacdeployError

Optimization = Literal["all", "basic", "disabled"]

_LEVELS = {
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "disabled": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
# ONNX Runtime's exceptions share no base class but Exception.
_FAILURES = (
    failures.EPFail,
    failures.EngineError,
    failures.Fail,
    failures.InvalidArgument,
    failures.InvalidGraph,
    failures.InvalidProtobuf,
    failures.NoModel,
    failures.NoSuchFile,
    failures.NotImplemented,
    failures.RuntimeException,
)


class OnnxRunner:
    """One session on the CPU provider.

    Raises:
        NacdeployError: the model is missing, damaged or not supported.
    """

    def __init__(self, model: Path | bytes, *, threads: int = 1, optimization: Optimization = "all") -> None:
        where = "the ONNX model" if isinstance(model, bytes) else str(model)
        try:
            self._session = onnxruntime.InferenceSession(
                model if isinstance(model, bytes) else str(model),
                _options(threads, optimization),
                providers=["CPUExecutionProvider"],
            )
        except _FAILURES as error:
            raise NacdeployError(f"ONNX Runtime cannot load {where}: {_one_line(error)}") from error
        self.input_name: str = self._session.get_inputs()[0].name
        self.output_names: tuple[str, ...] = tuple(output.name for output in self._session.get_outputs())

    def run(self, images: NDArray[Any]) -> list[NDArray[Any]]:
        """All outputs for images (N, C, H, W), which are passed as float32.

        Raises:
            NacdeployError: the images do not have the shape that the model takes.
        """
        return self.run_feeds({self.input_name: np.ascontiguousarray(images, dtype=np.float32)})

    def run_feeds(self, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """All outputs for named inputs of the types that the model takes.

        Raises:
            NacdeployError: an input does not have the shape or type that the model takes.
        """
        try:
            return list(self._session.run(None, dict(feeds)))
        except _FAILURES as error:
            shapes = ", ".join(str(value.shape) for value in feeds.values())
            raise NacdeployError(f"ONNX Runtime cannot run images of shape {shapes}: {_one_line(error)}") from error


def _options(threads: int, optimization: Optimization) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = _LEVELS[optimization]
    options.log_severity_level = 3
    # Spinning threads of one session take the cores of the next: several sessions live side by side in a benchmark.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
