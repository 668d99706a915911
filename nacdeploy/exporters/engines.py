"""What a target builds from the checked graph: engines of TensorRT or TensorRT-RTX, the program of torch-tensorrt,
OpenVINO's IR, or nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

import torch
from numpy.typing import NDArray

from nacdeploy import evaluate as evaluation
from nacdeploy import latency, records
from nacdeploy.errors import NacdeployError
from nacdeploy.exporters import parity, torch_trt, trt, trt_api, trt_plan
from nacdeploy.exporters.artifact import IR_FILES, MODEL_FILE, Lowering, Manifest
from nacdeploy.exporters.onnx import INPUT, OUTPUT
from nacdeploy.exporters.targets import Target
from nacdeploy.latency import Comparison
from nacdeploy.layers.network import Network
from nacdeploy.profile import Profile
from nacdeploy.profile.deployment import ExportTable
from nacdeploy.runners import gpu, openvino, pick
from nacdeploy.runners.onnx import OnnxRunner
from nacdeploy.runners.runner import Runner
from nacdeploy.runners.timing import Timer
from nacdeploy.runners.trt import TrtRunner
from nacdeploy.task import Task

Files = dict[str, bytes]
_TORCH, _OPENVINO = "torch_tensorrt", "openvino"


def check(target: Target, table: ExportTable) -> None:
    """Refuse early what a build would refuse late.

    Raises:
        UsageError: a capability or type that the builder does not know.
        NacdeployError: the builder is not installed, or there is no GPU for it.
    """
    if target.builder == _TORCH:
        torch_trt.check()
    elif target.builder == _OPENVINO:
        openvino.package()
    elif target.builder:
        trt.check(table, _named(target))


def n_builds(target: Target, table: ExportTable) -> int:
    """How many builds there will be, for progress."""
    return 0 if not target.builder else 1 if target.builder in (_TORCH, _OPENVINO) else len(table.compute_capabilities)


def add(
    manifest: Manifest,
    files: Files,
    rows: Sequence[Lowering],
    network: Network,
    task: Task,
    profile: Profile,
    target: Target,
    log: trt.Log,
) -> tuple[Manifest, Files]:
    """The manifest and the files with what `target` builds from the graph in `files`.

    Raises:
        NacdeployError: the builder rejects the graph, or the graph with its float rest in FP16 answers otherwise.
    """
    if not target.builder:
        return manifest, files
    if target.builder == _OPENVINO:
        ir = openvino.ir_from_onnx(files[MODEL_FILE])
        added = dict(zip(IR_FILES, (ir.xml, ir.weights), strict=True))
        return replace(manifest, builder=openvino.version()), {**files, **added}
    n_sparse = sum(row.is_two_four for row in rows)
    if target.builder == _TORCH:
        program, compiler = torch_trt.compile_network(network, profile.export, sparse=n_sparse > 0)
        return replace(manifest, builder=compiler), {**files, torch_trt.MODEL_FILE: program}
    engines = trt.build_engines(
        files[MODEL_FILE],
        profile.export,
        INPUT,
        network.input_shape,
        builder=_named(target),
        sparse=n_sparse > 0,
        seed=profile.seed,
        log=log,
    )
    notes = [*manifest.notes, *engines.notes, *trt_plan.engine_notes(rows, engines.layers)]
    if engines.graph != files[MODEL_FILE]:
        # ONNX Runtime's own optimisations spoil Q/DQ in FP16 (12 dB where none of them gives 46).
        runner = OnnxRunner(engines.graph, optimization="disabled")
        notes.append(_agreement(trt.FP16_FILE, runner, network, task, profile.export))
        files = {**files, trt.FP16_FILE: engines.graph}
    if n_sparse:
        notes.append(
            f"2:4: {n_sparse} layers are eligible for sparse kernels; how many the engine picks, and what that gains, "
            "is not verifiable here: it takes the GPU"
        )
    if (present := gpu.present_capability()) in engines.files:
        engine = TrtRunner(engines.files[str(present)], built_by=engines.builder)
        notes.append(_agreement(f"the engine for {present}", engine, network, task, profile.export))
    notes.append("engines are built, not timed: their speed is to be measured on the GPU itself")
    named = {capability: f"engine-{capability.lower()}.trt" for capability in engines.files}
    plans = {named[capability]: plan for capability, plan in engines.files.items()}
    caches = {trt.cache_file(capability): cache for capability, cache in engines.timing_caches.items()}
    builds = {capability: records.to_data(record) for capability, record in engines.records.items()}
    manifest = replace(manifest, engines=named, builder=engines.builder, builds=builds, notes=tuple(notes))
    return manifest, {**files, **plans, **caches}


def engine_timer(images: NDArray, profile: Profile, target: Target, n_rounds: int) -> Timer | None:
    """A timer of graphs as engines on the GPU that is here, their float rest in FP16; None without a GPU."""
    if target.builder in ("", _TORCH, _OPENVINO) or gpu.present_capability() is None:
        return None

    def compare(models: Mapping[str, bytes], baseline: str) -> Comparison:
        shape = tuple(images.shape[1:])
        picked = {
            name: pick.engine_here(model, INPUT, shape, table=profile.export, builder=_named(target))
            for name, model in models.items()
        }
        return latency.compare(
            {name: each.runner.subject(images) for name, each in picked.items()},
            baseline=baseline,
            batch_size=len(images),
            threads=profile.bench.threads,
            n_rounds=n_rounds,
            round_ms=profile.bench.round_ms,
        )

    return compare


def _named(target: Target) -> trt_api.BuilderName:
    return cast("trt_api.BuilderName", target.builder)


def _agreement(what: str, runner: Runner, network: Network, task: Task, table: ExportTable) -> str:
    """How something that was built from the graph agrees with the torch model, in words.

    Raises:
        NacdeployError: less than the profile asks for.
    """
    images = task.data.validation.subset(torch.arange(min(table.n_parity, len(task.data.validation))))
    *exits, logits = evaluation.predict_exits(network, task.data, images)
    batches = [x.numpy() for x in evaluation.batches(task.data, images, table.max_batch)]
    answers = dict(zip(runner.output_names, parity.run_all(runner, batches), strict=True))
    outputs = [answers[name] for name in sorted(answers, key=lambda name: (name != OUTPUT, len(name), name))]
    found = parity.least([logits, *exits], outputs, what, task.metric)
    percent = f"{100 * found.agreement:.2f} % of {found.n_images} images"
    if found.agreement < table.min_agreement:
        raise NacdeployError(
            f"{what}, whose float rest is {table.float_type}, agrees with the torch model on {percent} (needed "
            f"{100 * table.min_agreement:g} %): try export.float_type = 'fp32', or quantize.exclude"
        )
    snr = "exact" if found.snr_db is None else f"{found.snr_db:.1f} dB"
    return f"{what} agrees with the torch model on {percent}, {snr}"
