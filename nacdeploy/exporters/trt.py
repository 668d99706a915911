"""TensorRT engines from an ONNX graph with explicit Q/DQ, by TensorRT proper or by TensorRT-RTX.

TensorRT-RTX builds for the compute capabilities it is told, without a GPU. TensorRT proper builds for the GPU it runs
on. In both, networks are strongly typed: what the graph holds in float runs in that float.
"""

import importlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import onnx

from nacdeploy.errors import MissingExtraError, NacdeployError, UsageError, unknown
from nacdeploy.exporters.artifact import Lowering
from nacdeploy.exporters.onnx_checks import unsigned_nodes
from nacdeploy.profile import ExportTable

Log = Callable[[str], None]

_BY_RTX = ("SM75", "SM80", "SM86", "SM89", "SM120", "SM121")
_BY_TENSORRT_ONLY = ("SM87", "SM90")
_TENSOR = re.compile(rb"\s*(?:sub_)?tensor=\{.*? name=\"([^\"]+)\"")
_TYPE = re.compile(rb" type=(\w+) \}$")
_OPERATION = re.compile(rb"\s*\w+=\{ name=\"([^\"]+)\" output=\{[^}]*\} input=\{([^}]*)\}")
_QUOTED = re.compile(rb"\"([^\"]+)\"")
_TYPES = {b"int8": "int8", b"half": "float16", b"float": "float32"}
_NAMES = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}


@dataclass(frozen=True)
class Engines:
    """Serialised engines by compute capability ("SM89"), and the builder with its version.

    `layers` holds the type that each engine computes each ONNX node in, as far as `layer_types` can read it.
    """

    builder: str
    files: dict[str, bytes]
    layers: dict[str, dict[str, str]]
    notes: tuple[str, ...] = ()


def available_builder() -> str:
    """The module that builds engines here: "tensorrt" where it imports, else "tensorrt_rtx".

    Raises:
        MissingExtraError: neither is installed.
    """
    for name in _NAMES:
        try:
            importlib.import_module(name)
        except (ImportError, OSError):  # OSError: the bindings are there, NVIDIA's libraries are not
            continue
        return name
    raise MissingExtraError("tensorrt", "trt", "building TensorRT engines")


def build_engines(
    onnx_model: bytes, table: ExportTable, input_name: str, input_shape: tuple[int, ...], *, log: Log
) -> Engines:
    """Build one engine per compute capability of the table for batches from 1 to `table.max_batch`.

    `input_shape` is that of one image, (C, H, W).

    Raises:
        UsageError: an unknown capability, or one that does not go with `table.float_type`.
        NacdeployError: the builder cannot build for a capability, or rejects the graph.
    """
    builder = available_builder()
    trt = importlib.import_module(builder)
    capabilities, notes = _capabilities(builder, table)
    model = onnx.load_model_from_string(onnx_model)
    check_signed(model)
    if table.float_type == "fp16":
        model = fp16_rest(model)
        notes += ("float layers and scales are FP16 in the engines, FP32 in the ONNX file",)
    graph, files = model.SerializeToString(), {}
    for capability in capabilities:
        files[capability] = _Build(trt, builder).engine(graph, table, input_name, input_shape, capability)
        log(f"{_NAMES[builder]} engine for {capability}: {len(files[capability])} bytes")
    layers = {capability: layer_types(plan) for capability, plan in files.items()}
    return Engines(f"{builder} {trt.__version__}", files, layers, notes)


def layer_types(plan: bytes) -> dict[str, str]:
    """The type of the operands of each multiplication in an engine, by ONNX node name: "int8", "float16", "float32".

    TensorRT-RTX writes its compiled program as text into the engine, and nothing else of an engine is readable without
    a GPU. The form of this text is not documented: a node that is not in the result is unknown, not float.
    """
    types: dict[bytes, bytes] = {}
    nodes: dict[str, str] = {}
    for line in plan.split(b"\n"):
        if (tensor := _TENSOR.match(line)) and (kind := _TYPE.search(line)):
            same = types.setdefault(tensor[1], kind[1]) == kind[1]
            types[tensor[1]] = kind[1] if same else b""
        elif operation := _OPERATION.match(line):
            operands = {types.get(name, b"") for name in _QUOTED.findall(operation[2])[:2]}
            if len(operands) == 1 and (known := _TYPES.get(operands.pop())):
                nodes[operation[1].decode(errors="replace")] = known
    return nodes


def engine_notes(rows: Iterable[Lowering], engines: Engines) -> tuple[str, ...]:
    """One note per engine that computes layers in float which the ONNX graph holds in INT8."""
    int8, notes = [row for row in rows if row.held == "int8"], []
    for capability, types in engines.layers.items():
        found = {row.layer: types[row.node] for row in int8 if types.get(row.node, "int8") != "int8"}
        if found:
            kinds, layers = "/".join(sorted(set(found.values()))), ", ".join(found)
            notes.append(f"{capability}: {len(found)} of {len(int8)} INT8 layers are computed in {kinds} ({layers})")
    return tuple(notes)


