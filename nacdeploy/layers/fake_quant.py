"""Simulated quantization: integer grids of a target, scales from weights, ranges from data, straight-through rounding.

Weights are symmetric per output channel with scales derived from the weights themselves (never stored); activations
have one calibrated range per tensor. The uniform affine scheme is that of Jacob et al., 2018, eq. 1, the symmetric
max-abs grid that of NAC.
"""

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx, nn

from nacdeploy.layers.capture import weighted_consumer
from nacdeploy.precision import Precision

TINY = 1e-12


@dataclass(frozen=True)
class Grid:
    """How a target's kernels want integers: this fixes the numbers, not only their encoding.

    `max_weight_bits` 7 leaves one bit unused, since pairs of 8-bit products saturate the 16-bit sums of x86 kernels
    without VNNI. `affine_inputs` names the layer kinds whose input activations are unsigned with a zero point. `integer_biases`: biases are int32 on the product of the scales (TensorRT wants float).
    """

    name: str
    max_weight_bits: int
    affine_inputs: tuple[str, ...]
    integer_biases: bool = False

    def weight_maximum(self, bits: int) -> int:
        """The largest weight integer: 127 for 8 bits, 63 for 7, 7 for 4."""
        return 2 ** (min(bits, self.max_weight_bits) - 1) - 1


GRIDS = {grid.name: grid for grid in (Grid("ort", 7, ("conv",), integer_biases=True), Grid("trt", 8, ()), Grid("onnx", 8, ()))}


def symmetric_scale(weight: Tensor, maximum: int, axis: int | None = 0) -> Tensor:
    """max|w| / maximum, per index of `axis` (shape (C,)) or for the whole tensor (axis None, shape ())."""
    magnitude = weight.detach().abs()
    peak = magnitude.amax() if axis is None else magnitude.movedim(axis, 0).flatten(1).amax(1)
    return peak.clamp(min=TINY) / maximum


def fake_quantize_symmetric(weight: Tensor, maximum: int, axis: int | None = 0) -> Tensor:
    """`weight` rounded to its symmetric grid of 2 * maximum + 1 levels; gradients pass straight through."""
    scale = symmetric_scale(weight, maximum, axis)
    if axis is None:
        return torch.fake_quantize_per_tensor_affine(weight, scale, torch.zeros((), dtype=torch.int32), -maximum, maximum)
    zero = torch.zeros(len(scale), dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scale, zero, axis, -maximum, maximum)


def integers(weight: Tensor, maximum: int) -> tuple[Tensor, Tensor]:
    """The int8 integers (shape of `weight`) and float32 scales (C,) of the per-channel symmetric grid."""
    scale = symmetric_scale(weight, maximum)
    shaped = scale.reshape(-1, *[1] * (weight.dim() - 1))
    return torch.round(weight.detach() / shaped).clamp(-maximum, maximum).to(torch.int8), scale


def binarize(weight: Tensor) -> Tensor:
    """One-bit weights: the sign of the filter standardised over its own elements (NAC; IR-Net, Qin et al., 2020)."""
    flat = weight.flatten(1)
    standardised = (flat - flat.mean(1, keepdim=True)) / flat.std(1, keepdim=True)
    return torch.sign(standardised).reshape(weight.shape)


@dataclass(frozen=True)
class Rule:
    """Which layers a quantization step covers: a function of the network alone, so that it can be applied anew."""

    precision: Precision
    exclude: tuple[str, ...] = ()
    min_channels: int = 1

    def covers(self, name: str, layer: nn.Module) -> bool:
        """Whether `layer` is quantized: not excluded, and at least `min_channels` inputs (per group) and outputs."""
        narrow = min(layer.weight.shape[0], layer.weight.shape[1]) < self.min_channels  # type: ignore[index]
        excluded = any(name == entry or name.startswith(f"{entry}.") for entry in self.exclude)
        return not narrow and not excluded


