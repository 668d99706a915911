"""From a state to an artifact: ONNX on the target's grid, checks on the real graph, and engines if the target builds
any."""

import copy
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import numpy as np
import onnx

from nacdeploy.base import heap, records
from nacdeploy.base.errors import NacdeployError
from nacdeploy.base.progress import Progress, Silent
from nacdeploy.exporters import describe, engines, parity, whole
from nacdeploy.exporters.artifacts import artifact, onnx_checks, preprocess, readme
from nacdeploy.exporters.artifacts.artifact import MODEL_FILE, Lowering, Manifest
from nacdeploy.exporters.describe import Context
from nacdeploy.exporters.exits import made as exits
from nacdeploy.exporters.onnx_graph.lowering import OnnxGraph
from nacdeploy.exporters.onnx_graph.trace import Traced, lower, to_onnx, trace
from nacdeploy.exporters.speed_guard import Guarded, guarded, speed_note, taken
from nacdeploy.exporters.targets import Target
from nacdeploy.exporters.targets.ported import ported_maker
from nacdeploy.exporters.targets.runtime import answering, runtime_of
from nacdeploy.exporters.targets.timing import Timer, timer
from nacdeploy.exporters.tune import Names, Precisions
from nacdeploy.metrics import shown
from nacdeploy.models.ports import ports_of
from nacdeploy.network.attachments.sparsity import TWO_FOUR
from nacdeploy.network.network import Network
from nacdeploy.profile import Profile
from nacdeploy.strategies.operators.quantize.settings import QuantizeTable
from nacdeploy.strategies.settle import calibrate_gates, settle
from nacdeploy.strategies.state import CompressionState, measure
from nacdeploy.task import Task
from nacdeploy.task import evaluate as evaluation


@dataclass(frozen=True)
class Tuning:
    """The role of measured time in an export.

    Attributes:
        autotune: choose precision by time even if integers pay as a whole.
        measurements: the file of measurements, so that an interrupted tuning resumes.
        original: the FP32 network that the state came from.
        given: precisions to use without measuring.
    """

    autotune: bool = False
    measurements: Path | None = None
    original: Network | None = None
    given: Precisions | None = None


def export(
    state: CompressionState,
    task: Task,
    profile: Profile,
    target: Target,
    out: Path,
    context: Context,
    progress: Progress | None = None,
    tuning: Tuning = Tuning(),
) -> Path:
    """Write the artifact of `state` for a target, whole or not at all.

    Raises:
        UsageError: a setting that the target does not take.
        NacdeployError: the graph does not agree with the torch model, or the builder rejects it or is not here.
    """
    progress, runtime = progress or Silent(), runtime_of(target)
    runtime.check(profile.export)
    if state.network.exits:
        exits.check(target, profile.export.exits)
    progress.say(f"exporting {state.chain if state.steps else 'the FP32 network'} to ONNX on the grid of {target.name}")
    n_steps = 2 + runtime.n_builds(profile.export)
    with progress.bar(f"exporting for {target.name}") as bar:
        order = _Order(task, profile, target, tuning, progress)
        lowered = _lowered(state, order)
        bar.update(1, n_steps, "parity")
        heap.give_back()
        lowered, manifest = _agreeing(lowered, order, context)
        bar.update(2, n_steps)
        files = {MODEL_FILE: whole.started(lowered.graph.model, task)}
        if lowered.precisions is not None:
            files[artifact.PRECISION] = records.json_bytes(lowered.precisions)
        built = count(3)

        def log(line: str) -> None:
            bar.update(next(built), n_steps)
            progress.say(line)

        if runtime.build is not None:
            source = engines.source(files[MODEL_FILE], lowered.rows, lowered.state.network, task, profile, log)
            manifest, files = engines.added(manifest, files, runtime.build(source))
        manifest, files = whole.added(manifest, files, task, profile.bench)
        network = lowered.state.network
        cut = exits.Order(lowered.graph, lowered.rows, network, task, profile, target, progress.say)
        manifest, files = exits.added(manifest, files, cut)
        if manifest.preprocessing is not None and preprocess.covers(manifest.preprocessing):
            files[preprocess.FILE] = preprocess.graph(manifest.preprocessing, manifest.inputs[0].name)
            manifest = replace(manifest, preprocess_file=preprocess.FILE)
    files[artifact.README] = readme.text(manifest).encode()
    return artifact.write(out, files, manifest, lowered.rows)


@dataclass(frozen=True)
class _Order:
    """The task, settings and target of an export, with the role of time and the listener."""

    task: Task
    profile: Profile
    target: Target
    tuning: Tuning
    progress: Progress


@dataclass(frozen=True)
class _Lowered:
    """The graph to deploy, the state whose network simulates the graph, and the notes on both."""

    graph: OnnxGraph
    state: CompressionState
    rows: list[Lowering]
    precisions: Precisions | None
    notes: tuple[str, ...]


def _lowered(state: CompressionState, order: _Order) -> _Lowered:
    """Return the state on the target's grid and in the fastest precision there, as a graph."""
    state, notes = _on_grid(state, order)
    asked, opset = state.network, order.profile.export.opset
    traced = trace(asked, opset)
    clock = _timer(order)
    timed = _guarded(asked, traced, clock, order)
    notes = (*notes, *timed.notes)
    if timed.network is not asked:
        state, cost = _settled(timed.network, state, order)
        notes, traced = (*notes, cost), trace(state.network, opset)  # norms of their own are in a trace
    graph = lower(traced, state.network)
    if clock is not None and order.tuning.original is not None:
        original = to_onnx(order.tuning.original, opset)
        notes = (*notes, speed_note(graph.model, original.model, clock, len(state.network.exits)))
    notes = (*notes, *describe.notes_of(state.network))
    return _Lowered(graph, state, _rows(graph, asked, timed.floats), timed.precisions, notes)


