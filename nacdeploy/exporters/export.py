"""From a state to an artifact: ONNX on the target's grid, checks on the real graph, engines where there are any."""

import copy
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import onnx

from nacdeploy import evaluate as evaluation
from nacdeploy import records
from nacdeploy.errors import NacdeployError
from nacdeploy.exporters import artifact, onnx_checks, parity, targets, trt
from nacdeploy.exporters.artifact import Lowering, Manifest, Preprocessing, TensorInfo
from nacdeploy.exporters.guard import Guarded, guarded, speed_note
from nacdeploy.exporters.lowering import OnnxGraph
from nacdeploy.exporters.onnx import INPUT, Traced, lower, to_onnx, trace
from nacdeploy.exporters.targets import Target
from nacdeploy.exporters.tune import Names
from nacdeploy.layers.network import Network
from nacdeploy.layers.sparsity import TWO_FOUR
from nacdeploy.profile import ExportTable, Profile
from nacdeploy.progress import Progress, Silent
from nacdeploy.runners.timing import Timer, onnx_timer
from nacdeploy.strategies.settle import calibrate_gates, settle
from nacdeploy.strategies.state import CompressionState, measure
from nacdeploy.task import Task

MODEL_FILE = "model.onnx"


@dataclass(frozen=True)
class Context:
    """What the manifest says of an artifact's origin, as plain data."""

    steps: list[Any]
    model: dict[str, Any]
    data: dict[str, Any]
    baseline: dict[str, Any]


@dataclass(frozen=True)
class Tuning:
    """How measured time decides: whether precision is chosen by it even where integers pay as a whole, the file in
    which measurements are kept (so that a tuning that was stopped goes on), and the FP32 network that the state came
    from."""

    autotune: bool = False
    measurements: Path | None = None
    original: Network | None = None


def export(
    state: CompressionState,
    task: Task,
    profile: Profile,
    target: str,
    out: Path,
    context: Context,
    progress: Progress | None = None,
    tuning: Tuning = Tuning(),
) -> Path:
    """Write the artifact of `state` for a target, whole or not at all.

    Raises:
        UsageError: unknown target.
        NacdeployError: the graph does not agree with the torch model, or the builder rejects it.
    """
    progress, chosen = progress or Silent(), targets.named(target)
    if chosen.builder:
        trt.available_builder()
    progress.say(f"exporting {state.chain if state.steps else 'the FP32 network'} to ONNX on the grid of {target}")
    n_steps = 4 + (len(profile.export.compute_capabilities) if chosen.builder else 0)
    with progress.bar(f"exporting for {target}") as bar:
        network, notes = on_grid(state, task, profile, chosen)
        traced_network, traced = network, trace(network, profile.export.opset)
        bar.update(1, n_steps, "precision")
        timer = _timer(task, profile, chosen, tuning)
        timed = _guarded(network, traced, timer, chosen, tuning, progress)
        network, notes = timed.network, (*notes, *timed.notes)
        if network is not state.network:  # the accuracy that is written down is that of what is written
            network, state, notes = _settled(network, state, task, profile, notes)
        graph = lower(traced, network)
        if timer is not None and tuning.original is not None:
            original = to_onnx(tuning.original, profile.export.opset)
            notes = (*notes, speed_note(graph.model, original.model, timer))
        bar.update(2, n_steps, "parity")
        checks = parity.check(network, graph, task, profile.export, chosen.optimizations)
        worst_step = _worst_step(network, graph, task, chosen)
        rows = _rows(graph, traced_network, timed.floats)
        manifest = _manifest(state, network, graph, task, profile, target, context)
        manifest = replace(
            manifest, parity=checks[0], checks=checks, worst_step=worst_step, notes=(*notes, *_notes(network))
        )
        files = {MODEL_FILE: graph.model}
        if timed.precisions is not None:
            files[artifact.PRECISION] = records.json_bytes(timed.precisions)
        bar.update(3, n_steps)
        if chosen.builder:
            built = count(4)

            def log(line: str) -> None:
                bar.update(next(built), n_steps)
                progress.say(line)

            manifest, files = _with_engines(manifest, files, rows, network, profile.export, log)
    return artifact.write(out, files, manifest, rows)


def on_grid(state: CompressionState, task: Task, profile: Profile, target: Target) -> tuple[Network, tuple[str, ...]]:
    """The state's network on the target's grid, and a note where that is another than its own. A network without
    quantizers is as it was."""
    grid = targets.grid(target, profile)
    if grid == state.network.grid or not state.network.quantizers:
        return state.network, ()
    network = copy.deepcopy(state.network)
    network.lay_on(grid)
    return network, (f"settled anew on the grid {grid.name} (searched on {state.network.grid.name})",)


def _settled(
    network: Network, state: CompressionState, task: Task, profile: Profile, notes: tuple[str, ...]
) -> tuple[Network, CompressionState, tuple[str, ...]]:
    """A network whose edges changed, with ranges and gates found anew, and what that cost in accuracy."""
    settle(network, task, profile)
    calibrate_gates(network, task, profile)
    metrics = measure(network, task)
    before, after = state.metrics.accuracy, metrics.accuracy
    cost = f"validation accuracy {100 * before:.2f} % -> {100 * after:.2f} %"
    return network, replace(state, network=network, metrics=metrics), (*notes, cost)


def _timer(task: Task, profile: Profile, target: Target, tuning: Tuning) -> Timer | None:
    """What times graphs on the target, where that is asked for and the target is present."""
    if target.name != "ort" or not (profile.export.guard or tuning.autotune):
        return None
    return onnx_timer(task.example_input().numpy(), profile.bench, profile.export.n_autotune_rounds)


def _guarded(
    network: Network, traced: Traced, timer: Timer | None, target: Target, tuning: Tuning, progress: Progress
) -> Guarded:
    """The network that is not slower than its float twin on the target, where that can be timed here."""
    if timer is None or not network.quantizers:
        return Guarded(network)
    return guarded(
        network,
        traced,
        timer,
        target=target.name,
        autotune=tuning.autotune,
        measurements=tuning.measurements,
        report=progress.say,
    )


def _rows(graph: OnnxGraph, asked: Network, floats: Names) -> list[Lowering]:
    """The lowering rows; what the chain asked of a layer that is better off in float here is said as asked.

    Raises:
        NacdeployError: a layer that is to be 2:4 sparse is not in the graph.
    """
    rows = onnx_checks.lowering_rows(onnx.load_model_from_string(graph.model), graph.asked)
    for index, row in enumerate(rows):
        if row.layer in floats and asked.rule is not None:
            rows[index] = replace(row, asked=str(asked.rule.precision), reason="measured to be faster in float")
        is_sparse = asked.sparsity is not None and asked.sparsity.pattern == TWO_FOUR
        if is_sparse and asked.masks.get(row.layer) is not None and not row.is_two_four:
            raise NacdeployError(f"layer '{row.layer}' is to be 2:4 sparse, but its weight in the graph is not")
    return rows


def _worst_step(network: Network, graph: OnnxGraph, task: Task, target: Target) -> int | None:
    images = next(evaluation.batches(task.data, task.data.validation, parity.N_LAYERWISE)).numpy()
    steps = parity.worst_steps(network, graph, images, target.optimizations[0])
    return max(steps.values(), default=None)


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