def fp16_rest(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of the graph with its float tensors in FP16, scales included; inputs and outputs stay FP32."""
    import onnx_ir
    from onnxruntime.transformers.float16 import convert_float_to_float16

    converted = convert_float_to_float16(model, keep_io_types=True)
    # The converter appends its casts at the end, which is no valid order of nodes.
    sortable = onnx_ir.serde.deserialize_model(converted)
    sortable.graph.sort()
    return onnx_ir.serde.serialize_model(sortable)


def check_signed(model: onnx.ModelProto) -> None:
    """Refuse unsigned quantisation: the parser reads UINT8 as INT8 with a mere warning, and the engine clips at 127.

    Raises:
        NacdeployError: naming the first unsigned node.
    """
    for name in unsigned_nodes(model):
        raise NacdeployError(
            f"node '{name}' quantises to UINT8, which TensorRT reads as INT8 with wrong values; "
            "export with signed activations (target = 'trt')"
        )


def _capabilities(builder: str, table: ExportTable) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The capabilities to build for, and what to note about them."""
    for name in table.compute_capabilities:
        if name not in _BY_RTX + _BY_TENSORRT_ONLY:
            raise unknown("compute capability", name, _BY_RTX + _BY_TENSORRT_ONLY)
    if builder == "tensorrt":
        return _present(table.compute_capabilities)
    for name in table.compute_capabilities:
        if name in _BY_TENSORRT_ONLY:
            raise NacdeployError(
                f"TensorRT-RTX does not build for {name}: install TensorRT proper: pip install 'nacdeploy[trt]'"
            )
    if "SM75" in table.compute_capabilities and table.float_type == "fp32":
        raise UsageError(
            "TensorRT-RTX has no FP32 matrix multiplication for SM75: set export.float_type = 'fp16' or leave SM75 out"
        )
    return table.compute_capabilities, ()


def _present(asked: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    import torch

    if not torch.cuda.is_available():
        raise NacdeployError("TensorRT builds for the GPU it runs on, and there is none: export on the target machine")
    major, minor = torch.cuda.get_device_capability()
    present = f"SM{major}{minor}"
    others = [name for name in asked if name != present]
    note = f"built for {present}, the GPU present; TensorRT cannot build for {', '.join(others)} here"
    return (present,), (note,) if others else ()


class _Build:
    """One build in either module. It owns the logger, which must outlive the builder's objects."""

    def __init__(self, trt: Any, name: str) -> None:
        self._trt, self._name = trt, _NAMES[name]
        self._for_capabilities = name == "tensorrt_rtx"
        self._logger = _logger_class(trt)()

    def engine(
        self, graph: bytes, table: ExportTable, input_name: str, input_shape: tuple[int, ...], capability: str
    ) -> bytes:
        builder = self._trt.Builder(self._logger)
        network = self._parsed(builder, graph)
        config = builder.create_builder_config()
        config.set_memory_pool_limit(self._trt.MemoryPoolType.WORKSPACE, table.workspace_mib << 20)
        if self._for_capabilities:
            config.num_compute_capabilities = 1
            config.set_compute_capability(getattr(self._trt.ComputeCapability, capability), 0)
        batches = builder.create_optimization_profile()
        batches.set_shape(input_name, (1, *input_shape), (1, *input_shape), (table.max_batch, *input_shape))
        config.add_optimization_profile(batches)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise NacdeployError(f"{self._name} cannot build for {capability}: {self._last_error()}")
        return bytes(plan)

    def _parsed(self, builder: Any, graph: bytes) -> Any:
        strongly_typed = getattr(self._trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        network = builder.create_network(0 if strongly_typed is None else 1 << int(strongly_typed))
        parser = self._trt.OnnxParser(network, self._logger)
        if parser.parse(graph):
            return network
        if parser.num_errors == 0:
            raise NacdeployError(f"{self._name} cannot parse the graph: {self._last_error()}")
        error = parser.get_error(0)
        where = f"node '{error.node_name()}' ({error.node_operator()})"
        raise NacdeployError(f"{self._name} rejects {where}: {' '.join(error.desc().split())}")

    def _last_error(self) -> str:
        errors = self._logger.errors
        return " ".join(errors[-1].split()) if errors else "it gives no reason"


@cache
def _logger_class(trt: Any) -> Any:
    """A logger that prints nothing and keeps the error lines, as a subclass that the module's bindings ask for."""

    class ErrorLines(trt.ILogger):
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(message)

    return ErrorLines
