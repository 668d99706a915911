"""Checks on the built ONNX graph: what precision each layer really holds, and how close its outputs come.

Everything here is read from the graph or from outputs, never from what was asked for.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from nacdeploy.base.errors import NacdeployError, UsageError
from nacdeploy.base.precision import Precision
from nacdeploy.exporters.artifacts.artifact import Lowering, Parity
from nacdeploy.exporters.artifacts.onnx_links import Links, module_path
from nacdeploy.metrics import Metric
from nacdeploy.network.attachments.sparsity import Found, sparsity_of
from nacdeploy.network.captured import decibels

COMPUTE = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
# These move or rename values and change none of them, so a quantised value stays quantised through them.
_SHAPE_ONLY = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
_INT8 = frozenset({"int8", "uint8"})


class Wish(NamedTuple):
    """What was asked of one layer; `weight` is the name of its weight initializer, `why_float` says why a layer of a
    quantized network was asked to stay float."""

    kind: str
    precision: str
    weight: str
    why_float: str = ""


_NONE = Found(0.0, False)


@dataclass(frozen=True)
class Held:
    """What the graph holds for one layer; `reason` says why it is not int8, `n_bits` what its integers need, `zeros`
    what its weight shows."""

    precision: str
    reason: str
    node: str
    n_bits: int | None = None
    zeros: Found = _NONE


@dataclass(frozen=True)
class _Operand:
    """One input of a multiplication: where its values come from, as which integers ("" for none), in which float."""

    source: str
    integer_type: str
    float_type: str


class _Graph:
    """What the links of a model say of its multiplications."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.links = Links(model.graph)
        self.constants = self.links.constants
        self.input_types = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}

    @cached_property
    def by_layer(self) -> dict[str, list[onnx.NodeProto]]:
        """The computing nodes by the module path that torch's exporter left in their metadata."""
        found = defaultdict(list)
        for node in self.links.nodes:
            if node.op_type in COMPUTE:
                found[module_path(node)].append(node)
        return found

    def computing_with(self, weight: str) -> list[onnx.NodeProto]:
        """The multiplications that a weight reaches, directly or through dequantisation and layout."""
        found = []
        for node in self.links.readers.get(weight, []):
            if node.op_type in COMPUTE:
                found.append(node)
            elif node.op_type in _SHAPE_ONLY | {"DequantizeLinear", "Cast"}:
                found += self.computing_with(node.output[0])
        return found

    def operand(self, name: str) -> _Operand:
        """Follow one input of a multiplication back to where its values come from."""
        maker = self.links.producers.get(name)
        if maker is not None and maker.op_type in _SHAPE_ONLY:
            return self.operand(maker.input[0])
        if maker is not None and maker.op_type == "DequantizeLinear":
            return _Operand(maker.input[0], self.integer_type(maker), self._constant_type(maker.input[1]))
        return _Operand(name, "", self._constant_type(name))

    def integer_type(self, node: onnx.NodeProto) -> str:
        """The type that a Q or DQ node has on its integer side; the standard's default is uint8."""
        if len(node.input) > 2 and node.input[2] in self.constants:
            return self._constant_type(node.input[2])
        if node.op_type == "QuantizeLinear":
            written = (a.i for a in node.attribute if a.name == "output_dtype")
            return _type_name(next(written, 0) or onnx.TensorProto.UINT8)
        source = node.input[0]
        if source in self.links.producers:
            return self.integer_type(self.links.producers[source])
        return self._constant_type(source) or _type_name(self.input_types.get(source, 0))

    def _constant_type(self, name: str) -> str:
        return _type_name(self.constants[name].data_type) if name in self.constants else ""


def held_precision(model: onnx.ModelProto, layer_weight_names: Mapping[str, str]) -> dict[str, Held]:
    """What the graph holds for each layer, found from the name of its weight initializer.

    A layer is "int8" only where both its weight (from an int8 initializer) and its data come through DequantizeLinear.
    A weight that the exporter renamed (a folded transpose) is found by the module path in the node's metadata.
    """
    graph = _Graph(model)
    return {layer: _held(graph, layer, weight) for layer, weight in layer_weight_names.items()}


def lowering_rows(model: onnx.ModelProto, asked: Mapping[str, Wish]) -> list[Lowering]:
    """One row per layer: what was asked, what the graph holds and why they differ."""
    held = held_precision(model, {layer: wish.weight for layer, wish in asked.items()})
    return [_row(layer, wish, held[layer]) for layer, wish in asked.items()]


def unsigned_nodes(model: onnx.ModelProto) -> list[str]:
    """The names of the quantise and dequantise nodes whose integers are unsigned."""
    graph = _Graph(model)
    pairs = (node for node in graph.links.nodes if node.op_type in ("QuantizeLinear", "DequantizeLinear"))
    return [node.name for node in pairs if graph.integer_type(node).startswith("uint")]


