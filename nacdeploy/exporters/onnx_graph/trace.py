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
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nacdeploy.base.errors import NacdeployError
from nacdeploy.exporters.onnx_graph import idioms
from nacdeploy.exporters.onnx_graph.lowering import ATTACHED, DOMAIN, EDGE, PARAMETER, OnnxGraph, lower_markers
from nacdeploy.exporters.onnx_graph.parameters import affine, layer_parameters
from nacdeploy.models.ports import join, ports_of
from nacdeploy.network.attachments.attachment import Attachment
from nacdeploy.network.captured.graph import call_plain, weighted_consumer, with_weights
from nacdeploy.network.network import Network, plain_weight
from nacdeploy.network.plain import layer_inputs
from nacdeploy.network.semantics import Use

INPUT, OUTPUT = "images", "logits"


@dataclass(frozen=True)
class Traced:
    """A graph with markers.

    Attributes:
        model: the graph.
        outputs: the names of its outputs, the network's own first, then the exits in order of execution.
        norms: the batch norm that is folded into each layer.
        token_layers: the layers that read tokens (N, L, C).
    """

    model: onnx.ModelProto
    outputs: tuple[str, ...]
    norms: dict[str, str]
    token_layers: frozenset[str]


def to_onnx(network: Network, opset: int) -> OnnxGraph:
    """Export `network` as it simulates, with a dynamic batch.

    Inputs and outputs are named by the network's ports, or are `images` (N, C, H, W) and `logits` (N, K).

    Raises:
        NacdeployError: torch's exporter cannot export the network.
    """
    return lower(trace(network, opset), network)


def trace(network: Network, opset: int) -> Traced:
    """Return the graph of `network` with a marker at every edge and parameter, for `lower`.

    Raises:
        NacdeployError: torch's exporter cannot export the network.
    """
    marked, (inputs, example) = _Marked(network).eval(), _example(network)
    outputs = (*_own_outputs(network), *(f"exit_{i}" for i in range(1, len(network.exits) + 1)))
    with _quiet():
        try:
            program = _program(marked, example, opset, list(inputs), list(outputs))
        except Exception as error:  # the user's forward and a dozen passes may raise any error
            raise NacdeployError(f"torch cannot export this network to ONNX: {_cause(error)}") from error
    if program is None:
        raise NacdeployError("torch's exporter returned no program")
    model = program.model_proto
    (written,) = (each.version for each in model.opset_import if each.domain == "")
    if written != opset:
        raise NacdeployError(f"torch's exporter wrote opset {written}, not {opset}: change export.opset in the profile")
    idioms.simplify(model.graph)
    return Traced(_slim(model), outputs, marked.norms, marked.token_layers)


def _program(marked: "_Marked", example: Any, opset: int, inputs: list[str], outputs: list[str]) -> Any:
    """Return the program of torch's exporter for a batch of any size.

    Older versions of torch (2.9) take another kernel of attention for a batch of one and refuse a range that begins
    there; the graph of a range from two takes one as well.
    """

    def export(least: int) -> Any:
        batch = {0: torch.export.Dim("batch", min=least, max=4096)}
        return torch.onnx.export(
            marked,
            example,
            dynamo=True,
            opset_version=opset,
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=((batch,) * len(inputs),),
            verbose=False,
            external_data=False,
        )

    try:
        return export(1)
    except Exception as error:  # see `trace`
        if "Constraints violated" not in str(error):
            raise
        return export(2)


def lower(traced: Traced, network: Network) -> OnnxGraph:
    """Return the graph that answers as `network` simulates.

    `network` is the traced one, or the same with fewer quantized layers: everything outside its plan becomes float.
    """
    parameters = layer_parameters(network, traced.norms, traced.token_layers)
    return lower_markers(traced.model, traced.outputs, parameters, network)


