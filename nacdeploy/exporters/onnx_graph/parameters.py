"""The deployed parameters of every layer: batch norms folded, float or int8 with a scale per output channel.

The grid of the simulation is kept to the last step: a batch norm behind a convolution multiplies the scales by |gamma|
/ sigma and moves its sign into the integers, so that folding changes no integer grid.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nacdeploy.base.errors import NacdeployError
from nacdeploy.base.precision import FLOAT32, Precision
from nacdeploy.network.attachments import fake_quant
from nacdeploy.network.attachments.fake_quant import ActivationQuantizer, kind_of
from nacdeploy.network.captured.graph import Weighted, weighted_consumer
from nacdeploy.network.network import Network, layer_integers, masked_weight

_LARGEST_BIAS = 2.0**30


@dataclass(frozen=True)
class FloatParameters:
    """A layer that computes in float: weight in the layout of the graph, bias (out,)."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class IntegerParameters:
    """A layer that computes on integers.

    Attributes:
        weight: int8, in the layout of the graph.
        scale: float32 (out,).
        bias: (out,), float32, or int32 on the product of both scales.
        axis: the axis of the weight with the output channels.
        input_scale: the scale of the input if the bias is int32.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor
    axis: int
    input_scale: Tensor | None


@dataclass(frozen=True)
class LayerParameters:
    """One layer: its kind ("conv", "linear"), the precision asked for, and the deployed parameters."""

    kind: str
    precision: Precision
    deployed: FloatParameters | IntegerParameters


def layer_parameters(
    network: Network, norms: Mapping[str, str], token_layers: frozenset[str]
) -> dict[str, LayerParameters]:
    """Return the parameters of every convolution and linear layer of `network`, with `norms` folded in.

    The weights of `token_layers` are laid out (in, out).
    """
    edges = _input_edges(network)
    found = {}
    for name, module in network.layers.items():
        norm = network.backbone.get_submodule(norms[name]) if name in norms else None
        edge = network.quantizers[edges[name]] if name in edges else None
        found[name] = _parameters(network, name, module, norm, edge, name in token_layers)  # type: ignore[arg-type]
    return found


def fold(weight: Tensor, scale: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    """Multiply each output channel by `factor` (C,): signs go into the integers, sizes into the scales.

    A factor of 0 leaves a channel of zeros.
    """
    sign = torch.sign(factor).to(torch.int8)
    folded = scale * factor.abs()
    return weight * _per_channel(sign, weight), torch.where(factor == 0, scale, folded)


def affine(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Return the function of a batch norm in evaluation as (factor, shift) per channel: x * factor + shift.

    Raises:
        NacdeployError: the norm keeps no statistics.
    """
    if not isinstance(norm, _BatchNorm) or norm.running_mean is None or norm.running_var is None:
        raise NacdeployError("a batch norm without running statistics cannot be folded; set track_running_stats")
    gamma = norm.weight if norm.affine else torch.ones_like(norm.running_mean)
    beta = norm.bias if norm.affine else torch.zeros_like(norm.running_mean)
    factor = (gamma / torch.sqrt(norm.running_var + norm.eps)).detach()
    return factor, (beta - norm.running_mean * factor).detach()


def _parameters(
    network: Network,
    name: str,
    module: Weighted,
    norm: nn.Module | None,
    edge: ActivationQuantizer | None,
    reads_tokens: bool,
) -> LayerParameters:
    weight = masked_weight(network, name, module).detach()
    bias = module.bias.detach() if module.bias is not None else torch.zeros(len(weight))
    factor = None
    if norm is not None:
        factor, shift = affine(norm)
        bias = bias * factor + shift
    axis = 1 if reads_tokens else 0
    on_grid = layer_integers(network, name, module)
    if on_grid is None or network.rule is None:
        folded = weight if factor is None else weight * _per_channel(factor, weight)
        return LayerParameters(kind_of(module), FLOAT32, FloatParameters(folded.movedim(0, axis), bias))
    integers, scale = on_grid
    if factor is not None:
        integers, scale = fold(integers, scale, factor)
    input_scale = edge.scale_and_zero_point()[0] if edge is not None else None
    if input_scale is not None:  # on every grid: runtimes turn float biases into integers themselves
        integers, scale = _room_for_bias(integers, scale, bias, input_scale)
    on_integers = input_scale if network.grid.integer_biases and not reads_tokens else None
    deployed = IntegerParameters(integers.movedim(0, axis), scale, bias, axis, on_integers)
    precision = Precision(network.plan.weight_bits[name], network.rule.precision_of(name).activation_bits)
    return LayerParameters(kind_of(module), precision, deployed)


def _room_for_bias(weight: Tensor, scale: Tensor, bias: Tensor, input_scale: Tensor) -> tuple[Tensor, Tensor]:
    """Widen the scale of channels whose bias would overflow 32 bits: beside such a bias their weights are
    negligible."""
    needed = bias.abs() / (input_scale * _LARGEST_BIAS)
    widened = torch.maximum(scale, needed).clamp(min=fake_quant.TINY)
    return torch.round(weight * _per_channel(scale / widened, weight)).to(torch.int8), widened


def _per_channel(values: Tensor, weight: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (weight.dim() - 1))


def _input_edges(network: Network) -> dict[str, str]:
    """Return the edge that each quantized layer reads; a layer that is called twice is left out."""
    if network.graph is None:
        return {layer: edges[0] for layer, edges in network.plan.inputs.items()}
    calls: dict[str, list[str]] = {}
    for node in network.graph.nodes:
        if weighted_consumer(node, network.backbone) and node.name in network.plan.inputs:
            calls.setdefault(str(node.target), []).append(network.plan.inputs[node.name][0])
    return {layer: edges[0] for layer, edges in calls.items() if len(edges) == 1}
