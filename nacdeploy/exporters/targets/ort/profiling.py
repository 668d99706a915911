"""The graph that ONNX Runtime really runs, and the time of every node of it.

Models are profiled in turns, each beside an unprofiled session of its own. The profiler adds about the same time to
every node, which dominates in small networks. That time is taken off again, so that the nodes of a model add up to the
time of an unprofiled call.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from nacdeploy.base import folders, latency
from nacdeploy.base.latency import Ratio
from nacdeploy.exporters.targets.ort.runner import OPTIMIZED, Given, OnnxRunner

_NODE_EVENT = "_kernel_time"
_ROUND_MS = 20.0
# The profiler counts whole microseconds, and a call that was interrupted says nothing: neither the median nor the mean.
_KEPT_FRACTION = 0.8


@dataclass(frozen=True)
class NodeShapes:
    """The shapes of a node's first input and first output in one run."""

    input: tuple[int, ...]
    output: tuple[int, ...]


@dataclass(frozen=True)
class Profile:
    """The profile of one model.

    Attributes:
        graph: the graph that runs.
        node_ms: the time of each node by name and round (rounds,) in ms.
        call_ms: the median time of an unprofiled call.
        overhead_ms: the profiler's time for each node.
    """

    graph: onnx.ModelProto
    node_ms: dict[str, NDArray[Any]]
    call_ms: float
    overhead_ms: float


@dataclass(frozen=True)
class Profiles:
    """Models profiled together, and the speed of each against the baseline, unprofiled."""

    by_name: dict[str, Profile]
    speed: dict[str, Ratio]


def profile(models: Mapping[str, bytes], images: Given, *, baseline: str, threads: int, n_rounds: int) -> Profiles:
    """Profile models that take the same images (N, C, H, W), or the same inputs by name, with all graph optimisations.

    Raises:
        NacdeployError: ONNX Runtime cannot load or run a model.
        UsageError: `baseline` names no model, or there are no rounds.
    """
    with ExitStack() as stack:
        places = {name: stack.enter_context(folders.scratch()) for name in models}
        traced = {n: OnnxRunner(m, threads=threads, trace=places[n]) for n, m in models.items()}
        plain = {n: OnnxRunner(m, threads=threads) for n, m in models.items()}
        calls = {n: partial(runner.run, images) for n, runner in plain.items()}
        calls |= {_traced(n): partial(runner.run, images) for n, runner in traced.items()}
        compared = latency.compare(
            calls,
            baseline=baseline,
            batch_size=len(next(iter(images.values())) if isinstance(images, Mapping) else images),
            threads=threads,
            n_rounds=n_rounds,
            round_ms=_ROUND_MS,
        )
        profiles = {}
        for name, runner in traced.items():
            runs = _runs(_events(runner.end_trace()))[-compared.latencies[_traced(name)].n_calls :]
            node_ms, overhead_ms = _without_overhead(_by_round(runs, n_rounds), compared.latencies[name].p50_ms)
            graph = _named(onnx.load(places[name] / OPTIMIZED), list(node_ms))
            profiles[name] = Profile(graph, node_ms, compared.latencies[name].p50_ms, overhead_ms)
    return Profiles(profiles, {name: compared.ratios[name] for name in models})


def node_shapes(model: bytes, images: Given) -> dict[str, NodeShapes]:
    """Return the shapes at every node of the model in its file, from one unoptimised run."""
    with folders.scratch() as folder:
        runner = OnnxRunner(model, optimization="disabled", trace=folder)
        runner.run(images)
        events = _events(runner.end_trace())
    return {_node(event): _shapes(event["args"]) for event in events if _is_node(event)}


def _named(model: onnx.ModelProto, timed: Sequence[str]) -> onnx.ModelProto:
    """Give nodes without a name (those of a function's body, such as HardSwish) the name that the profiler has for
    them, a type and a number: of each type, in the order of execution, which is that of the file."""
    known = {node.name for node in model.graph.node}
    waiting: dict[str, list[str]] = {}
    for name in timed:
        if name not in known:
            waiting.setdefault(name.rpartition("_")[0], []).append(name)
    for number, node in enumerate(node for node in model.graph.node if not node.name):
        names = waiting.get(node.op_type)
        node.name = names.pop(0) if names else f"{node.op_type} without a name {number}"
    return model


def _traced(name: str) -> str:
    return f"{name}, traced"


def _events(file: Path) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    return events


def _runs(events: Sequence[dict[str, Any]]) -> list[dict[str, float]]:
    """Return the time of each node in ms, run by run; the event of a run follows the events of its nodes."""
    runs: list[dict[str, float]] = [{}]
    for event in events:
        if _is_node(event):
            name = _node(event)
            runs[-1][name] = runs[-1].get(name, 0.0) + event["dur"] / 1000
        elif event["name"] == "model_run":
            runs.append({})
    return runs[:-1]


def _by_round(runs: Sequence[Mapping[str, float]], n_rounds: int) -> dict[str, NDArray[Any]]:
    """Return the mean time of each node over the calls of each round, without the slowest calls."""
    n_calls = len(runs) // n_rounds
    n_kept = max(1, round(_KEPT_FRACTION * n_calls))
    times = {node: np.array([run.get(node, 0.0) for run in runs]).reshape(n_rounds, n_calls) for node in runs[0]}
    return {node: np.sort(t, axis=1)[:, :n_kept].mean(axis=1) for node, t in times.items()}


def _without_overhead(node_ms: dict[str, NDArray[Any]], call_ms: float) -> tuple[dict[str, NDArray[Any]], float]:
    """Take the same time off every node, at most its own, so that all add up to `call_ms`; return that time too."""
    medians = np.sort([float(np.median(t)) for t in node_ms.values()])[::-1]
    overhead_ms = 0.0
    for n_counted in range(len(medians), 0, -1):
        overhead_ms = max(0.0, (float(medians[:n_counted].sum()) - call_ms) / n_counted)
        if overhead_ms < medians[n_counted - 1]:
            break
    return {node: np.maximum(t - overhead_ms, 0.0) for node, t in node_ms.items()}, overhead_ms


def _is_node(event: Mapping[str, Any]) -> bool:
    return event.get("cat") == "Node" and str(event["name"]).endswith(_NODE_EVENT)


def _node(event: Mapping[str, Any]) -> str:
    return str(event["name"]).removesuffix(_NODE_EVENT)


def _shapes(arguments: Mapping[str, Any]) -> NodeShapes:
    """Read `[{"float": [1, 8, 4, 4]}, ...]` in an event's arguments."""

    def first(key: str) -> tuple[int, ...]:
        shapes: list[dict[str, list[int]]] = arguments[key]
        return tuple(next(iter(shapes[0].values()), ())) if shapes else ()

    return NodeShapes(first("input_type_shape"), first("output_type_shape"))
