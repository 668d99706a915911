"""One engine from the record of its build, the first time and again."""

import hashlib
from dataclasses import dataclass, field, replace

import onnx

from nacdeploy.base.errors import NacdeployError
from nacdeploy.exporters.artifacts.origin import torch_layer
from nacdeploy.exporters.targets import gpu
from nacdeploy.exporters.targets.runtime import Comparison
from nacdeploy.exporters.targets.tensorrt import api as trt_api
from nacdeploy.exporters.targets.tensorrt import plan as trt_plan
from nacdeploy.exporters.targets.tensorrt.api import (
    Api,
    Builder,
    IBuilderConfig,
    INetworkDefinition,
    OnnxParser,
    ParserError,
    Trt,
)

# The findings of repeated builds of one graph; `nacdeploy verify` prints them.
REPEATS = {
    "tensorrt_rtx": (
        "measured with TensorRT-RTX 1.7.1 without a GPU, FP16 rest: DeiT-tiny repeats byte for byte; ResNet8 and "
        "ResNet34 mostly repeat but for the numbers of internal tensors; MobileNetV2 does not repeat (the scalars of "
        "its dynamic shapes change places)"
    ),
    "tensorrt": "TensorRT picks kernels by timing, and the timing cache holds its picks; whether bytes repeat with it "
    "was not measured: that takes a GPU",
}
_NO_CACHE = "none: TensorRT-RTX builds without timing, and a timing cache would need a GPU"


@dataclass(frozen=True)
class BuildRecord:
    """All inputs of an engine's build; with the graph and the timing cache they are all that `rebuild` needs.

    `flags` are names of `BuilderFlag`. `input_shape` is (C, H, W), of the first input; `more_inputs` are the shapes of
    further ones by name. `timing_cache_sha256` is the hash of the cache after
    the build; if it is None, `timing_cache` says why. `seed` is the run's: builders take none.
    """

    builder: str
    version: str
    capability: str
    flags: tuple[str, ...]
    input_name: str
    input_shape: tuple[int, ...]
    min_batch: int
    max_batch: int
    workspace_mib: int
    float_type: str
    io_type: str
    graph_sha256: str
    timing_cache_sha256: str | None = None
    timing_cache: str = ""
    seed: int | None = None
    more_inputs: dict[str, tuple[int, ...]] = field(default_factory=dict)


def build(
    api: Api, record: BuildRecord, graph: bytes, timing_cache: bytes = b""
) -> tuple[bytes, BuildRecord, bytes | None]:
    """Return the serialised engine, its record with the hash of the timing cache, and that cache (None: there is none).

    Raises:
        NacdeployError: the parser rejects the graph, or the builder cannot build.
    """
    trt: Trt = api.trt
    builder = trt.Builder(api.logger)
    network = _network(builder, trt)
    _parse(api, trt.OnnxParser(network, api.logger), graph)
    config = _config(builder, trt, record)
    if api.builds_ahead:
        _choose_capability(config, trt, record.capability)
    else:
        _use_timing_cache(config, timing_cache)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise NacdeployError(f"{api.title} cannot build for {record.capability}: {api.last_error()}")
    if api.builds_ahead:
        return bytes(plan), replace(record, timing_cache=_NO_CACHE), None
    cache = _timing_cache(config)
    return bytes(plan), replace(record, timing_cache_sha256=hashlib.sha256(cache).hexdigest()), cache


def rebuild(record: BuildRecord, graph: bytes, timing_cache: bytes = b"") -> bytes:
    """Build the engine of a record once more.

    Raises:
        NacdeployError: the graph or the timing cache is another one, or the builder is not here in this version.
    """
    _check_hash("graph", graph, record.graph_sha256, record)
    if record.timing_cache_sha256 is not None:
        _check_hash("timing cache", timing_cache, record.timing_cache_sha256, record)
    api = trt_api.load(record.builder)
    if api.version != record.version:
        raise NacdeployError(
            f"the engine for {record.capability} was built by {record.builder} {record.version}, and {api.version} is "
            "installed: install that version, or export again"
        )
    if not api.builds_ahead and gpu.require_gpu(f"building for {record.capability} again") != record.capability:
        raise NacdeployError(f"{api.title} builds for the GPU it runs on, which is no {record.capability}")
    return build(api, record, graph, timing_cache)[0]


def compare(capability: str, plan: bytes, again: bytes) -> Comparison:
    """Compare two builds of one engine, without running them."""
    if plan == again:
        return Comparison(capability, True, True, "bytes equal")
    if trt_plan.canonical(plan) == trt_plan.canonical(again):
        return Comparison(capability, False, True, "bytes differ in the numbers of internal tensors: the same program")
    said = f"bytes differ ({len(plan)} and {len(again)} bytes): outputs can only be compared on a GPU"
    return Comparison(capability, False, False, said)


def _network(builder: Builder, trt: Trt) -> INetworkDefinition:
    """Make a strongly typed network: TensorRT 11 has no other, TensorRT 10 needs a flag."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return builder.create_network(0 if flag is None else 1 << int(flag))


def _parse(api: Api, parser: OnnxParser, graph: bytes) -> None:
    """Read the graph into the parser's network; the error names a rejected node and the torch layer that made it."""
    if parser.parse(graph):
        return
    if parser.num_errors == 0:
        raise NacdeployError(f"{api.title} cannot parse the graph: {api.last_error()}")
    raise NacdeployError(f"{api.title} rejects {_rejected(parser.get_error(0), graph)}")


def _rejected(error: ParserError, graph: bytes) -> str:
    model = onnx.load_model_from_string(graph)
    named = [node for node in model.graph.node if node.name == error.node_name()]
    index = error.node()
    node = named[0] if named else model.graph.node[index] if 0 <= index < len(model.graph.node) else None
    origin = f", {torch_layer(model, node)}" if node is not None else ""
    name, kind = (error.node_name(), error.node_operator()) if node is None else (node.name, node.op_type)
    return f"node '{name}' ({kind}){origin}: {' '.join(error.desc().split())}"


def _config(builder: Builder, trt: Trt, record: BuildRecord) -> IBuilderConfig:
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, record.workspace_mib << 20)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    for flag in record.flags:
        config.set_flag(getattr(trt.BuilderFlag, flag))
    batches = builder.create_optimization_profile()
    for name, shape in {record.input_name: record.input_shape, **record.more_inputs}.items():
        smallest, largest = ((n, *shape) for n in (record.min_batch, record.max_batch))
        batches.set_shape(name, smallest, smallest, largest)
    config.add_optimization_profile(batches)
    return config


def _choose_capability(config: IBuilderConfig, trt: Trt, capability: str) -> None:
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, capability), 0)


def _use_timing_cache(config: IBuilderConfig, timing_cache: bytes) -> None:
    cache = config.create_timing_cache(timing_cache)
    config.set_timing_cache(cache, ignore_mismatch=False)


def _timing_cache(config: IBuilderConfig) -> bytes:
    cache = config.get_timing_cache()
    return bytes(cache.serialize())


def _check_hash(what: str, content: bytes, expected: str, record: BuildRecord) -> None:
    if hashlib.sha256(content).hexdigest() != expected:
        raise NacdeployError(f"the {what} is not the one that the engine for {record.capability} was built with")
