"""The functions of targets trt and trt-rtx: build engines, and on an NVIDIA GPU time and run them."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import onnx

from nacdeploy.base import records
from nacdeploy.base.errors import NacdeployError
from nacdeploy.base.progress import nobody
from nacdeploy.exporters.artifacts.artifact import Manifest
from nacdeploy.exporters.onnx_graph.trace import INPUT
from nacdeploy.exporters.targets import gpu
from nacdeploy.exporters.targets.ort.runner import OnnxRunner
from nacdeploy.exporters.targets.runtime import Built, Comparison, Maker, Picked, Runner, Runtime, Source
from nacdeploy.exporters.targets.tensorrt import api, build, engine, plan
from nacdeploy.exporters.targets.tensorrt.api import BuilderName
from nacdeploy.exporters.targets.tensorrt.engine import BuildRecord
from nacdeploy.exporters.targets.tensorrt.runner import TrtRunner
from nacdeploy.models.ports import ports_of
from nacdeploy.profile.tables.deployment import ExportTable


def engine_here(
    onnx_model: bytes, *, table: ExportTable | None = None, builder: BuilderName = "auto", cuda_graph: bool = False
) -> Picked:
    """Build an engine with an FP16 rest for the GPU here.

    Raises:
        NacdeployError: there is no GPU, no builder, or the graph is not for TensorRT.
    """
    capability = gpu.require_gpu("running an engine")
    wanted = (table or ExportTable()).model_copy(update={"compute_capabilities": (capability,), "float_type": "fp16"})
    images = onnx.load_model_from_string(onnx_model).graph.input[0]
    shape = tuple(size.dim_value for size in images.type.tensor_type.shape.dim[1:])
    built = build.build_engines(onnx_model, wanted, images.name, shape, builder=builder, log=nobody)
    runner = TrtRunner(built.files[capability], built_by=built.builder, cuda_graph=cuda_graph)
    return Picked(runner, f"{built.builder} engine, {capability}, built for this run, float rest in FP16")


def on_gpu(folder: Path, manifest: Manifest, cuda_graph: bool) -> Picked:
    """Return the runner of any artifact on the GPU here.

    An artifact of TensorRT runs its engine for that GPU. The uncompressed original runs as an FP16 engine, built here,
    since INT8 has to beat FP16 there. Graphs that are not TensorRT's run on ONNX Runtime's CUDA provider.

    Raises:
        NacdeployError: the engine is of another version, or ONNX Runtime cannot use the GPU.
    """
    capability, model = gpu.require_gpu("running an engine"), folder / manifest.model_file
    if capability in manifest.engines:
        serialised = (folder / manifest.engines[capability]).read_bytes()
        runner = TrtRunner(serialised, built_by=manifest.builder, cuda_graph=cuda_graph)
        return Picked(runner, f"{manifest.builder} engine, {capability}")
    if manifest.engines or not manifest.chain:
        return engine_here(model.read_bytes(), cuda_graph=cuda_graph)
    return Picked(
        OnnxRunner(model, providers="CUDAExecutionProvider", cuda_graph=cuda_graph),
        "ONNX Runtime, CUDAExecutionProvider",
    )


def missing(table: ExportTable) -> str:
    """Return why the profile's GPU cannot be timed here ("" if it can)."""
    present, wanted = gpu.present_capability(), table.compute_capabilities
    if present in wanted:
        return ""
    return f"there is no {' or '.join(wanted)} here" if present is None else f"the GPU here is {present}"


def _timed(builder: BuilderName, table: ExportTable, threads: int) -> Maker | None:
    """Make engines on the GPU that is here, with their float rest in FP16."""
    if gpu.present_capability() is None:
        return None

    def make(model: bytes) -> Runner:
        return engine_here(model, table=table, builder=builder).runner

    return make


