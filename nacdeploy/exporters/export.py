"""From a state to an artifact: ONNX on the target's grid, checks on the real graph, engines where there are any."""

import copy
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from nacdeploy import evaluate as evaluation
from nacdeploy import records
from nacdeploy.data import ImageSet
from nacdeploy.errors import NacdeployError, unknown
from nacdeploy.exporters import artifact, onnx_checks, trt
from nacdeploy.exporters.artifact import Lowering, Manifest, Parity, Preprocessing, TensorInfo
from nacdeploy.exporters.lowering import OnnxGraph
from nacdeploy.exporters.onnx import INPUT, to_onnx
from nacdeploy.layers.fake_quant import GRIDS
from nacdeploy.layers.network import Network
from nacdeploy.profile import ExportTable, Profile
from nacdeploy.progress import Progress, Silent
from nacdeploy.runners.onnx import OnnxRunner, Optimization
from nacdeploy.strategies.settle import calibrate_gates, settle
from nacdeploy.strategies.state import CompressionState, measure
from nacdeploy.task import Task

MODEL_FILE = "model.onnx"
TARGETS = ("onnx", "ort", "trt")
# TensorRT's graphs are judged without ONNX Runtime's own fusions, which TensorRT never sees.
_OPTIMIZATION: dict[str, Optimization] = {"ort": "all", "trt": "basic", "onnx": "basic"}


@dataclass(frozen=True)
class Context:
    """What the manifest says of an artifact's origin, as plain data."""

    steps: list[Any]
    model: dict[str, Any]
    data: dict[str, Any]
    baseline: dict[str, Any]


def export(
    state: CompressionState,
    task: Task,
    profile: Profile,
    target: str,
    out: Path,
    context: Context,
    progress: Progress | None = None,
) -> Path:
    """Write the artifact of `state` for `target` ("onnx", "ort", "trt"), whole or not at all.

    Raises:
        UsageError: unknown target.
        NacdeployError: the graph does not agree with the torch model, or the builder rejects it.
    """
    progress = progress or Silent()
    if target not in TARGETS:
        raise unknown("target", target, TARGETS)
    if target == "trt":
        trt.available_builder()
    network, notes = on_grid(state, task, profile, target)
    progress.say(f"exporting {state.chain if state.steps else 'the FP32 network'} to ONNX on the grid of {target}")
    n_steps = 2 + (len(profile.export.compute_capabilities) if target == "trt" else 0)
    with progress.bar(f"exporting for {target}") as bar:
        graph = to_onnx(network, profile.export.opset)
        bar.update(1, n_steps, "parity")
        parity = check_parity(network, graph, task, profile.export, _OPTIMIZATION[target])
        rows = onnx_checks.lowering_rows(onnx.load_model_from_string(graph.model), graph.asked)
        if network is not state.network:  # the accuracy that is written down is that of what is written
            state = replace(state, network=network, metrics=measure(network, task))
        manifest = _manifest(state, network, graph, task, profile, target, context)
        manifest = replace(manifest, parity=parity, notes=(*notes, *_notes(network)))
        files = {MODEL_FILE: graph.model}
        bar.update(2, n_steps)
        if target == "trt":
            built = count(3)

            def log(line: str) -> None:
                bar.update(next(built), n_steps)
                progress.say(line)

            manifest, files = _with_engines(manifest, files, rows, network, profile.export, log)
    return artifact.write(out, files, manifest, rows)


def on_grid(state: CompressionState, task: Task, profile: Profile, target: str) -> tuple[Network, tuple[str, ...]]:
    """The state's network on the target's grid, and what that changed. A network without quantizers is as it was."""
    grid = GRIDS[target]
    if grid == state.network.grid or not state.network.quantizers:
        return state.network, ()
    network = copy.deepcopy(state.network)
    network.lay_on(grid)
    settle(network, task, profile)
    calibrate_gates(network, task, profile)
    before, after = state.metrics.accuracy, measure(network, task).accuracy
    text = (
        f"settled anew on the grid of {target} (searched on that of {state.network.grid.name}): "
        f"validation accuracy {100 * before:.2f} % -> {100 * after:.2f} %"
    )
    return network, (text,)