def _agreeing(lowered: _Lowered, order: _Order, context: Context) -> tuple[_Lowered, Manifest]:
    """Return a graph with its manifest: with exits on integers, where these answer as the simulation's."""
    if order.profile.export.exits != "whole" and lowered.state.network.exits and order.target.exit_forms:
        with suppress(NacdeployError):
            moved = exits.on_integers(lowered.graph, len(lowered.state.network.exits))
            found = replace(lowered, graph=moved)
            return found, _checked(found, order, context)
    return lowered, _checked(lowered, order, context)


def _checked(lowered: _Lowered, order: _Order, context: Context) -> Manifest:
    """Return the manifest of a graph, and check that the graph agrees with the simulation, end to end and layer by
    layer."""
    task, profile, target = order.task, order.profile, order.target
    ports = ports_of(lowered.state.network.backbone)
    runtimes = {name: ported_maker(make, ports) for name, make in answering(target).items()}
    checks = parity.check(lowered.state.network, lowered.graph, task, profile.export, runtimes)
    notes, compared = lowered.notes, None
    if order.tuning.original is not None:
        runtime = next(iter(runtimes.values()))
        compared = parity.against_original(order.tuning.original, lowered.graph, task, profile.export, runtime)
        notes = (*notes, describe.note_of_original(compared, task.metric))
    heap.give_back()
    judges = task.data.validation
    n_images = min(parity.N_LAYERWISE, -(-evaluation.batch_size(judges) // 2))  # all tensors are held at once
    images = next(evaluation.batches(task.data, judges, n_images)).numpy()
    steps = parity.worst_steps(lowered.state.network, lowered.graph, images, target.optimizations[0])
    manifest = describe.manifest_of(lowered.state, lowered.graph, task, profile, target, context)
    worst_step = max(steps.values(), default=None)
    return replace(manifest, parity=checks[0], checks=checks, worst_step=worst_step, notes=notes, original=compared)


def _on_grid(state: CompressionState, order: _Order) -> tuple[CompressionState, tuple[str, ...]]:
    """Return the state on the target's grid, and the cost of moving from another grid.

    A network without quantizers is unchanged.
    """
    grid = order.target.grid(order.profile.of(QuantizeTable).grid)
    if grid == state.network.grid or not state.network.quantizers:
        return state, ()
    network = copy.deepcopy(state.network)
    network.set_grid(grid)
    settled, cost = _settled(network, state, order)
    return settled, (f"settled anew on the grid {grid.name} (searched on {state.network.grid.name}): {cost}",)


def _settled(network: Network, state: CompressionState, order: _Order) -> tuple[CompressionState, str]:
    """Return the state of a network whose edges changed, with new ranges and gates and their score, and the cost of
    the change."""
    task = order.task
    settle(network, task, order.profile)
    calibrate_gates(network, task, order.profile)
    metrics = measure(network, task)
    before, after = (shown(task.metric, score) for score in (state.metrics.score, metrics.score))
    cost = f"validation {task.metric.title} {before} -> {after}"
    return replace(state, network=network, metrics=metrics), cost


def _timer(order: _Order) -> Timer | None:
    """Return a timer of graphs on the target, if timing is asked for and the target is present."""
    task, profile = order.task, order.profile
    if not (profile.export.guard or order.tuning.autotune):
        return None
    make = runtime_of(order.target).maker(profile.export, profile.bench.threads)
    images = np.repeat(task.example_input().numpy(), profile.bench.batch_sizes[0], axis=0)
    if make is None:
        return None
    return timer(ported_maker(make, task.spec.ports), images, profile.bench, profile.export.n_autotune_rounds)


def _guarded(network: Network, traced: Traced, clock: Timer | None, order: _Order) -> Guarded:
    """Return the network that is not slower than its float twin, or that has the given precision.

    If the target cannot be timed here, the network is unchanged.
    """
    tuning = order.tuning
    if tuning.given is not None:
        return taken(network, tuning.given)
    if clock is None or not network.quantizers:
        return Guarded(network)
    return guarded(
        network,
        traced,
        clock,
        target=order.target.name,
        autotune=tuning.autotune,
        measurements=tuning.measurements,
        report=order.progress.say,
    )


def _rows(graph: OnnxGraph, asked: Network, floats: Names) -> list[Lowering]:
    """Return the lowering rows. For layers that tuning moved to float, `asked` still shows the precision the chain
    requested.

    Raises:
        NacdeployError: a layer that is to be 2:4 sparse is not in the graph.
    """
    rows = onnx_checks.lowering_rows(onnx.load_model_from_string(graph.model), graph.asked)
    for index, row in enumerate(rows):
        if row.layer in floats and asked.rule is not None:
            wish = str(asked.rule.precision_of(row.layer))
            rows[index] = replace(row, asked=wish, reason="measured to be faster in float")
        is_sparse = asked.sparsity is not None and asked.sparsity.pattern_of(row.layer) == TWO_FOUR
        if is_sparse and asked.masks.get(row.layer) is not None and not row.is_two_four:
            raise NacdeployError(f"layer '{row.layer}' is to be 2:4 sparse, but its weight in the graph is not")
    others = asked.left_out() if asked.rule is not None else {}
    return [*rows, *(Lowering(name, "other", "float32", "float32", why, "") for name, why in others.items())]