class ActivationQuantizer(nn.Module):
    """The quantizer of one tensor: a calibrated range [low, high] that contains 0, and the grid laid over it."""

    low: Tensor
    high: Tensor

    def __init__(self, bits: int, kind: str, grid: Grid) -> None:
        super().__init__()
        self.bits, self.kind, self.grid = bits, kind, grid
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.ones(()))

    def set_range(self, low: float, high: float) -> None:
        """Store the calibrated range, widened to contain 0."""
        self.low.fill_(min(low, 0.0))
        self.high.fill_(max(high, 0.0))

    @property
    def limits(self) -> tuple[int, int]:
        """The integer range: unsigned for affine inputs, symmetric otherwise."""
        half = 2 ** (self.bits - 1) - 1
        return (0, 2**self.bits - 1) if self.affine else (-half, half)

    @property
    def affine(self) -> bool:
        return self.kind in self.grid.affine_inputs

    def scale_and_zero_point(self) -> tuple[Tensor, Tensor]:
        """Scalars: float32 scale and int32 zero point of the current range on the current grid."""
        lowest, highest = self.limits
        if not self.affine:
            peak = torch.maximum(-self.low, self.high).clamp(min=TINY)
            return peak / highest, torch.zeros((), dtype=torch.int32)
        scale = (self.high - self.low).clamp(min=TINY) / (highest - lowest)
        return scale, torch.round(-self.low / scale).to(torch.int32)

    def forward(self, x: Tensor) -> Tensor:
        scale, zero_point = self.scale_and_zero_point()
        return torch.fake_quantize_per_tensor_affine(x, scale, zero_point, *self.limits)


@dataclass(frozen=True)
class Plan:
    """What is quantized in one network: weight bits per layer, and per consuming node the key of each input's edge."""

    weight_bits: Mapping[str, int] = field(default_factory=dict)
    inputs: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    kinds: Mapping[str, str] = field(default_factory=dict)


ADDITIONS = {operator.add, operator.iadd, torch.add}
ACTIVATIONS = {"relu", "relu_", "relu6", "hardtanh", "silu", "gelu", "hardswish", "sigmoid"}
PRODUCTS = {operator.matmul, torch.matmul, torch.bmm}


def plan(graph: fx.Graph | None, backbone: nn.Module, rule: Rule) -> Plan:
    """The layers and edges that `rule` quantizes. Without a graph: the inputs of the layers, nothing between them."""
    layers = {
        name: module
        for name, module in backbone.named_modules()
        if type(module) in (nn.Conv2d, nn.Linear) and rule.covers(name, module)
    }
    bits = dict.fromkeys(layers, rule.precision.weight_bits)
    if graph is None:
        keys = {name: name.replace(".", "_") for name in layers}
        return Plan(bits, {name: {0: keys[name]} for name in layers}, {keys[n]: kind_of(m) for n, m in layers.items()})
    inputs: dict[str, dict[int, str]] = {}
    kinds: dict[str, str] = {}
    for node in graph.nodes:
        for position, source, kind in _quantized_inputs(node, backbone, layers):
            inputs.setdefault(node.name, {})[position] = source
            kinds[source] = "conv" if "conv" in (kind, kinds.get(source)) else kind
    return Plan(bits, inputs, kinds)


def kind_of(layer: nn.Module) -> str:
    """`conv` or `linear`."""
    return "conv" if isinstance(layer, nn.Conv2d) else "linear"


def _quantized_inputs(
    node: fx.Node, backbone: nn.Module, layers: Mapping[str, nn.Module]
) -> list[tuple[int, str, str]]:
    """(argument position, key of the source tensor, layer kind) of each input of `node` that is quantized."""
    layer = weighted_consumer(node, backbone)
    if layer is not None:
        return [(0, node.args[0].name, kind_of(layer))] if node.target in layers else []  # type: ignore[union-attr]
    operands = [a for a in node.args if isinstance(a, fx.Node) and a.op != "get_attr"]
    if node.target in ADDITIONS and len(operands) == 2 and any(_from_conv(a, backbone, layers) for a in operands):
        return [(i, a.name, "conv") for i, a in enumerate(operands)]
    if node.target in PRODUCTS and len(operands) == 2 and layers:
        return [(i, a.name, "linear") for i, a in enumerate(operands)]
    return []


def _from_conv(node: fx.Node, backbone: nn.Module, layers: Mapping[str, nn.Module]) -> bool:
    """Whether `node` is a quantized convolution's output, seen through normalisation and activation."""
    while _passes_through(node, backbone) and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    return node.op == "call_module" and isinstance(layers.get(str(node.target)), nn.Conv2d)


def _passes_through(node: fx.Node, backbone: nn.Module) -> bool:
    if node.op == "call_module":
        module = backbone.get_submodule(str(node.target))
        return isinstance(module, nn.BatchNorm2d) or type(module).__module__.endswith("activation")
    return node.op in ("call_function", "call_method") and str(getattr(node.target, "__name__", node.target)) in ACTIVATIONS
