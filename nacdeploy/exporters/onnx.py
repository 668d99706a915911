"""ONNX with real integers: a network's graph with its Q/DQ pairs, int8 weights and folded batch norms.

The grid of the simulation is kept to the last step: a batch norm behind a convolution multiplies the scales by
|gamma| / sigma and moves its sign into the integers, so that folding changes no integer grid.
"""

import copy
import io
import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass

import onnx
import torch
from torch import Tensor, nn

from nacdeploy.errors import NacdeployError
from nacdeploy.exporters.onnx_checks import Asked
from nacdeploy.layers import fake_quant
from nacdeploy.layers.capture import weighted_consumer
from nacdeploy.layers.fake_quant import ActivationQuantizer
from nacdeploy.layers.network import Network, with_weights
from nacdeploy.precision import FLOAT32, Precision

INPUT, OUTPUT = "images", "logits"
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_LARGEST_BIAS = 2.0**30


@dataclass(frozen=True)
class OnnxGraph:
    """A serialised model, the names of its outputs (the network's own first, then the exits in order of execution)
    and what was asked of each layer."""

    model: bytes
    outputs: tuple[str, ...]
    asked: dict[str, Asked]


def to_onnx(network: Network, opset: int) -> OnnxGraph:
    """Export `network` as it simulates, with a dynamic batch, input `images` (N, C, H, W) float32.

    Raises:
        NacdeployError: torch's exporter cannot export the network.
    """
    deployable = _Deployable(network).eval()
    outputs = (OUTPUT, *(f"exit_{i}" for i in range(1, len(network.exits) + 1)))
    example = torch.zeros(2, *network.input_shape)
    batch = {0: torch.export.Dim("batch", min=1, max=4096)}
    with _quiet():
        try:
            program = torch.onnx.export(
                deployable,
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
    return OnnxGraph(_slim(program.model_proto), outputs, deployable.asked)


class FoldedLayer(nn.Module):
    """The parameters of one layer as they are deployed: float, or int8 weights with a scale per output channel."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)


class QuantizedLayer(nn.Module):
    """Integers (int8, the layer's own shape, (in, out) for a linear layer over tokens), scales (out,), bias."""

    def __init__(self, weight_q: Tensor, scale: Tensor, bias: Tensor, input_scale: Tensor | None, axis: int) -> None:
        super().__init__()
        self.axis = axis
        self.register_buffer("weight_q", weight_q.movedim(0, axis).contiguous())
        self.register_buffer("scale", scale)
        self.register_buffer("zero_point", torch.zeros(len(scale), dtype=torch.int8))
        self.register_buffer("bias", bias if input_scale is None else None)
        if input_scale is not None:
            bias_scale = scale * input_scale
            self.register_buffer("bias_q", torch.round(bias / bias_scale).to(torch.int32))
            self.register_buffer("bias_scale", bias_scale)
            self.register_buffer("bias_zero_point", torch.zeros(len(scale), dtype=torch.int32))

    def weight(self) -> Tensor:
        return _dequantize(self.weight_q, self.scale, self.zero_point, self.axis)  # type: ignore[arg-type]

    def dequantized_bias(self) -> Tensor:
        if self.bias is not None:
            return self.bias  # type: ignore[return-value]
        return _dequantize(self.bias_q, self.bias_scale, self.bias_zero_point, 0)


class QuantizedEdge(nn.Module):
    """A Q/DQ pair; below 8 bits behind a clip, since the integers that carry the values are wider than their grid."""

    def __init__(self, quantizer: ActivationQuantizer) -> None:
        super().__init__()
        scale, zero_point = quantizer.scale_and_zero_point()
        kind = torch.uint8 if quantizer.affine else torch.int8
        self.register_buffer("scale", scale.clone())
        self.register_buffer("zero_point", zero_point.to(kind))
        lowest, highest = ((limit - zero_point) * scale for limit in quantizer.limits)
        self.clip = (float(lowest), float(highest)) if quantizer.bits < 8 else None

    def forward(self, x: Tensor) -> Tensor:
        if self.clip is not None:
            x = x.clamp(*self.clip)
        inputs = [x, self.scale, self.zero_point]
        dtype = self.zero_point.dtype
        q = torch.onnx.ops.symbolic("QuantizeLinear", inputs, {}, dtype=dtype, shape=x.shape)  # type: ignore[arg-type]
        return _dequantize(q, self.scale, self.zero_point)  # type: ignore[arg-type]


def fold(weight: Tensor, scale: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    """Integers and scales after multiplying each output channel by `factor` (C,): signs go into the integers, sizes
    into the scales; a factor of 0 leaves a channel of zeros."""
    sign = torch.sign(factor).to(torch.int8).reshape(-1, *[1] * (weight.dim() - 1))
    folded = scale * factor.abs()
    return weight * sign, torch.where(factor == 0, scale, folded)


class _Deployable(nn.Module):
    """The network that is exported: its graph run with integers in place of the simulation."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = copy.deepcopy(network)
        self.layers, self.edges = nn.ModuleDict(), nn.ModuleDict()
        self.asked: dict[str, Asked] = {}
        self._norms = _folded_norms(network)
        self._input_edges = _input_edges(network)
        for key, quantizer in network.quantizers.items():
            self.edges[key] = QuantizedEdge(quantizer)  # type: ignore[arg-type]
        for name, module in network.backbone.named_modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                self._add(name, module)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        found: dict[str, Tensor] = {}
        heads = self.network.heads
        logits = self.network.run(x, self, lambda node, value: found.update({node: value}), set(heads))
        return (logits, *(head(found[node]) for node, head in heads.items()))

    def edge(self, key: str, x: Tensor) -> Tensor:
        return self.edges[key](x)

    def layer(self, name: str, module: nn.Module, x: Tensor) -> Tensor:
        if name in self._norms.values():
            return x
        deployed = dict(self.layers.items()).get(_key(name))
        if isinstance(deployed, QuantizedLayer):
            if deployed.axis:
                return torch.matmul(x, deployed.weight()) + deployed.dequantized_bias()
            return with_weights(module, x, deployed.weight(), deployed.dequantized_bias())
        if isinstance(deployed, FoldedLayer):
            return with_weights(module, x, deployed.weight, deployed.bias)  # type: ignore[arg-type]
        return module(x)

    def _add(self, name: str, module: nn.Conv2d | nn.Linear) -> None:
        norm = self._norms.get(name)
        factor, shift = _affine(self.network.backbone.get_submodule(norm)) if norm else (None, None)
        bias = module.bias.detach() if module.bias is not None else torch.zeros(module.weight.shape[0])
        if factor is not None and shift is not None:
            bias = bias * factor + shift
        bits = self.network.plan.weight_bits.get(name)
        rule = self.network.rule
        key = f"layers.{_key(name)}"
        precision = Precision(bits, rule.precision.activation_bits) if bits and rule else FLOAT32
        if bits:
            self.layers[_key(name)] = self._quantized(name, module, bits, factor, bias)
        else:
            weight = module.weight.detach()
            folded = weight if factor is None else weight * factor.reshape(-1, *[1] * (weight.dim() - 1))
            self.layers[_key(name)] = FoldedLayer(folded.clone(), bias)
        tensor = "weight_q" if bits else "weight"
        self.asked[name] = Asked(fake_quant.kind_of(module), str(precision), f"{key}.{tensor}")

    def _quantized(
        self, name: str, module: nn.Conv2d | nn.Linear, bits: int, factor: Tensor | None, bias: Tensor
    ) -> QuantizedLayer:
        grid = self.network.grid
        weight, scale = fake_quant.integers(module.weight, grid.weight_maximum(bits))
        if factor is not None:
            weight, scale = fold(weight, scale, factor)
        edge = self._input_edges.get(name)
        input_scale = self.edges[edge].scale if edge else None
        if isinstance(input_scale, Tensor):  # on every grid: runtimes turn float biases into integers themselves
            weight, scale = _room_for_bias(weight, scale, bias, input_scale)
        axis = 1 if isinstance(module, nn.Linear) and _reads_tokens(self.network, name) else 0
        has_integer_bias = grid.integer_biases and not axis
        return QuantizedLayer(weight, scale, bias, input_scale if has_integer_bias else None, axis)  # type: ignore[arg-type]


def _room_for_bias(weight: Tensor, scale: Tensor, bias: Tensor, input_scale: Tensor) -> tuple[Tensor, Tensor]:
    """Widen the scale of channels whose bias would overflow 32 bits: next to such a bias their weights are nothing."""
    needed = bias.abs() / (input_scale * _LARGEST_BIAS)
    widened = torch.maximum(scale, needed).clamp(min=fake_quant.TINY)
    shrink = (scale / widened).reshape(-1, *[1] * (weight.dim() - 1))
    return torch.round(weight * shrink).to(torch.int8), widened


def _affine(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """What a batch norm does in evaluation: x * factor + shift, per channel.

    Raises:
        NacdeployError: it keeps no statistics.
    """
    if not isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d) or norm.running_mean is None or norm.running_var is None:
        raise NacdeployError("a batch norm without running statistics cannot be folded; set track_running_stats")
    gamma = norm.weight if norm.affine else torch.ones_like(norm.running_mean)
    beta = norm.bias if norm.affine else torch.zeros_like(norm.running_mean)
    factor = (gamma / torch.sqrt(norm.running_var + norm.eps)).detach()
    return factor, (beta - norm.running_mean * factor).detach()


def _folded_norms(network: Network) -> dict[str, str]:
    """The batch norm that follows each weighted layer as its only reader, where both are called once."""
    if network.graph is None:
        return {}
    norms = {}
    modules = dict(network.backbone.named_modules())
    calls = Counter(str(node.target) for node in network.graph.nodes if node.op == "call_module")
    tapped = set(network.heads) | {edge for edges in network.plan.inputs.values() for edge in edges.values()}
    for node in network.graph.nodes:
        if not weighted_consumer(node, network.backbone) or len(node.users) != 1 or node.name in tapped:
            continue
        reader = next(iter(node.users))
        is_norm = reader.op == "call_module" and isinstance(modules[str(reader.target)], NORMS)
        if is_norm and calls[str(node.target)] == calls[str(reader.target)] == 1:
            norms[str(node.target)] = str(reader.target)
    return norms


def _input_edges(network: Network) -> dict[str, str]:
    """The edge that each quantized layer reads; a layer that is called twice is left out."""
    if network.graph is None:
        return {layer: edges[0] for layer, edges in network.plan.inputs.items()}
    calls: dict[str, list[str]] = {}
    for node in network.graph.nodes:
        if weighted_consumer(node, network.backbone) and node.name in network.plan.inputs:
            calls.setdefault(str(node.target), []).append(network.plan.inputs[node.name][0])
    return {layer: edges[0] for layer, edges in calls.items() if len(edges) == 1}


def _reads_tokens(network: Network, name: str) -> bool:
    """Whether a linear layer reads (N, L, C), where ONNX Runtime wants a plain matrix product."""
    shapes: list[int] = []
    layer = network.backbone.get_submodule(name)
    handle = layer.register_forward_pre_hook(lambda module, args: shapes.append(args[0].dim()))
    with torch.no_grad():
        network.backbone(network.example_input())
    handle.remove()
    return bool(shapes) and shapes[0] > 2


def _dequantize(q: Tensor, scale: Tensor, zero_point: Tensor, axis: int | None = None) -> Tensor:
    attributes = {} if axis is None else {"axis": axis}
    inputs = [q, scale, zero_point]
    return torch.onnx.ops.symbolic("DequantizeLinear", inputs, attributes, dtype=torch.float32, shape=q.shape)  # type: ignore[arg-type]


def _key(layer: str) -> str:
    return layer.replace(".", "_")


def _slim(model: onnx.ModelProto) -> bytes:
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
    return model.SerializeToString()


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