def check_parity(
    network: Network, graph: OnnxGraph, task: Task, table: ExportTable, optimization: Optimization
) -> Parity:
    """Compare the graph in ONNX Runtime with the simulating network on validation images, every output; the least
    agreement and the least ratio of any of them count.

    Raises:
        NacdeployError: agreement or signal to noise ratio is below the profile's bound.
    """
    images = task.data.validation.subset(torch.arange(min(table.n_parity, len(task.data.validation))))
    *exits, logits = evaluation.predict_exits(network, task.data, images)
    runner = OnnxRunner(graph.model, optimization=optimization)
    deployed = run_all(runner, task, images)
    parities = [
        onnx_checks.parity(reference.numpy(), output, optimization)
        for reference, output in zip((logits, *exits), deployed, strict=True)
    ]
    least_agreement = min(p.agreement for p in parities)
    snr_db = min(p.snr_db if p.snr_db is not None else np.inf for p in parities)
    if least_agreement < table.min_agreement or snr_db < table.min_snr_db:
        raise NacdeployError(
            f"the ONNX graph does not agree with the torch model on {len(images)} images: top-1 agreement "
            f"{100 * least_agreement:.2f} % (needed {100 * table.min_agreement:g} %), signal to noise {snr_db:.1f} dB "
            f"(needed {table.min_snr_db:g}); no artifact is written. quantize.exclude in the profile takes layers out"
        )
    return Parity(len(images), least_agreement, snr_db if np.isfinite(snr_db) else None, optimization)


def run_all(runner: OnnxRunner, task: Task, images: ImageSet) -> list[np.ndarray]:
    """All outputs of a runner on a set of images, each (N, K)."""
    parts = [runner.run(x.numpy()) for x in evaluation.batches(task.data, images, 64)]
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


def _manifest(
    state: CompressionState,
    network: Network,
    graph: OnnxGraph,
    task: Task,
    profile: Profile,
    target: str,
    context: Context,
) -> Manifest:
    height, width = task.data.input_size
    shape = ("batch", task.data.channels, height, width)
    preprocessing = Preprocessing(
        input_size=height, channels=task.data.channels, mean=task.data.mean, std=task.data.std
    )
    return Manifest(
        target=target,
        model_file=MODEL_FILE,
        inputs=(TensorInfo(INPUT, shape, "float32"),),
        outputs=tuple(TensorInfo(name, ("batch", task.data.n_classes), "float32") for name in graph.outputs),
        preprocessing=preprocessing,
        class_names=task.data.class_names,
        chain=str(state.chain),
        steps=context.steps,
        metrics={**records.to_data(state.metrics), "profile": profile.name},
        baseline=context.baseline,
        gate=_gate(network, graph),
        model=context.model,
        data=context.data,
    )


def _gate(network: Network, graph: OnnxGraph) -> dict[str, Any] | None:
    if not network.exits:
        return None
    exits = [
        {"output": name, "place": head.place, "threshold": float(head.threshold)}
        for name, head in zip(graph.outputs[1:], network.heads.values(), strict=True)
    ]
    return {"rule": "take the first exit whose softmax maximum reaches its threshold", "exits": exits}


def _notes(network: Network) -> tuple[str, ...]:
    notes = []
    if network.exits:
        notes.append("exits are extra outputs of one graph: the gate decides accuracy, no time saved in this form")
    if network.quantizers and network.graph is None:
        notes.append("the network's graph cannot be captured: only the inputs of its layers are quantized")
    return tuple(notes)


def _with_engines(
    manifest: Manifest,
    files: dict[str, bytes],
    rows: list[Lowering],
    network: Network,
    table: ExportTable,
    log: trt.Log,
) -> tuple[Manifest, dict[str, bytes]]:
    engines = trt.build_engines(files[MODEL_FILE], table, INPUT, network.input_shape, log=log)
    named = {capability: f"engine-{capability.lower()}.trt" for capability in engines.files}
    notes = (
        *manifest.notes,
        *engines.notes,
        *trt.engine_notes(rows, engines),
        "engines are built, not timed: their speed is to be measured on the GPU itself",
    )
    plans = {named[capability]: plan for capability, plan in engines.files.items()}
    return replace(manifest, engines=named, builder=engines.builder, notes=notes), {**files, **plans}
