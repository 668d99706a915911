"""Simulated quantization: integer grids of a target, scales from weights, ranges from data, straight-through rounding.

Weights are symmetric per output channel with scales derived from the weights themselves (never stored); activations
have one calibrated range per tensor. The uniform affine scheme follows Jacob et al., 2018, eq. 1, the symmetric max-abs
grid follows NAC.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from nacdeploy.base.precision import Grid, Precision
from nacdeploy.network.captured.graph import CONVOLVING

TINY = 1e-12


def symmetric_scale(weight: Tensor, maximum: int, axis: int | None = 0) -> Tensor:
    """max|w| / maximum, per index of `axis` (shape (C,)) or for the whole tensor (axis None, shape ())."""
    magnitude = weight.detach().abs()
    peak = magnitude.amax() if axis is None else magnitude.movedim(axis, 0).flatten(1).amax(1)
    return peak.clamp(min=TINY) / maximum


def fake_quantize_symmetric(weight: Tensor, maximum: int, axis: int | None = 0) -> Tensor:
    """Round `weight` to its symmetric grid of 2 * maximum + 1 levels; gradients pass straight through."""
    scale = symmetric_scale(weight, maximum, axis)
    if axis is not None:
        scale = scale.reshape(*[1] * axis, -1, *[1] * (weight.dim() - axis - 1))
    rounded = torch.round(weight.detach() / scale).mul_(scale)
    return weight + (rounded - weight.detach())


def nearest(steps: Tensor, maximum: int) -> Tensor:
    """Round weights in steps of their grid to integers within -maximum and maximum."""
    return torch.round(steps).clamp(-maximum, maximum)


def balanced(steps: Tensor, maximum: int) -> Tensor:
    """Round weights `(O, ...)` in steps of their grid to integers within -maximum and maximum, balanced by output
    channel.

    For a convolution, the errors of each output channel sum to half a step at most. The inputs of a convolution are
    alike (neighbouring pixels, and no negative ones behind a ReLU): their common part meets the sum of the errors,
    which rounding to the nearest leaves at random. So the integers with the largest errors go to their other neighbour
    (after SQuant: Guo et al., 2022, by channels alone). A weight on the grid stays. The weights of a linear layer `(O,
    I)` go to the nearest integer: its inputs have a mean of zero wherever a norm stands in front.
    """
    if steps.dim() < 3:
        return nearest(steps, maximum)
    exact = steps.flatten(1)
    whole = exact.round()
    errors = exact - whole
    missing = errors.sum(1, keepdim=True).round()
    n_most = min(int(missing.abs().max()) if missing.numel() else 0, exact.shape[1])
    if n_most > 0:
        largest, where = (errors * missing.sign()).topk(n_most, dim=1)
        moved = (torch.arange(n_most, device=steps.device) < missing.abs()) & (largest > 0)
        whole.scatter_add_(1, where, moved * missing.sign())
    return whole.clamp_(-maximum, maximum).reshape(steps.shape)


class _RoundToGrid(torch.autograd.Function):
    """Rounds to multiples of `scale` within integer limits; gradients pass inside the limits.

    torch's own fake_quantize takes four times as long on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, lowest: Tensor, highest: Tensor) -> Tensor:
        low, high = lowest * scale, highest * scale
        ctx.save_for_backward(x)
        ctx.limits = (float(low), float(high))
        return torch.clamp(x, low, high).div_(scale).round_().mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(gradients[0], x, *ctx.limits), None, None, None


def integers(weight: Tensor, maximum: int, rounded: Callable[[Tensor, int], Tensor] = nearest) -> tuple[Tensor, Tensor]:
    """Return the int8 integers (shape of `weight`) and float32 scales (C,) of the per-channel symmetric grid."""
    scale = symmetric_scale(weight, maximum)
    shaped = scale.reshape(-1, *[1] * (weight.dim() - 1))
    return rounded(weight.detach() / shaped, maximum).to(torch.int8), scale