class _Marked(nn.Module):
    """The network for tracing: its graph, run with markers at edges and parameters."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        # a tensor with gradients gets another kernel of attention, whose layout later passes of the exporter lose
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.token_layers = frozenset(_reading_tokens(network))
        self.norms = _folded_norms(network, self.token_layers)
        self.layers = network.layers
        ports = ports_of(network.backbone)
        self.packs = ports is not None and ports.packs
        for name, module in self.layers.items():
            self._add(name, plain_weight(network, name, module))

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        found: dict[str, Tensor] = {}
        heads, joined = self.network.heads, _joined(self.network)
        x: Any = inputs if self.packs else inputs[0]
        logits = self.network.run(x, self, lambda node, value: found.update({node: value}), {*heads, *joined})
        own = [found[node] for node in joined] if joined else [logits]
        return (*own, *(head(found[node]) for node, head in heads.items()))

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
        """Add parameters of the right shapes; lowering brings the values."""
        weight = weight.detach()
        laid_out = weight.T.contiguous() if name in self.token_layers else weight
        self.register_buffer(_buffer(name, "weight"), laid_out)
        self.register_buffer(_buffer(name, "bias"), torch.zeros(len(weight)))


def _example(network: Network) -> tuple[tuple[str, ...], tuple[Tensor, ...]]:
    """Return the names of the inputs, and a batch of two for each."""
    ports = ports_of(network.backbone)
    if ports is None or not ports.packs:
        return (INPUT if ports is None else ports.inputs[0].name,), (torch.zeros(2, *network.input_shape),)
    blank = [torch.zeros(2, *port.shape, dtype=port.torch_dtype) for port in ports.inputs]
    return tuple(port.name for port in ports.inputs), tuple(blank)


def _own_outputs(network: Network) -> tuple[str, ...]:
    """Return the names of the outputs of the network's own end.

    Raises:
        NacdeployError: the outputs cannot be told apart, since the network cannot be captured.
    """
    ports = ports_of(network.backbone)
    if ports is None:
        return (OUTPUT,)
    if network.graph is None and (ports.packs or ports.joins):
        why = f"the network cannot be captured ({network.captured.why_not})"
        raise NacdeployError(f"{why}, so that its inputs and outputs cannot be exported one by one")
    return tuple(port.name for port in ports.outputs)


def _joined(network: Network) -> tuple[str, ...]:
    """Return the nodes of the outputs that the network joins; none if it has one output (N, K)."""
    nodes = network.graph.nodes if network.graph is not None else ()
    return next((tuple(each.name for each in node.args[0]) for node in nodes if node.target is join), ())


def _marker(kind: str, x: Tensor, attributes: dict[str, Any]) -> Tensor:
    return torch.onnx.ops.symbolic(f"{DOMAIN}::{kind}", [x], attributes, dtype=x.dtype, shape=x.shape, version=1)


def _buffer(layer: str, kind: str) -> str:
    """Return the name of a layer's weight or bias without dots, which a buffer's name may not have."""
    return f"{layer}.{kind}".replace(".", "/")


def _folded_norms(network: Network, token_layers: frozenset[str]) -> dict[str, str]:
    """Return the batch norm that follows each weighted layer as its only reader, if both are called once.

    A norm behind `token_layers` is not folded: their output channels are not the axis that the norm normalises. Nor is
    a norm behind weights that share floats: folding would change the shared values.

    Raises:
        NacdeployError: a norm keeps no statistics.
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
    """Yield the linear layers that read (N, L, C)."""
    layers = network.layers
    read = layer_inputs(network, network.example_input())
    return (name for name, x in read if isinstance(layers[name], nn.Linear) and x.dim() > 2)


def _slim(model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove the exporter's stack traces, which name paths of this machine and can outweigh small weights."""
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


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence torch's exporter, which reports its steps, warns about itself and prints graphs that it cannot export."""
    former = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(former)


def _cause(error: BaseException) -> str:
    """Return the first line of the innermost error of a chain of errors."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
