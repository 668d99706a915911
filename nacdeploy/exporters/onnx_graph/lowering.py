"""Lowering: integers, Q/DQ pairs or floats in place of a traced graph's markers.

Stable names: `layers.<layer>.weight_q`, `.scale`, `.bias_q` for the parameters of a layer on integers, `.weight` and
`.bias` in float; `edges.<key>.scale` and `edges/<key>...` for activations; `attached.<key>...` and `attached/<key>/<n>`
for attachments.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor

from nacdeploy.base.errors import NacdeployError
from nacdeploy.exporters.artifacts.onnx_checks import Wish
from nacdeploy.exporters.onnx_graph.parameters import FloatParameters, IntegerParameters, LayerParameters
from nacdeploy.models.denormals import flushed
from nacdeploy.network.attachments.fake_quant import ActivationQuantizer
from nacdeploy.network.network import Network
from nacdeploy.network.semantics import Use

_FLOAT = onnx.TensorProto.FLOAT
_ROUNDED = ("Conv", "ConvTranspose", "Gemm")  # the layers whose float weights ONNX Runtime rounds
DOMAIN, EDGE, PARAMETER, ATTACHED = "nacdeploy", "Edge", "Parameter", "Attached"
IR_VERSION = 10


@dataclass(frozen=True)
class OnnxGraph:
    """A lowered graph.

    Attributes:
        model: the serialised model.
        outputs: the names of its outputs, the network's own first, then the exits in order of execution.
        asked: the request for each layer.
        edges: the dequantized tensor that each use of a quantized tensor reads.
    """

    model: bytes
    outputs: tuple[str, ...]
    asked: dict[str, Wish]
    edges: dict[Use, str]


def lower_markers(
    traced: onnx.ModelProto, outputs: tuple[str, ...], parameters: Mapping[str, LayerParameters], network: Network
) -> OnnxGraph:
    """Return the graph of `traced` with the parameters of each layer and the quantizers of `network`'s plan.

    Raises:
        NacdeployError: the plan quantizes an edge that was not marked when the graph was traced.
    """
    writer = _Writer()
    for node in traced.graph.node:
        if node.domain != DOMAIN:
            writer.keep(node)
        elif node.op_type == EDGE:
            writer.edge(node, network)
        elif node.op_type == ATTACHED:
            writer.attached(node, network)
        else:
            writer.parameter(node, parameters)
    if not network.grid.fuses_outputs:
        writer.keep_floats(traced.graph.initializer)
    planned = {(reader, position) for reader, keys in network.plan.inputs.items() for position in keys}
    if unmarked := sorted(planned - writer.edges.keys()):
        raise NacdeployError(f"node '{unmarked[0][0]}' is to read integers, but was traced as one that does not")
    model = onnx.ModelProto()
    model.CopyFrom(traced)
    del model.graph.node[:], model.graph.initializer[:], model.functions[:]
    model.graph.node.extend(writer.nodes)
    read = {name for node in writer.nodes for name in node.input} | {output.name for output in model.graph.output}
    used = [tensor for tensor in (*traced.graph.initializer, *writer.tensors.values()) if tensor.name in read]
    model.graph.initializer.extend(used)
    kept = [opset for opset in model.opset_import if opset.domain in ("", *{node.domain for node in writer.nodes})]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    model.ir_version = min(model.ir_version, IR_VERSION)
    asked = {layer: _asked(layer, each, network) for layer, each in parameters.items()}
    return OnnxGraph(model.SerializeToString(), outputs, asked, writer.edges)


def _n_channels(node: onnx.NodeProto, weight: onnx.TensorProto) -> int:
    """Return the input channels of a layer, by its weight."""
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "Conv":
        return int(weight.dims[1] * attributes.get("group", 1))
    return int(weight.dims[1] if attributes.get("transB", 0) else weight.dims[0])


def _asked(layer: str, parameters: LayerParameters, network: Network) -> Wish:
    tensor = "weight_q" if isinstance(parameters.deployed, IntegerParameters) else "weight"
    why = network.rule.why_float(layer, network.backbone.get_submodule(layer)) if network.rule else None
    return Wish(parameters.kind, str(parameters.precision), f"layers.{layer}.{tensor}", why or "")


@dataclass
class _Named:
    """A writer for one attachment: see `network.attachments.attachment.OnnxWriter`."""

    writer: "_Writer"
    key: str
    n_nodes: int = 0

    def constant(self, name: str, value: Tensor) -> str:
        return self.writer.constant(f"attached.{self.key}.{name}", value.detach().cpu())

    def node(self, operator: str, inputs: Sequence[str], **attributes: Any) -> str:
        self.n_nodes += 1
        return self.writer.node(operator, inputs, f"attached/{self.key}/{self.n_nodes}", **attributes)


@dataclass
class _Writer:
    """The written nodes and initializers, and the tensors in place of the markers' outputs."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    tensors: dict[str, onnx.TensorProto] = field(default_factory=dict)
    edges: dict[Use, str] = field(default_factory=dict)
    _renamed: dict[str, str] = field(default_factory=dict)
    _pairs: dict[tuple[str, str], str] = field(default_factory=dict)
    _key_of: dict[str, str] = field(default_factory=dict)

    def keep(self, node: onnx.NodeProto) -> None:
        """Keep a node that is no marker; its inputs become the tensors in place of the markers."""
        copied = onnx.NodeProto()
        copied.CopyFrom(node)
        copied.input[:] = [self._now(name) for name in node.input]
        self.nodes.append(copied)

    def edge(self, marker: onnx.NodeProto, network: Network) -> None:
        """Write a Q/DQ pair, shared by all readers of one tensor on one scale, or nothing."""
        attributes = {a.name: helper.get_attribute_value(a) for a in marker.attribute}
        reader, position = attributes["reader"].decode(), attributes["position"]
        source = self._now(marker.input[0])
        key = network.plan.inputs.get(reader, {}).get(position)
        self._renamed[marker.output[0]] = source
        if key is None:
            return
        if key == self._key_of.get(source):  # behind an operator that is gone from the graph: rounded already
            self._pairs[source, key] = source
        if (source, key) not in self._pairs:
            self._pairs[source, key] = self._pair(source, key, network.quantizers[key])  # type: ignore[arg-type]
        self.edges[reader, position] = self._renamed[marker.output[0]] = self._pairs[source, key]
        self._key_of[self._pairs[source, key]] = key

    def keep_floats(self, traced: Iterable[onnx.TensorProto]) -> None:
        """Let layers with float weights read integers channel by channel, all on the one scale.

        ONNX Runtime rounds the float weights of a layer that reads an integer tensor with a single scale, to 8 bits on
        one scale for the whole layer (its WeightBiasQuantization): the layer would be float in the file alone.
        """
        weights = {tensor.name: tensor for tensor in (*traced, *self.tensors.values()) if tensor.data_type == _FLOAT}
        makers = {node.output[0]: node for node in self.nodes if node.op_type == "DequantizeLinear"}
        made: dict[str, str] = {}
        for node in [each for each in self.nodes if each.op_type in _ROUNDED and len(each.input) > 1]:
            source, weight = makers.get(node.input[0]), weights.get(node.input[1])
            if source is None or weight is None or self.tensors[source.input[1]].dims:
                continue
            if (n := _n_channels(node, weight)) > 1:
                old = node.input[0]
                made[old] = node.input[0] = made.get(old) or self._by_channel(source, n)
        self._drop_unread(made)

    def _by_channel(self, dequantize: onnx.NodeProto, n: int) -> str:
        """Write a DequantizeLinear with the scale of another for each of `n` channels, behind the other."""
        name = f"{dequantize.output[0]}/by_channel"
        limits = [numpy_helper.to_array(self.tensors[each]) for each in dequantize.input[1:3]]
        for source, value in zip(dequantize.input[1:3], limits, strict=True):
            full = np.full(n, value, dtype=value.dtype)
            self.tensors[f"{source}.by_channel"] = numpy_helper.from_array(full, f"{source}.by_channel")
        inputs = [dequantize.input[0], *(f"{each}.by_channel" for each in dequantize.input[1:3])]
        made = helper.make_node("DequantizeLinear", inputs, [name], name=f"node_{name}", axis=1)
        self.nodes.insert(next(i for i, node in enumerate(self.nodes) if node is dequantize) + 1, made)
        return name

    def _drop_unread(self, replaced: Mapping[str, str]) -> None:
        """Remove the tensors in place of which others are read, where nobody reads them any more."""
        read = {name for node in self.nodes for name in node.input}
        gone = {old: new for old, new in replaced.items() if old not in read}
        self.nodes = [node for node in self.nodes if node.output[0] not in gone]
        self.edges = {use: gone.get(tensor, tensor) for use, tensor in self.edges.items()}

    def parameter(self, marker: onnx.NodeProto, parameters: Mapping[str, LayerParameters]) -> None:
        """Write a layer's weight or bias: an initializer, behind DequantizeLinear if it holds integers."""
        attributes = {a.name: helper.get_attribute_value(a).decode() for a in marker.attribute}
        layer, kind = attributes["layer"], attributes["kind"]
        deployed = parameters[layer].deployed
        name = f"layers.{layer}.{kind}"
        if isinstance(deployed, FloatParameters):
            value = self.constant(name, deployed.weight if kind == "weight" else deployed.bias)
        elif kind == "weight":
            value = self._dequantized(name, deployed.weight, deployed.scale, f"layers.{layer}.scale", deployed.axis)
        elif deployed.input_scale is None:
            value = self.constant(name, deployed.bias)
        else:
            scale = deployed.scale * deployed.input_scale
            integers = torch.round(deployed.bias / scale).to(torch.int32)
            value = self._dequantized(name, integers, scale, f"layers.{layer}.bias_scale", 0)
        self._renamed[marker.output[0]] = value

    def attached(self, marker: onnx.NodeProto, network: Network) -> None:
        """Write the nodes of an attachment."""
        (key,) = (helper.get_attribute_value(a).decode() for a in marker.attribute)
        written = network.attached[key].lower(_Named(self, key), self._now(marker.input[0]))
        self._renamed[marker.output[0]] = written

    def _now(self, name: str) -> str:
        return self._renamed.get(name, name)

    def constant(self, name: str, value: Tensor) -> str:
        self.tensors[name] = numpy_helper.from_array(flushed(value.detach()).contiguous().numpy(), name)
        return name

    def _dequantized(self, name: str, integers: Tensor, scale: Tensor, scale_name: str, axis: int) -> str:
        zeros = torch.zeros(len(scale), dtype=integers.dtype)
        inputs = [
            self.constant(f"{name}_q", integers),
            self.constant(scale_name, scale),
            self.constant(f"{name}_zero_point", zeros),
        ]
        self.node("DequantizeLinear", inputs, name, axis=axis)
        return name

    def _pair(self, source: str, key: str, quantizer: ActivationQuantizer) -> str:
        """Write Q and DQ; below 8 bits behind a clip, since the integers that carry the values are wider than their
        grid."""
        scale, zero_point = quantizer.scale_and_zero_point()
        kind = torch.uint8 if quantizer.affine else torch.int8
        constants = [
            self.constant(f"edges.{key}.scale", scale),
            self.constant(f"edges.{key}.zero_point", zero_point.to(kind)),
        ]
        # a second tensor on the same scale (an operand of a concatenation) has a pair of its own
        n_before = sum(other == key for _, other in self._pairs)
        stem = f"edges/{key}" if n_before == 0 else f"edges/{key}/{n_before}"
        if quantizer.bits < 8:
            limits = [
                self.constant(f"edges.{key}.{name}", (limit - zero_point) * scale)
                for name, limit in zip(("lowest", "highest"), quantizer.limits, strict=True)
            ]
            source = self.node("Clip", [source, *limits], f"{stem}/clipped")
        integers = self.node("QuantizeLinear", [source, *constants], f"{stem}/quantized")
        return self.node("DequantizeLinear", [integers, *constants], stem)

    def node(self, operator: str, inputs: Iterable[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, list(inputs), [output], name=f"node_{output}", **attributes))
        return output