def _built(builder: BuilderName, source: Source) -> Built:
    n_sparse = sum(row.is_two_four for row in source.rows)
    (name, shape), *more = _inputs(source)
    engines = build.build_engines(
        source.graph,
        source.table,
        name,
        shape,
        more_inputs=dict(more),
        builder=builder,
        sparse=n_sparse > 0,
        seed=source.seed,
        log=source.log,
    )
    files: dict[str, bytes] = {}
    notes = [*engines.notes, *plan.engine_notes(source.rows, engines.layers)]
    if engines.graph != source.graph:
        # ONNX Runtime's own optimisations spoil Q/DQ in FP16 (12 dB where none of them gives 46).
        notes.append(source.agrees(build.FP16_FILE, OnnxRunner(engines.graph, optimization="disabled")))
        files[build.FP16_FILE] = engines.graph
    if n_sparse:
        notes.append(
            f"2:4: {n_sparse} layers are eligible for sparse kernels; how many the engine picks, and what that gains, "
            "is not verifiable here: it takes the GPU"
        )
    if (present := gpu.present_capability()) in engines.files:
        runner = TrtRunner(engines.files[str(present)], built_by=engines.builder)
        notes.append(source.agrees(f"the engine for {present}", runner))
    notes.append("engines are built, not timed: their speed is to be measured on the GPU itself")
    named = {capability: f"engine-{capability.lower()}.trt" for capability in engines.files}
    files |= {named[capability]: serialised for capability, serialised in engines.files.items()}
    files |= {build.cache_file(capability): cache for capability, cache in engines.timing_caches.items()}
    builds = {capability: records.to_data(record) for capability, record in engines.records.items()}
    return Built(engines.builder, files, named, builds, tuple(notes))


def _inputs(source: Source) -> list[tuple[str, tuple[int, ...]]]:
    """Return the names and shapes of a graph's inputs."""
    if source.inputs is not None:
        return list(source.inputs.items())
    ports = ports_of(source.network.backbone)
    return [(each.name, each.shape) for each in ports.inputs] if ports else [(INPUT, source.network.input_shape)]


def _rebuilt(folder: Path, manifest: Manifest) -> dict[str, Callable[[], Comparison]]:
    return {capability: partial(_again, folder, manifest, capability) for capability in manifest.engines}


def _again(folder: Path, manifest: Manifest, capability: str) -> Comparison:
    if capability not in manifest.builds:
        raise NacdeployError("the artifact holds no record of its build; export it again")
    where = f"the build of {capability} in {folder}"
    record = records.from_data(BuildRecord, manifest.builds[capability], where=where)
    graph = folder / (build.FP16_FILE if build.FP16_FILE in manifest.files else manifest.model_file)
    cache = build.cache_file(record.capability)
    timing_cache = (folder / cache).read_bytes() if cache in manifest.files else b""
    again = engine.rebuild(record, graph.read_bytes(), timing_cache)
    return engine.compare(capability, (folder / manifest.engines[capability]).read_bytes(), again)


def _repeats(manifest: Manifest) -> dict[str, str]:
    builders = {str(build.get("builder")) for build in manifest.builds.values()}
    return {name: said for name, said in engine.REPEATS.items() if name in builders}


def _computed(folder: Path, manifest: Manifest) -> dict[str, str]:
    """Return the types in which engines compute ONNX nodes, if their text says so and they agree."""
    types: dict[str, str] = {}
    for file in manifest.engines.values():
        for node, kind in plan.layer_types((folder / file).read_bytes()).items():
            types[node] = kind if types.get(node, kind) == kind else "mixed"
    return types


def _version(builder: BuilderName) -> str:
    api.load(builder)
    return "TensorRT engine"


def _runtime(builder: BuilderName) -> Runtime:
    return Runtime(
        version=partial(_version, builder),
        timed=partial(_timed, builder),
        missing=missing,
        on_gpu=on_gpu,
        check=partial(build.check, builder=builder),
        n_builds=lambda table: len(table.compute_capabilities),
        build=partial(_built, builder),
        rebuilt=_rebuilt,
        repeats=_repeats,
        computed=_computed,
    )


FIRST_HERE, AHEAD = _runtime("auto"), _runtime("tensorrt_rtx")
