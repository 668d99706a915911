"""From a network to an ONNX graph, in two steps: `trace` (once, seconds) and `lower` (milliseconds, for every choice
of precision).

Tracing runs torch's exporter over the network with its batch norms folded and leaves a marker at every edge that may be
quantized and at every layer's parameters. Lowering puts integers, Q/DQ pairs or plain floats in place of the markers.
"""

import copy
import io
import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nacdeploy.base.errors import NacdeployError
from nacdeploy.exporters.onnx_graph.lowering import ATTACHED, DOMAIN, EDGE, PARAMETER, OnnxGraph, lower_markers
from nacdeploy.exporters.onnx_graph.parameters import affine, layer_parameters
from nacdeploy.network.attachments.attachment import Attachment
from nacdeploy.network.captured.graph import call_plain, weighted_consumer, with_weights
from nacdeploy.network.network import Network, Use, layer_inputs, plain_weight

INPUT, OUTPUT = "images", "logits"


@dataclass(frozen=True)
class Traced:
    """A graph with markers, the names of its outputs (the network's own first, then the exits in order of execution),
    the batch norm that is folded into each layer, and the layers that read tokens (N, L, C)."""

    model: onnx.ModelProto
    outputs: tuple[str, ...]
    norms: dict[str, str]
    token_layers: frozenset[str]


def to_onnx(network: Network, opset: int) -> OnnxGraph:
    """Export `network` as it simulates, with a dynamic batch, input `images` (N, C, H, W) float32.

    Raises:
        NacdeployError: torch's exporter cannot export the network.
    """
    return lower(trace(network, opset), network)


def trace(network: Network, opset: int) -> Traced:
    """The graph of `network` with a marker at every edge and parameter, for `lower`.

    Raises:
        NacdeployError: torch's exporter cannot export the network.
    """
    marked = _Marked(network).eval()
    outputs = (OUTPUT, *(f"exit_{i}" for i in range(1, len(network.exits) + 1)))
    example = torch.zeros(2, *network.input_shape)
    batch = {0: torch.export.Dim("batch", min=1, max=4096)}
    with _quiet():
        try:
            program = torch.onnx.export(
                marked,
                (example,),
                dynamo=True,
                opset_version=opset,
                input_names=[INPUT],
                output_names=list(outputs),
                dynamic_shapes=(batch,),
                verbose=False,
                external_data=False,
            )
        except Exception as error:  # the exporter raises what the user's forward and a dozen passes raise
            raise NacdeployError(f"torch cannot export this network to ONNX: {_cause(error)}") from error
    if program is None:
        raise NacdeployError("torch's exporter returned no program")
    model = program.model_proto
    (written,) = (each.version for each in model.opset_import if each.domain == "")
    if written != opset:
        raise NacdeployError(f"torch's exporter wrote opset {written}, not {opset}: change export.opset in the profile")
    _name_average_pools(model.graph)
    return Traced(_slim(model), outputs, marked.norms, marked.token_layers)


def lower(traced: Traced, network: Network) -> OnnxGraph:
    """The graph that answers as `network` simulates. `network` is the one that was traced, or the same with fewer of
    its layers quantized: what its plan does not name becomes float.
    """
    parameters = layer_parameters(network, traced.norms, traced.token_layers)
    return lower_markers(traced.model, traced.outputs, parameters, network)


