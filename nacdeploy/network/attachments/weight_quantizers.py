"""Weights on integers: the target's symmetric grid (to the nearest, or so that a channel keeps its sum), DoReFa's and
binary ones, each with a scale per output channel.

Each gives int8 integers that a deployed layer holds as they are, and a simulation of them whose gradients pass straight
through. What is exactly zero stays zero, so that masks hold.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nacdeploy.base.precision import Grid
from nacdeploy.network.attachments import fake_quant
from nacdeploy.network.attachments.fake_quant import TINY


@dataclass(frozen=True)
class WeightQuantizer:
    """`integers` (O, ...) and scales (O,) of a weight in so many bits on a grid; `soft` is the smooth function of the
    weight that they round, through which gradients pass."""

    integers: Callable[[Tensor, int, Grid], tuple[Tensor, Tensor]]
    soft: Callable[[Tensor], Tensor]


# Each integer is one of the two neighbours of its weight: weights that a training has fitted to the one fit the other.
NEIGHBOURS = ("symmetric", "balanced")


def integers(weight: Tensor, kind: str, bits: int, grid: Grid) -> tuple[Tensor, Tensor]:
    """The int8 integers (shape of `weight`) and float32 scales (O,) of a weight."""
    return WEIGHT_QUANTIZERS[kind].integers(weight.detach(), bits, grid)


def simulated(weight: Tensor, kind: str, bits: int, grid: Grid) -> Tensor:
    """`weight` as its integers times their scales; gradients pass straight through the rounding."""
    if kind == "symmetric":
        return fake_quant.fake_quantize_symmetric(weight, grid.weight_maximum(bits))
    whole, scale = integers(weight, kind, bits, grid)
    soft = WEIGHT_QUANTIZERS[kind].soft(weight)
    return soft + (whole * _shaped(scale, weight) - soft.detach())


def dorefa(weight: Tensor, bits: int, axis: int | None = None) -> Tensor:
    """DoReFa's weights in [-1, 1], 2^bits levels without a zero (Zhou et al., 2016, eq. 9).

    2 q(tanh w / (2 max|tanh w|) + 1/2) - 1 with q(x) = round((2^bits - 1) x) / (2^bits - 1), the maximum being taken
    over all (axis None) or per output channel (0).
    """
    n = 2**bits - 1
    squashed = torch.tanh(weight.detach())
    return (2 * torch.round((squashed / (2 * _peak(squashed, axis)) + 0.5) * n) - n) / n


def _symmetric(weight: Tensor, bits: int, grid: Grid) -> tuple[Tensor, Tensor]:
    return fake_quant.integers(weight, grid.weight_maximum(bits))


def _balanced(weight: Tensor, bits: int, grid: Grid) -> tuple[Tensor, Tensor]:
    return fake_quant.integers(weight, grid.weight_maximum(bits), fake_quant.balanced)


def _dorefa(weight: Tensor, bits: int, grid: Grid) -> tuple[Tensor, Tensor]:
    """Odd integers: without a zero, 2^bits levels take one bit more than symmetric integers do, and 8 bits become 7.
    The scale, which the paper leaves to a norm behind the layer, keeps each channel's largest weight."""
    n_bits = min(bits, grid.max_weight_bits - 1)
    n = 2**n_bits - 1
    whole = torch.round(dorefa(weight, n_bits, axis=0) * n).masked_fill(weight == 0, 0.0)
    return whole.to(torch.int8), _peak(weight, 0).flatten() / n


def _soft_dorefa(weight: Tensor) -> Tensor:
    squashed = torch.tanh(weight)
    return squashed * (_peak(weight, 0) / _peak(squashed, 0))


def _binary(weight: Tensor, bits: int, grid: Grid) -> tuple[Tensor, Tensor]:
    """Signs, and the mean magnitude of each filter (Rastegari et al., 2016, eq. 6), of what is not zero."""
    n_nonzero = (weight != 0).flatten(1).sum(1).clamp(min=1)
    return torch.sign(weight).to(torch.int8), (weight.abs().flatten(1).sum(1) / n_nonzero).clamp(min=TINY)


def _peak(values: Tensor, axis: int | None) -> Tensor:
    """The largest magnitude, of each output channel (O, 1, ...) or of all (); no gradient."""
    magnitude = values.detach().abs()
    peak = magnitude.amax() if axis is None else _shaped(magnitude.flatten(1).amax(1), values)
    return peak.clamp(min=TINY)


def _shaped(scale: Tensor, weight: Tensor) -> Tensor:
    return scale.reshape(-1, *[1] * (weight.dim() - 1))


WEIGHT_QUANTIZERS = {
    "symmetric": WeightQuantizer(_symmetric, lambda weight: weight),
    "balanced": WeightQuantizer(_balanced, lambda weight: weight),
    "dorefa": WeightQuantizer(_dorefa, _soft_dorefa),
    "binary": WeightQuantizer(_binary, lambda weight: weight),
}
