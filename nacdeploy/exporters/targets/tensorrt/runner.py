"""TrtRunner: an engine on the GPU, in TensorRT or TensorRT-RTX, with torch's CUDA tensors as its buffers."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nacdeploy.base.errors import NacdeployError
from nacdeploy.base.latency import Subject
from nacdeploy.exporters.targets import gpu
from nacdeploy.exporters.targets.ort.runner import Given
from nacdeploy.exporters.targets.tensorrt import api as trt_api
from nacdeploy.exporters.targets.tensorrt.api import Api, EngineInspector, ICudaEngine, IExecutionContext, Runtime, Trt


class TrtRunner:
    """One engine with one execution context and one stream.

    `built_by` is the manifest's "tensorrt_rtx 1.7.1.116"; without it the builder that comes first here is tried.
    With `cuda_graph` a call replays a recorded graph: TensorRT-RTX records it itself, for TensorRT torch does.

    Raises:
        NacdeployError: another version built the engine, there is no GPU, or the engine cannot be loaded.
    """

    def __init__(self, plan: bytes, *, built_by: str | None = None, cuda_graph: bool = False) -> None:
        self._api = _api_for(built_by)
        gpu.require_gpu("running an engine")
        import torch

        self._torch, self._cuda_graph = torch, cuda_graph
        self._stream = torch.cuda.Stream()
        trt: Trt = self._api.trt
        self._runtime = trt.Runtime(self._api.logger)  # it must outlive the engine
        engine = _engine(self._api, self._runtime, plan)
        self._engine = engine
        self._context = _context(engine, trt, self._api, cuda_graph)
        self.input_name, self.output_names = _names(engine, trt)
        self._buffers: dict[str, Any] = {}
        self._graph: Any = None

    @property
    def max_batch(self) -> int:
        engine: ICudaEngine = self._engine
        largest = engine.get_tensor_profile_shape(self.input_name, 0)[2]
        return int(largest[0])

    def run(self, images: Given) -> list[NDArray[Any]]:
        """Return all outputs for images (N, C, H, W), in parts of at most `max_batch`, copies to and from the GPU
        included.

        Raises:
            NacdeployError: there are several inputs.
        """
        images = _only(images)
        parts = [self._run(images[i : i + self.max_batch]) for i in range(0, len(images), self.max_batch)]
        return [np.concatenate(column) for column in zip(*parts, strict=True)]

    def subject(self, images: Given) -> Subject:
        """Return the call to be timed: end to end with the copies, and the device alone on images in its memory."""
        one = _only(images)
        self._run(one)
        return Subject(lambda: self._run(one), lambda: gpu.event_ms(self._enqueue, self._stream))

    def inspect(self) -> str:
        """Return the inspector's JSON of every layer, for the shapes of the last run."""
        engine: ICudaEngine = self._engine
        inspector: EngineInspector = engine.create_engine_inspector()
        inspector.execution_context = self._context
        trt: Trt = self._api.trt
        return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))

    def _run(self, images: NDArray[Any]) -> list[NDArray[Any]]:
        torch = self._torch
        with torch.cuda.stream(self._stream):
            self._prepare(tuple(images.shape))
            held = self._buffers[self.input_name]
            held.copy_(torch.from_numpy(np.ascontiguousarray(images)).to(held.dtype))
            self._enqueue()
            outputs = [_whole(self._buffers[name]).cpu() for name in self.output_names]
        self._stream.synchronize()
        return [output.numpy() for output in outputs]

    def _prepare(self, shape: tuple[int, ...]) -> None:
        """Make buffers for images of a shape; a recorded graph holds the old addresses, so it is dropped with them."""
        if self._buffers and tuple(self._buffers[self.input_name].shape) == shape:
            return
        context: IExecutionContext = self._context
        if not context.set_input_shape(self.input_name, shape):
            raise NacdeployError(f"the engine does not take images of shape {shape}: {self._api.last_error()}")
        self._graph = None
        for name in (self.input_name, *self.output_names):
            dtype = self._dtype(name)
            buffer = self._torch.empty(tuple(context.get_tensor_shape(name)), dtype=dtype, device="cuda")
            self._buffers[name] = buffer
            context.set_tensor_address(name, buffer.data_ptr())
        if self._cuda_graph and not self._api.builds_ahead:
            self._record()

    def _dtype(self, name: str) -> Any:
        engine: ICudaEngine = self._engine
        trt: Trt = self._api.trt
        types = {
            trt.DataType.FLOAT: self._torch.float32,
            trt.DataType.HALF: self._torch.float16,
            trt.DataType.INT8: self._torch.int8,
        }
        return types[engine.get_tensor_dtype(name)]

    def _record(self) -> None:
        """Record one call as a CUDA graph; a call before it does the set-up that a recording may not contain."""
        self._execute()
        self._stream.synchronize()
        graph = self._torch.cuda.CUDAGraph()
        with self._torch.cuda.graph(graph, stream=self._stream):
            self._execute()
        self._graph = graph

    def _enqueue(self) -> None:
        with self._torch.cuda.stream(self._stream):
            self._execute() if self._graph is None else self._graph.replay()

    def _execute(self) -> None:
        context: IExecutionContext = self._context
        if not context.execute_async_v3(self._stream.cuda_stream):
            raise NacdeployError(f"{self._api.title} cannot run the engine: {self._api.last_error()}")


def _whole(buffer: Any) -> Any:
    """Return floats in single precision; integers, which go on to another engine, as they are."""
    return buffer.float() if buffer.is_floating_point() else buffer


def _only(images: Given) -> NDArray[Any]:
    if isinstance(images, Mapping):
        raise NacdeployError("engines are run with one input here; this network has several: run it by your own code")
    return images


def _api_for(built_by: str | None) -> Api:
    name, _, version = (built_by or "auto").partition(" ")
    api = trt_api.load(name)
    if version and version != api.version:
        raise NacdeployError(
            f"the engine was built by {name} {version}, and {api.version} is installed, which does not run it: "
            f"export again here, or install {name} {version}"
        )
    return api


def _engine(api: Api, runtime: Runtime, plan: bytes) -> ICudaEngine:
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise NacdeployError(f"{api.title} {api.version} cannot load the engine: {api.last_error()}; export it again")
    return engine


def _context(engine: ICudaEngine, trt: Trt, api: Api, cuda_graph: bool) -> IExecutionContext:
    context = _rtx_context(engine, trt, cuda_graph) if api.builds_ahead else engine.create_execution_context()
    if context is None:
        raise NacdeployError(f"{api.title} cannot run the engine here: {api.last_error()}")
    return context


def _rtx_context(engine: ICudaEngine, trt: Trt, cuda_graph: bool) -> IExecutionContext:
    """Make a context that compiles kernels for the shapes at hand at once, not beside the timed calls."""
    config = engine.create_runtime_config()
    strategies = trt.DynamicShapesKernelSpecializationStrategy
    config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
    if cuda_graph:
        config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    return engine.create_execution_context(runtime_config=config)


def _names(engine: ICudaEngine, trt: Trt) -> tuple[str, tuple[str, ...]]:
    """Return the one input and the outputs, in the engine's order."""
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    return inputs[0], tuple(name for name in names if name not in inputs)