def affine_scale(low: Tensor, high: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Return float32 scale and int32 zero point of unsigned integers for a range, widened to contain 0.

    They are (high - low) / (2^bits - 1) and round(-low / scale) (Jacob et al., 2018, eq. 1 and section 3).
    """
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    scale = (high - low).clamp(min=TINY) / (2**bits - 1)
    return scale, torch.round(-low / scale).to(torch.int32)


@dataclass(frozen=True)
class Rule:
    """The layers that a quantization step covers: a function of the network alone, so that the rule can be applied
    anew.

    Attributes:
        precision: the bits of weights and activations.
        exclude: the layers, or modules with layers in them, that stay float.
        min_channels: a layer with fewer output or input channels stays float.
        layer_bits: the precisions ("w4a8") of layers with another precision than `precision`.
        weights: the name of the function from weights to integers (`network/attachments/weight_quantizers.py`).
        integers_between: whether products, gates and parts of tensors between layers stay on integers too, where the
            grid's kernels do not fuse; rules of files before 0.13 do not say so.
        every_convolution: whether convolutions along one and three axes are layers too; rules of older files do not
            say so, and keep the edges of their files.
    """

    precision: Precision
    exclude: tuple[str, ...] = ()
    min_channels: int = 1
    layer_bits: Mapping[str, str] = field(default_factory=dict)
    weights: str = "symmetric"
    integers_between: bool = False
    every_convolution: bool = False

    def precision_of(self, layer: str) -> Precision:
        """Return the precision of a covered layer, of a factor of a covered layer, or of another node."""
        named = layer if layer in self.layer_bits else layer.rpartition(".")[0]
        own = Precision.parse(self.layer_bits[named]) if named in self.layer_bits else self.precision
        return replace(own, weight_bits=1) if self.weights == "binary" else own

    def covers(self, name: str, layer: nn.Module) -> bool:
        """Tell whether `layer` is quantized."""
        return self.why_float(name, layer) is None

    def why_float(self, name: str, layer: nn.Module) -> str | None:
        """Return why `layer` stays float, or None if the layer is quantized.

        The reasons: excluded; fewer than `min_channels` outputs or inputs (of each group, except depthwise); or padded
        with other values than zeros, which stand between the integers and the kernel.
        """
        n_outputs, n_inputs = layer.weight.shape[:2]  # type: ignore[index]
        is_depthwise = n_inputs == 1 and getattr(layer, "groups", 1) == n_outputs
        if not self.every_convolution and isinstance(layer, nn.Conv1d | nn.Conv3d):
            return "this Q is of a version that took Conv2d and Linear layers alone"
        if self.excludes(name):
            return "excluded (quantize.exclude, min_snr_db or max_drop)"
        if (n_outputs if is_depthwise else min(n_outputs, n_inputs)) < self.min_channels:
            return f"fewer than {self.min_channels} channels"
        padding = getattr(layer, "padding_mode", "zeros")
        return None if padding == "zeros" else f"padding mode {padding}"

    def excludes(self, name: str) -> bool:
        """Tell whether the rule names a layer, or a module around the layer, to stay float."""
        return any(name == entry or name.startswith(f"{entry}.") for entry in self.exclude)


class ActivationQuantizer(nn.Module):
    """The quantizer of one tensor: a calibrated range [low, high] that contains 0, and the grid over that range."""

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
        if not self.affine:
            peak = torch.maximum(-self.low, self.high).clamp(min=TINY)
            return peak / self.limits[1], torch.zeros_like(self.low, dtype=torch.int32)
        return affine_scale(self.low, self.high, self.bits)

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype in (torch.bfloat16, torch.float16):  # mixed precision: too few digits for a grid of 8 bits
            x = x.float()
        scale, zero_point = self.scale_and_zero_point()
        lowest, highest = self.limits
        return _RoundToGrid.apply(x, scale, lowest - zero_point, highest - zero_point)


def kind_of(layer: nn.Module) -> str:
    """`conv` or `linear`."""
    return "conv" if isinstance(layer, CONVOLVING) else "linear"
