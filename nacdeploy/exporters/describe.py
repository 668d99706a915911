"""The manifest of an artifact before checks, measurements and engines add their part."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from nacdeploy.base import records
from nacdeploy.cascades.confidence import SAID
from nacdeploy.data import Dataset
from nacdeploy.exporters.artifacts.artifact import (
    MODEL_FILE,
    DataSource,
    Exit,
    Gate,
    Manifest,
    Parity,
    Preprocessing,
    TensorInfo,
)
from nacdeploy.exporters.onnx_graph.lowering import OnnxGraph
from nacdeploy.exporters.onnx_graph.trace import INPUT
from nacdeploy.exporters.targets import Target
from nacdeploy.metrics import Metric, gate_of, schema
from nacdeploy.models.ports import Port
from nacdeploy.network.network import Network
from nacdeploy.profile import Profile
from nacdeploy.strategies.state import CompressionState
from nacdeploy.strategies.steps.checkpoint import StepRecord
from nacdeploy.task import Task


@dataclass(frozen=True)
class Context:
    """The origin of an artifact for its manifest."""

    steps: tuple[StepRecord, ...] = ()
    model: dict[str, Any] = field(default_factory=dict)
    data: DataSource | None = None
    baseline: dict[str, Any] = field(default_factory=dict)
    license: str = ""


def manifest_of(
    state: CompressionState,
    graph: OnnxGraph,
    task: Task,
    profile: Profile,
    target: Target,
    context: Context,
) -> Manifest:
    """Return the manifest of a state that is deployed as `graph`, before checks and builds."""
    return Manifest(
        target=target.name,
        model_file=MODEL_FILE,
        inputs=_infos(task.spec.ports.inputs if task.spec.ports else (Port(INPUT, task.data.input_shape),)),
        outputs=_infos(
            task.spec.ports.outputs if task.spec.ports else [Port(n, (task.data.n_outputs,)) for n in graph.outputs]
        ),
        ports=task.spec.ports,
        preprocessing=None if task.spec.ports else _preprocessing(task.data),
        class_names=task.data.class_names,
        chain=str(state.chain),
        steps=context.steps,
        metrics={**records.to_data(state.metrics), "profile": profile.name},
        baseline=context.baseline,
        gate=_gate(state.network, graph, task.metric),
        model=context.model,
        data=context.data,
        license=profile.export.license or context.license,
        schema=schema(task.metric.name),
    )


def _infos(ports: Sequence[Port]) -> tuple[TensorInfo, ...]:
    return tuple(TensorInfo(port.name, ("batch", *port.shape), port.dtype) for port in ports)


def _preprocessing(data: Dataset) -> Preprocessing:
    channels, height, width = data.input_shape
    return Preprocessing(
        height=height,
        width=width,
        channels=channels,
        mean=data.mean,
        std=data.std,
        bits=data.bits,
        resize=data.shaping.resize,
        crop=data.shaping.crop,
        interpolation=data.shaping.interpolation,
        scale=1 / 255 if data.value_range == "0..1" else 1.0,
        channel_order=data.channel_order,  # type: ignore[arg-type]
    )


def _gate(network: Network, graph: OnnxGraph, metric: Metric) -> Gate | None:
    if not network.exits:
        return None
    heads = zip(graph.outputs[1:], network.heads.values(), strict=True)
    exits = tuple(Exit(name, head.place, float(head.threshold)) for name, head in heads)
    return Gate(said_rule(gate_of(metric)), exits, gate_of(metric))


def said_rule(name: str) -> str:
    """Say by which rule of `cascades.confidence` a gate takes an exit; "" is the metric's own."""
    return f"take the first exit whose {SAID.get(name, 'confidence')} reaches its threshold"


def note_of_original(parity: Parity, metric: Metric) -> str:
    """Say how near the artifact is to the float network at the chain's start."""
    ratio = "" if parity.snr_db is None else f", signal to noise {parity.snr_db:.1f} dB"
    return (
        f"as the original float network: {100 * parity.agreement:.2f} % of {parity.n_images} {metric.answer[1]}{ratio}"
    )


def notes_of(network: Network) -> tuple[str, ...]:
    notes = []
    if network.quantizers and network.graph is None:
        notes.append("the network's graph cannot be captured: only the inputs of its layers are quantized")
    return tuple(notes)
