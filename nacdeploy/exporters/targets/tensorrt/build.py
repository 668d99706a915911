"""TensorRT engines from an ONNX graph with explicit Q/DQ, by TensorRT proper or by TensorRT-RTX (see trt_api).

In both, networks are strongly typed: the float parts of the graph run in their own float type. Every engine comes with
the record of its build, from which it can be built again.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import onnx

from nacdeploy.base.errors import NacdeployError, UsageError, unknown
from nacdeploy.base.progress import Say
from nacdeploy.exporters.artifacts.onnx_checks import unsigned_nodes
from nacdeploy.exporters.targets.gpu import present_capability
from nacdeploy.exporters.targets.tensorrt import api as trt_api
from nacdeploy.exporters.targets.tensorrt import engine as trt_build
from nacdeploy.exporters.targets.tensorrt import plan as trt_plan
from nacdeploy.exporters.targets.tensorrt.api import Api, BuilderName
from nacdeploy.exporters.targets.tensorrt.doctor import CAPABILITIES as BY_RTX
from nacdeploy.exporters.targets.tensorrt.engine import BuildRecord
from nacdeploy.exporters.targets.tensorrt.fp16 import fp16_rest
from nacdeploy.profile.tables.deployment import ExportTable

FP16_FILE = "model-fp16.onnx"

_BY_TENSORRT_ONLY = ("SM87", "SM90")


@dataclass(frozen=True)
class Engines:
    """Serialised engines, with all that is needed to build them again.

    Attributes:
        builder: the builder with its version.
        files: the engines by compute capability ("SM89").
        layers: by capability, the type in which the engine computes each ONNX node, as far as `trt_plan.layer_types`
            can read it.
        graph: the ONNX model of the builds.
        records: the records of the builds by capability.
        timing_caches: the timing caches of the builds, if there are any.
        notes: lines for the manifest.
    """

    builder: str
    files: dict[str, bytes]
    layers: dict[str, dict[str, str]]
    graph: bytes
    records: dict[str, BuildRecord]
    timing_caches: dict[str, bytes]
    notes: tuple[str, ...] = ()


def build_engines(
    onnx_model: bytes,
    table: ExportTable,
    input_name: str,
    input_shape: tuple[int, ...],
    *,
    builder: BuilderName = "auto",
    sparse: bool = False,
    seed: int | None = None,
    more_inputs: Mapping[str, tuple[int, ...]] | None = None,
    log: Say,
) -> Engines:
    """Build one engine per compute capability of the table for batches from 1 to `table.max_batch`.

    `input_shape` is the shape of one image, (C, H, W); `more_inputs` are those of further inputs by
    name. `sparse` lets the builder pick kernels for 2:4 weights.

    Raises:
        UsageError: an unknown capability, or a capability that does not go with `table.float_type`.
        NacdeployError: the builder is not installed, cannot build for a capability, or rejects the graph.
    """
    api = trt_api.load(builder)
    capabilities, notes = _capabilities(api, table)
    if builder == "auto" and api.builds_ahead:
        notes = ("TensorRT is not installed: the engines are TensorRT-RTX's", *notes)
    graph = typed_graph(onnx_model, table)
    if table.float_type == "fp16":
        notes += ("float layers and scales are FP16 in the engines, FP32 in model.onnx",)
    files, records, caches = {}, {}, {}
    for capability in capabilities:
        wanted = _record(api, table, input_name, input_shape, capability, graph, sparse, seed)
        wanted = replace(wanted, more_inputs=dict(more_inputs or {}))
        files[capability], records[capability], cache = trt_build.build(api, wanted, graph)
        if cache is not None:
            caches[capability] = cache
        log(f"{api.title} engine for {capability}: {len(files[capability])} bytes")
    layers = {capability: trt_plan.layer_types(plan) for capability, plan in files.items()}
    return Engines(f"{api.name} {api.version}", files, layers, graph, records, caches, notes)


def check(table: ExportTable, builder: BuilderName = "auto") -> None:
    """Refuse early what `build_engines` would refuse late: no builder, no GPU for it, capabilities, types.

    Raises:
        UsageError: an unknown capability, or a capability that does not go with `table.float_type`.
        NacdeployError: the builder is not installed, or cannot build for a capability.
    """
    _capabilities(trt_api.load(builder), table)


def cache_file(capability: str) -> str:
    """Return the name of an engine's timing cache in an artifact."""
    return f"timing-{capability.lower()}.cache"


def typed_graph(onnx_model: bytes, table: ExportTable) -> bytes:
    """Return the graph for the builder: checked, and with its float rest in `table.float_type`.

    Raises:
        NacdeployError: it holds unsigned integers; the first such node is named.
    """
    model = onnx.load_model_from_string(onnx_model)
    for name in unsigned_nodes(model):  # read as INT8 by the parser, with a mere warning; the engine clips at 127
        raise NacdeployError(
            f"node '{name}' quantises to UINT8, which TensorRT reads as INT8 with wrong values; "
            "export with signed activations (target = 'trt')"
        )
    return fp16_rest(model, table.io_type).SerializeToString() if table.float_type == "fp16" else onnx_model


def _capabilities(api: Api, table: ExportTable) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the capabilities to build for, and the notes on them."""
    for name in table.compute_capabilities:
        if name not in BY_RTX + _BY_TENSORRT_ONLY:
            raise unknown("compute capability", name, BY_RTX + _BY_TENSORRT_ONLY)
    if not api.builds_ahead:
        return _require_present(table.compute_capabilities)
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


def _require_present(asked: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    present = present_capability()
    if present is None:
        raise NacdeployError(
            "TensorRT builds for the GPU it runs on, and there is none: export on the target machine, or ahead of time "
            "with --target trt-rtx"
        )
    others = [name for name in asked if name != present]
    note = f"built for {present}, the GPU present; TensorRT cannot build for {', '.join(others)} here"
    return (present,), (note,) if others else ()


def _record(
    api: Api,
    table: ExportTable,
    input_name: str,
    input_shape: tuple[int, ...],
    capability: str,
    graph: bytes,
    sparse: bool,
    seed: int | None,
) -> BuildRecord:
    return BuildRecord(
        builder=api.name,
        version=api.version,
        capability=capability,
        flags=("SPARSE_WEIGHTS",) if sparse and hasattr(api.trt.BuilderFlag, "SPARSE_WEIGHTS") else (),
        input_name=input_name,
        input_shape=tuple(input_shape),
        min_batch=1,
        max_batch=table.max_batch,
        workspace_mib=table.workspace_mib,
        float_type=table.float_type,
        io_type=table.io_type,
        graph_sha256=hashlib.sha256(graph).hexdigest(),
        seed=seed,
    )
