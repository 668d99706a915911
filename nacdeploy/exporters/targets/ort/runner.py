"""OnnxRunner: a model in ONNX Runtime, on the CPU or by one of its GPU providers."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as failures

from nacdeploy.base.errors import NacdeployError
from nacdeploy.base.latency import Subject
from nacdeploy.exporters.targets import Optimization, gpu
from nacdeploy.exporters.targets.ort.binding import Binding

Provider = Literal["CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"]
Given = NDArray[Any] | Mapping[str, NDArray[Any]]
OPTIMIZED = "optimized.onnx"

_DTYPES: dict[str, Any] = {
    f"tensor({name})": np.dtype({"float": "float32", "double": "float64"}.get(name, name))
    for name in ("float", "float16", "double", "bool", "int8", "uint8", "int16", "int32", "int64")
}
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
    """One session on one provider.

    On a GPU it runs on a torch stream with bound buffers, so that CUDA events see its work; `cuda_graph` records it.
    ONNX Runtime lists GPU providers on machines without a GPU and falls back silently: both are refused here. With
    `trace`, a folder, the session writes the graph that really runs there as `optimized.onnx`, and records the time of
    every node until `end_trace`.

    Raises:
        NacdeployError: the model is missing, damaged or not supported, or the provider does not work here.
    """

    def __init__(
        self,
        model: Path | bytes,
        *,
        threads: int = 1,
        optimization: Optimization = "all",
        providers: Provider = "CPUExecutionProvider",
        cuda_graph: bool = False,
        trace: Path | None = None,
    ) -> None:
        where = "the ONNX model" if isinstance(model, bytes) else str(model)
        self._stream = None if providers == "CPUExecutionProvider" else _stream(providers)
        try:
            self._session = onnxruntime.InferenceSession(
                model if isinstance(model, bytes) else str(model),
                _options(threads, optimization, trace),
                providers=[(providers, _provider_options(providers, self._stream, cuda_graph))],
            )
        except _FAILURES as error:
            raise NacdeployError(f"ONNX Runtime cannot load {where}: {_one_line(error)}") from error
        if self._session.get_providers()[0] != providers:
            raise NacdeployError(
                f"ONNX Runtime cannot use {providers} here (its CUDA or TensorRT libraries are missing) and would run "
                "on the CPU: install onnxruntime-gpu's own versions of them"
            )
        self._types = {each.name: _DTYPES.get(each.type, np.float32) for each in self._session.get_inputs()}
        self.input_name: str = next(iter(self._types))
        self.output_names: tuple[str, ...] = tuple(output.name for output in self._session.get_outputs())

    def run(self, images: Given) -> list[NDArray[Any]]:
        """Return all outputs for images (N, C, H, W), or for several inputs by name, which are converted to the types
        that the model takes.

        Raises:
            NacdeployError: the images do not have the shape that the model takes.
        """
        if isinstance(images, Mapping):
            return self.run_feeds({k: np.ascontiguousarray(x, dtype=self._types.get(k)) for k, x in images.items()})
        images = np.ascontiguousarray(images, dtype=self._types[self.input_name])
        if self._stream is None:
            return self.run_feeds({self.input_name: images})
        with _failing_in_one_line([images]):
            return self._run_bound(self.bound(images.shape), images)

    def run_feeds(self, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Return all outputs for named inputs of the types that the model takes, on the CPU.

        Raises:
            NacdeployError: an input does not have the shape or type that the model takes.
        """
        with _failing_in_one_line(feeds.values()):
            return list(self._session.run(None, dict(feeds)))

    def bound(self, shape: tuple[int, ...]) -> Binding:
        """Return buffers for images of a shape, on the provider's device."""
        return Binding(self._session, shape, "cpu" if self._stream is None else "cuda")

    def subject(self, images: Given) -> Subject:
        """Return the call to be timed: from array to arrays, and on a GPU also the device alone on images in its
        memory, unless there are several inputs."""
        if self._stream is None or isinstance(images, Mapping):
            return Subject(partial(self.run, images))
        binding = self.bound(images.shape)
        self._run_bound(binding, images)
        return Subject(partial(self._run_bound, binding, images), partial(gpu.event_ms, binding.enqueue, self._stream))

    def end_trace(self) -> Path:
        """Stop recording; return the file of events (Chrome's trace format)."""
        return Path(self._session.end_profiling())

    def _run_bound(self, binding: Binding, images: NDArray[Any]) -> list[NDArray[Any]]:
        import torch

        with torch.cuda.stream(self._stream):
            binding.load(images)
            binding.enqueue()
            return binding.read()


def version() -> str:
    """Return the runtime by name and version."""
    return f"ONNX Runtime {onnxruntime.__version__}"


@contextmanager
def _failing_in_one_line(arrays: Iterable[NDArray[Any]]) -> Iterator[None]:
    try:
        yield
    except _FAILURES as error:
        shapes = ", ".join(str(array.shape) for array in arrays)
        raise NacdeployError(f"ONNX Runtime cannot run images of shape {shapes}: {_one_line(error)}") from error


def _stream(provider: str) -> Any:
    gpu.require_gpu(f"ONNX Runtime's {provider}")
    import torch

    return torch.cuda.Stream()


def _provider_options(provider: Provider, stream: Any, cuda_graph: bool) -> dict[str, str]:
    if provider == "CPUExecutionProvider":
        return {}
    shared = {"device_id": "0", "user_compute_stream": str(stream.cuda_stream)}
    if provider == "CUDAExecutionProvider":
        return {**shared, "enable_cuda_graph": str(int(cuda_graph))}
    types = {"trt_fp16_enable": "1", "trt_int8_enable": "1"}
    return {**shared, **types, "trt_cuda_graph_enable": str(int(cuda_graph))}


def _options(threads: int, optimization: Optimization, trace: Path | None = None) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = _LEVELS[optimization]
    options.log_severity_level = 3
    if trace is not None:
        options.optimized_model_filepath = str(trace / OPTIMIZED)
        options.enable_profiling = True
        options.profile_file_prefix = str(trace / "events")
    # Spinning threads of one session take the cores of the next: several sessions live side by side in a benchmark.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if optimization == "basic":
        # What other runtimes never see: without this even the basic level rounds float biases to the integers that its
        # own kernels want, steps of the input's scale times the weight's.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    return options


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
