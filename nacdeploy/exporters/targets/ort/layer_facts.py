"""What a runtime says of each layer it runs. ONNX Runtime's profile fills `LayerFacts` here; TensorRT's layer profile
and engine inspector can fill the same on a GPU, and everything after it stays as it is.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from nacdeploy.exporters.artifacts import onnx_layers
from nacdeploy.exporters.artifacts.onnx_layers import BETWEEN, INT8_KERNELS, KERNELS, REFORMATS, OnnxLayer
from nacdeploy.exporters.targets.ort.profiling import Profile

# What computes something on a layer's output, and can be fused into its kernel.
_ACTIVATIONS = {"Clip", "Elu", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "PRelu", "Relu", "Sigmoid", "Tanh"}
_FUSABLE = frozenset({"Add", "BatchNormalization", "Mul"} | _ACTIVATIONS)


@dataclass(frozen=True)
class LayerFacts:
    """One layer (or `BETWEEN`) in the graph that a runtime built and timed.

    `kernels` are the operators that multiply for it, `reformats` those that only convert for it (each with how often),
    `fused` what of the file went into its kernel, `apart` what follows it by itself. Times are per call: all of it,
    the conversions in it, and all of it in the float twin (None: there is no twin). `twin_ratio` is twin time over
    time, paired by round (None: too short to time, or no twin).
    """

    layer: str
    held: str
    kernels: tuple[str, ...]
    time_ms: float
    reformat_ms: float
    twin_ms: float | None
    twin_ratio: float | None
    reformats: tuple[str, ...] = ()
    fused: tuple[str, ...] = ()
    apart: tuple[str, ...] = ()


# Below this the profiler, which counts microseconds, says nothing about a ratio.
SHORTEST_MS = 0.001


def from_onnx_runtime(
    file: onnx.ModelProto, layers: Sequence[OnnxLayer], own: Profile, twin: Profile | None
) -> dict[str, LayerFacts]:
    """The facts by layer, and those of what lies between layers under `BETWEEN`."""
    owner = onnx_layers.owners(own.graph.graph, file.graph, layers)
    twin_ms = _by_owner(twin, onnx_layers.owners(twin.graph.graph, file.graph, layers)) if twin else {}
    nodes = defaultdict(list)
    for node in own.graph.graph.node:
        nodes[owner[node.name]].append(node)
    fused = _fused(file, layers, own.graph.graph, owner)
    total = _by_owner(own, owner)
    none = np.zeros_like(next(iter(own.node_ms.values())))
    return {
        name: _facts(name, nodes[name], own, total.get(name, none), twin_ms.get(name, none) if twin else None, fused)
        for name in (*(layer.name for layer in layers), BETWEEN)
    }


def held_by(kernels: Iterable[str]) -> str:
    """The precision of a layer whose kernels are these: "int8" only if all are, "" without any."""
    found = list(kernels)
    if not found:
        return ""
    return "int8" if all(kernel in INT8_KERNELS for kernel in found) else "float32"


def _facts(
    name: str,
    nodes: Sequence[onnx.NodeProto],
    own: Profile,
    rounds_ms: NDArray[np.floating],
    twin_rounds_ms: NDArray[np.floating] | None,
    fused: Mapping[str, list[str]],
) -> LayerFacts:
    converting = [node for node in nodes if node.op_type in REFORMATS]
    kernels = [node.op_type for node in nodes if node.op_type in KERNELS]
    apart = [node.op_type for node in nodes if node.op_type not in REFORMATS | KERNELS]
    gone = fused.get(name, [])
    if any(op_type.startswith("Bias") for op_type in apart):  # BiasGelu has taken the addition, the kernel has not
        gone = [op_type for op_type in gone if op_type != "Add"]
    return LayerFacts(
        layer=name,
        held=held_by(kernels),
        kernels=_counted(kernels),
        time_ms=float(np.median(rounds_ms)),
        reformat_ms=sum(float(np.median(own.node_ms[node.name])) for node in converting if node.name in own.node_ms),
        twin_ms=None if twin_rounds_ms is None else float(np.median(twin_rounds_ms)),
        twin_ratio=_ratio(rounds_ms, twin_rounds_ms),
        reformats=_counted(node.op_type for node in converting),
        fused=_counted(gone),
        apart=_counted(apart),
    )


def _ratio(rounds_ms: NDArray[np.floating], twin_rounds_ms: NDArray[np.floating] | None) -> float | None:
    if twin_rounds_ms is None or min(np.median(rounds_ms), np.median(twin_rounds_ms)) < SHORTEST_MS:
        return None
    return float(np.median(twin_rounds_ms / np.maximum(rounds_ms, 1e-9)))


def _by_owner(profile: Profile, owner: Mapping[str, str]) -> dict[str, NDArray[np.floating]]:
    """The time of each owner by round. A node that the saved graph does not have lies between layers."""
    total: dict[str, NDArray[np.floating]] = {}
    for node, rounds_ms in profile.node_ms.items():
        name = owner.get(node, BETWEEN)
        total[name] = total.get(name, 0) + rounds_ms
    return total


def _fused(
    file: onnx.ModelProto, layers: Sequence[OnnxLayer], built: onnx.GraphProto, owner: Mapping[str, str]
) -> dict[str, list[str]]:
    """What followed each layer in the file and is no node of its own in the built graph."""
    others = (node for node in built.node if node.op_type not in KERNELS | REFORMATS)
    left = {onnx_layers.base_name(name) for node in others for name in (node.name, *node.output)}
    found: dict[str, list[str]] = defaultdict(list)
    for layer, nodes in onnx_layers.followers(file.graph, layers).items():
        gone = (node for node in nodes if node.op_type in _FUSABLE and not {node.name, *node.output} & left)
        found[layer] += [node.op_type for node in gone]
    for node in built.node:
        adds = node.op_type in ("Conv", "FusedConv") and len(node.input) > 3 and node.input[3] != ""
        if adds:
            found[owner[node.name]].append("Add")
    return found


def _counted(names: Iterable[str]) -> tuple[str, ...]:
    """Names in order of first appearance, those that appear n > 1 times as "n x name"."""
    return tuple(name if n == 1 else f"{n} x {name}" for name, n in Counter(names).items())