class _Marked(nn.Module):
    """The network that is traced: its graph run with markers at edges and parameters."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        # what wants gradients chooses another kernel of attention, whose layout the exporter's later passes do not keep
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.token_layers = frozenset(_reading_tokens(network))
        self.norms = _folded_norms(network, self.token_layers)
        self.layers = network.layers
        for name, module in self.layers.items():
            self._add(name, plain_weight(network, name, module))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        found: dict[str, Tensor] = {}
        heads = self.network.heads
        logits = self.network.run(x, self, lambda node, value: found.update({node: value}), set(heads))
        return (logits, *(head(found[node]) for node, head in heads.items()))

    def edge(self, key: str, x: Tensor, use: Use) -> Tensor:
        return _marker(EDGE, x, {"reader": use[0], "position": use[1]})

    def attached(self, key: str, module: Attachment, x: Tensor) -> Tensor:
        return _marker(ATTACHED, x, {"key": key})

    def layer(self, name: str, module: nn.Module, x: Tensor) -> Tensor:
        if name in self.norms.values():
            return x
        if name not in self.layers:
            return call_plain(module, x)
        weight, bias = (
            _marker(PARAMETER, self.get_buffer(_buffer(name, kind)), {"layer": name, "kind": kind})
            for kind in ("weight", "bias")
        )
        if name in self.token_layers:  # ONNX Runtime wants a plain matrix product
            return torch.matmul(x, weight) + bias
        return with_weights(module, x, weight, bias)

    def _add(self, name: str, weight: Tensor) -> None:
        """Parameters of the right shapes; lowering brings the values."""
        weight = weight.detach()
        laid_out = weight.T.contiguous() if name in self.token_layers else weight
        self.register_buffer(_buffer(name, "weight"), laid_out)
        self.register_buffer(_buffer(name, "bias"), torch.zeros(len(weight)))


def _marker(kind: str, x: Tensor, attributes: dict[str, Any]) -> Tensor:
    return torch.onnx.ops.symbolic(f"{DOMAIN}::{kind}", [x], attributes, dtype=x.dtype, shape=x.shape, version=1)


def _buffer(layer: str, kind: str) -> str:
    """The name of a layer's weight or bias, without the dots that a buffer's name may not have."""
    return f"{layer}.{kind}".replace(".", "/")


def _folded_norms(network: Network, token_layers: frozenset[str]) -> dict[str, str]:
    """The batch norm that follows each weighted layer as its only reader, where both are called once; not behind
    `token_layers`, whose output channels are not the axis that it normalises, nor behind weights that share floats, of
    which folding would make others.

    Raises:
        NacdeployError: one of them keeps no statistics.
    """
    if network.graph is None:
        return {}
    norms = {}
    modules = dict(network.backbone.named_modules())
    calls = Counter(str(node.target) for node in network.graph.nodes if node.op == "call_module")
    tapped = set(network.heads) | {edge for edges in network.plan.inputs.values() for edge in edges.values()}
    tapped |= {each.node for each in network.attached.values()}
    for node in network.graph.nodes:
        if not weighted_consumer(node, network.backbone) or len(node.users) != 1 or node.name in tapped:
            continue
        reader = next(iter(node.users))
        is_norm = reader.op == "call_module" and isinstance(modules[str(reader.target)], _BatchNorm)
        is_once = calls[str(node.target)] == calls[str(reader.target)] == 1
        shares_floats = network.sharing.shares_floats(str(node.target))
        if is_norm and is_once and node.target not in token_layers and not shares_floats:
            affine(modules[str(reader.target)])
            norms[str(node.target)] = str(reader.target)
    return norms


def _reading_tokens(network: Network) -> Iterator[str]:
    """The linear layers that read (N, L, C)."""
    layers = network.layers
    read = layer_inputs(network, network.example_input())
    return (name for name, x in read if isinstance(layers[name], nn.Linear) and x.dim() > 2)


def _slim(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without the exporter's stack traces, which name paths of this machine and weigh more than small weights."""
    for node in model.graph.node:
        kept = [p for p in node.metadata_props if p.key == "pkg.torch.onnx.name_scopes"]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
        node.doc_string = ""
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
    del model.graph.value_info[:]
    del model.graph.metadata_props[:], model.metadata_props[:]
    return model


def _name_average_pools(graph: onnx.GraphProto) -> None:
    """Write means over height and width of (N, C, H, W) as GlobalAveragePool: runtimes have a kernel on integers for
    that name alone."""
    n_axes = {value.name: len(value.type.tensor_type.shape.dim) for value in graph.value_info}
    axes = {t.name: sorted(numpy_helper.to_array(t).flatten().tolist()) for t in graph.initializer if len(t.dims) == 1}
    for node in graph.node:
        if node.op_type != "ReduceMean" or len(node.input) < 2 or n_axes.get(node.input[0]) != 4:
            continue
        keeps = all(a.i == 1 for a in node.attribute if a.name == "keepdims")
        if keeps and axes.get(node.input[1]) in ([2, 3], [-2, -1]):
            node.op_type = "GlobalAveragePool"
            del node.input[1:], node.attribute[:]


@contextmanager
def _quiet() -> Iterator[None]:
    """torch's exporter reports its steps, warns about itself and prints graphs that it cannot export."""
    former = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(former)


def _cause(error: BaseException) -> str:
    """The first line of what went wrong at the bottom of a chain of errors."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