def n_bits_used(initializer: onnx.TensorProto) -> int:
    """The smallest signed width that holds all integers of a tensor: 4 for values from -8 to 7."""
    values = numpy_helper.to_array(initializer).astype(np.int64)
    return 1 + max(int(values.max(initial=0)).bit_length(), int(~values.min(initial=-1)).bit_length())


def snr_db(reference: NDArray[Any], test: NDArray[Any]) -> float:
    """Signal to noise ratio of outputs, `10 log10(sum ref^2 / sum (ref - test)^2)`.

    Equal arrays give inf; anything not finite gives -inf, so that no threshold lets it pass.
    """
    exact, other = (torch.from_numpy(np.ascontiguousarray(values)) for values in (reference, test))
    return decibels.snr_db(exact, other)


def agreement(a: NDArray[Any], b: NDArray[Any], metric: Metric) -> float:
    """The fraction of rows `(N, K)` with the same answer; a row that is not finite never agrees.

    Raises:
        UsageError: the shapes differ or there are no rows.
    """
    if a.shape != b.shape or len(a) == 0:
        raise UsageError(f"cannot compare outputs of the shapes {a.shape} and {b.shape}")
    finite = np.isfinite(a).all(axis=-1) & np.isfinite(b).all(axis=-1)
    return float(np.mean(finite & metric.agrees(torch.from_numpy(a), torch.from_numpy(b)).numpy()))


def parity(reference: NDArray[Any], test: NDArray[Any], optimization: str, metric: Metric) -> Parity:
    """The parity record of two outputs `(N, K)` for the manifest.

    Raises:
        NacdeployError: an output is not finite.
    """
    ratio_db = snr_db(reference, test)
    if not (np.isfinite(reference).all() and np.isfinite(test).all()):
        raise NacdeployError("an output of the model is not a finite number; train or quantize it again")
    agreed = agreement(reference, test, metric)
    return Parity(len(reference), agreed, None if ratio_db == np.inf else ratio_db, optimization)


def _row(layer: str, wish: Wish, held: Held) -> Lowering:
    zeros = held.zeros
    reason = _reason(wish, held)
    return Lowering(
        layer, wish.kind, wish.precision, held.precision, reason, held.node, zeros.zero_fraction, zeros.is_two_four
    )


def _held(graph: _Graph, layer: str, weight: str) -> Held:
    nodes = graph.computing_with(weight) or graph.by_layer.get(layer, [])
    if not nodes:
        return Held("absent", "no node uses this weight", "")
    # A shared weight is as good as the worst of its uses.
    return min((_held_by(graph, node) for node in nodes), key=lambda held: held.precision == "int8")


def _held_by(graph: _Graph, node: onnx.NodeProto) -> Held:
    data, weight = graph.operand(node.input[0]), graph.operand(node.input[1])
    if data.source in graph.constants and weight.source not in graph.constants:
        data, weight = weight, data
    float_type = weight.float_type or data.float_type or "float32"
    if weight.source not in graph.constants:
        return Held(float_type, "weight is no constant", node.name)
    zeros = _zeros(graph.constants[weight.source], node)
    if not weight.integer_type:
        return Held(float_type, "weight is float", node.name, zeros=zeros)
    n_bits = n_bits_used(graph.constants[weight.source])
    if weight.integer_type != "int8":
        return Held(float_type, f"weight is {weight.integer_type}, not int8", node.name, n_bits, zeros)
    if data.integer_type not in _INT8:
        return Held(float_type, "activation input is not quantised", node.name, n_bits, zeros)
    return Held("int8", "", node.name, n_bits, zeros)


def _zeros(weight: onnx.TensorProto, node: onnx.NodeProto) -> Found:
    """What a weight shows along its input channels, which a matrix product has first."""
    values = numpy_helper.to_array(weight)
    return sparsity_of(values.T if node.op_type == "MatMul" else values)


def _reason(wish: Wish, held: Held) -> str:
    asked = Precision.recorded(wish.precision)
    if held.precision == "absent":
        return held.reason
    if min(asked.weight_bits, asked.activation_bits) > 8:
        return wish.why_float if held.precision == "float32" else _instead_of_float(held)
    if held.precision != "int8":
        return held.reason
    reasons = []
    if asked.weight_bits < 8:
        fits = held.n_bits is not None and held.n_bits <= asked.weight_bits
        reasons.append(f"values fit {asked.weight_bits} bits" if fits else f"values need {held.n_bits} bits")
    if asked.activation_bits < 8:
        reasons.append(f"activations of {asked.activation_bits} bits are carried in 8")
    return "; ".join(reasons)


def _instead_of_float(held: Held) -> str:
    return "the float rest is FP16" if held.precision == "float16" else "the graph is quantised here"


def _type_name(data_type: int) -> str:
    return "float32" if data_type == onnx.TensorProto.FLOAT else onnx.TensorProto.DataType.Name(data_type).lower()
