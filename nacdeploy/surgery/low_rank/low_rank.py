"""Low-rank layers: a convolution or linear layer as a sequence of smaller standard ones, and back.

Formats: `svd` for linear layers and 1 x 1 convolutions (two layers); for k x k convolutions `tucker2` (Kim et al.,
2016: 1 x 1, k x k, 1 x 1), `cp3` (1 x 1, depthwise k x k, 1 x 1) and `cp4` (Lebedev et al., 2015: 1 x 1, depthwise
k x 1, depthwise 1 x k, 1 x 1). Factors are found in float64 and with fixed signs, so that they are always the same.
"""

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nacdeploy.base.errors import NacdeployError
from nacdeploy.surgery.low_rank.ranks import CP3, CP4, SVD, TUCKER2, Ranks, modes

N_SWEEPS = 50
# A sweep that takes off less of the squared error is the last; where sweeps take long, 0.1 % of the error may be left.
LEAST_GAIN, LEAST_GAIN_OF_LARGE, LARGE = 1e-5, 1e-4, 2**19
N_ALS_STEPS = 100

Pair = tuple[int, int]
Padding = str | Pair

_is_structure_only: ContextVar[bool] = ContextVar("structure_only", default=False)


@contextmanager
def structure_only() -> Iterator[None]:
    """Let factors get shapes and zeros within the block: their values are loaded afterwards."""
    token = _is_structure_only.set(True)
    try:
        yield
    finally:
        _is_structure_only.reset(token)


def why_not(layer: nn.Module, format: str) -> str | None:
    """Return why a layer cannot be taken apart in a format, or None if it can."""
    if type(layer) not in (nn.Conv2d, nn.Linear):
        return f"a {type(layer).__name__} has no low-rank form here (Conv2d and Linear have)"
    if getattr(layer, "groups", 1) > 1:
        return "depthwise or grouped"
    is_pointwise = isinstance(layer, nn.Linear) or layer.kernel_size == (1, 1)
    if is_pointwise != (format == SVD):
        return f"{format} is for {'linear layers and 1x1' if format == SVD else 'k x k'} convolutions"
    return None


def decompose(layer: nn.Module, format: str, ranks: Ranks) -> nn.Sequential:
    """Return the layers in place of a plain `layer`, of the same stride, padding, dilation, bias, device and type.

    Raises:
        NacdeployError: the format does not fit the layer, or a rank lies outside 1 and the modes.
    """
    if (reason := why_not(layer, format)) is not None:
        raise NacdeployError(f"{type(layer).__name__} cannot be decomposed: {reason}")
    weight: Tensor = layer.weight.detach()  # type: ignore[operator]
    limits = modes(weight.shape, format)
    if len(ranks) != len(limits) or not all(1 <= r <= limit for r, limit in zip(ranks, limits, strict=True)):
        raise NacdeployError(f"ranks {list(ranks)} do not fit {format} of {tuple(weight.shape)}: 1 to {list(limits)}")
    factors = _empty(layer, format, ranks)
    if not _is_structure_only.get():
        _fill(factors, _factors(weight.double(), format, ranks), layer.bias)  # type: ignore[arg-type]
    return factors.train(layer.training)


def whole(layer: nn.Module) -> nn.Module:
    """Return the one layer that a sequence of factors equals, with the product as its weight (float64), or a plain
    layer itself."""
    if not isinstance(layer, nn.Sequential):
        return layer
    first, last = (_weighted(layer)[i] for i in (0, -1))
    sizes = (first.weight.shape[1], len(last.weight))
    arguments = {**_joint(layer), "bias": last.bias is not None}
    made = _made(type(first), *sizes, **arguments, like=last).double().train(layer.training)
    if not _is_structure_only.get():
        _fill(nn.Sequential(made), (product(layer),), last.bias)
    return made


def product(factors: nn.Sequential) -> Tensor:
    """Return the weight (float64) that a sequence of factors computes with."""
    first, *inner, last = (factor.weight.detach().double() for factor in _weighted(factors))
    if not inner:
        joint = last.flatten(1) @ first.flatten(1)
        return joint.reshape(*joint.shape, *first.shape[2:])
    last, first, format = last.flatten(1), first.flatten(1), format_of(factors)
    if format == CP4:
        return torch.einsum("or,rh,rw,ri->oihw", last, inner[0][:, 0, :, 0], inner[1][:, 0, 0], first)
    if format == CP3:
        return torch.einsum("or,rhw,ri->oihw", last, inner[0][:, 0], first)
    return torch.einsum("or,rshw,si->oihw", last, inner[0], first)


def ranks_of(factors: nn.Sequential) -> Ranks:
    """Return the ranks of a sequence of factors."""
    first, *_, last = (factor.weight.shape for factor in _weighted(factors))
    return (last[1], first[0]) if format_of(factors) == TUCKER2 else (last[1],)


def format_of(factors: nn.Sequential) -> str:
    """Return the format of a sequence of factors, by its structure."""
    if len(factors) != 3:
        return SVD if len(factors) == 2 else CP4
    return CP3 if getattr(factors[1], "groups", 1) > 1 else TUCKER2


def _weighted(factors: nn.Sequential) -> list[nn.Conv2d | nn.Linear]:
    return [factor for factor in factors if isinstance(factor, nn.Conv2d | nn.Linear)]


def n_weights(layer: nn.Module) -> int:
    """Count the weights of a layer or of a sequence of factors, without biases."""
    return sum(parameter.numel() for name, parameter in layer.named_parameters() if name.endswith("weight"))


@dataclass(frozen=True)
class _Spatial:
    """The effect of a convolution on the map, per axis."""

    kernel_size: Pair
    stride: Pair
    padding: Padding
    dilation: Pair
    padding_mode: str

    @classmethod
    def of(cls, layer: nn.Conv2d) -> "_Spatial":
        given: Any = (layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.padding_mode)
        return cls(*given)

    def arguments(self, axis: int | None = None) -> dict[str, Any]:
        """Return the arguments of a convolution with the whole effect, or with the part of one axis."""
        if axis is None:
            return dict(vars(self))
        padding = self.padding if isinstance(self.padding, str) else _only(self.padding, axis, 0)
        return {
            "kernel_size": _only(self.kernel_size, axis, 1),
            "stride": _only(self.stride, axis, 1),
            "padding": padding,
            "dilation": _only(self.dilation, axis, 1),
            "padding_mode": self.padding_mode,
        }


def _only(pair: Pair, axis: int, otherwise: int) -> Pair:
    return (pair[0], otherwise) if axis == 0 else (otherwise, pair[1])


def _joint(factors: nn.Sequential) -> dict[str, Any]:
    """Return the arguments of the convolution that a sequence of factors equals; none for a linear layer."""
    inner = _weighted(factors)[1:-1] or _weighted(factors)[:1]
    parts = [_Spatial.of(layer) for layer in inner if isinstance(layer, nn.Conv2d)]
    if len(parts) < 2:
        return parts[0].arguments() if parts else {}
    a, b = (part.arguments() for part in parts)
    pairs = {key: (a[key][0], b[key][1]) for key in ("kernel_size", "stride", "dilation")}
    padding = a["padding"] if isinstance(a["padding"], str) else (a["padding"][0], b["padding"][1])
    return {**pairs, "padding": padding, "padding_mode": a["padding_mode"]}


def is_structure_only() -> bool:
    """Tell whether values are left for later."""
    return _is_structure_only.get()


def _empty(layer: nn.Module, format: str, ranks: Ranks) -> nn.Sequential:
    """Return the factors of a layer, with zeros."""
    has_bias = layer.bias is not None
    if isinstance(layer, nn.Linear):
        first = _made(nn.Linear, layer.in_features, ranks[0], bias=False, like=layer)
        return nn.Sequential(first, _made(nn.Linear, ranks[0], layer.out_features, bias=has_bias, like=layer))
    assert isinstance(layer, nn.Conv2d)
    spatial, outer, inner = _Spatial.of(layer), ranks[0], ranks[-1]
    ahead = spatial.arguments() if format == SVD else {"kernel_size": 1}  # the stride first: fewer places to compute
    first = _made(nn.Conv2d, layer.in_channels, inner, **ahead, bias=False, like=layer)
    last = _made(nn.Conv2d, outer, layer.out_channels, kernel_size=1, bias=has_bias, like=layer)
    if format == SVD:
        return nn.Sequential(first, last)
    n_groups = 1 if format == TUCKER2 else outer
    axes = (0, 1) if format == CP4 else (None,)
    between = [
        _made(nn.Conv2d, inner, outer, **spatial.arguments(axis), groups=n_groups, bias=False, like=layer)
        for axis in axes
    ]
    return nn.Sequential(first, *between, last)


def _made(kind: type[nn.Module], n_in: int, n_out: int, *, like: nn.Module, **arguments: Any) -> Any:
    """Make a layer of zeros without a random draw, on the device and of the type of another."""
    weight: Tensor = like.weight  # type: ignore[assignment]
    made = nn.utils.skip_init(kind, n_in, n_out, device=weight.device, dtype=weight.dtype, **arguments)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.zero_().requires_grad_(weight.requires_grad)
    return made


def _fill(factors: nn.Sequential, weights: Sequence[Tensor], bias: Tensor | None) -> None:
    with torch.no_grad():
        layers: Any = list(factors)
        for factor, weight in zip(layers, weights, strict=True):
            factor.weight.copy_(weight.reshape(factor.weight.shape))
        if bias is not None:
            layers[-1].bias.copy_(bias)


def _factors(weight: Tensor, format: str, ranks: Ranks) -> tuple[Tensor, ...]:
    """Return the weights of the factors in the order of execution."""
    if format == SVD:
        return _svd(weight.flatten(1), ranks[0])
    if format == TUCKER2:
        return _tucker2(weight, *ranks)
    return _cp(weight, format, ranks[0])


def _svd(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return the best factors of a rank, (r, I) and (O, r), each with the root of the singular values."""
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    signs, root = _signs(u[:, :rank]), s[:rank].sqrt()
    return (signs * root)[:, None] * v[:rank], u[:, :rank] * (signs * root)


def _tucker2(weight: Tensor, n_out: int, n_in: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return factors (r_in, I), (r_out, r_in, kh, kw) and (O, r_out) by higher-order orthogonal iteration.

    The iteration starts from the truncated HOSVD (De Lathauwer et al., 2000); each sweep takes eigenvectors of small
    Gram matrices.
    """
    least_gain = LEAST_GAIN if weight.numel() < LARGE else LEAST_GAIN_OF_LARGE
    right, before = _leading(weight.float(), 1, n_in), math.inf
    for tensor in (weight.float(), weight):  # single precision finds the subspaces, double makes them exact
        right, norm = right.to(tensor.dtype), float(tensor.square().sum())
        for _ in range(N_SWEEPS):
            left = _leading(torch.tensordot(tensor, right, dims=([1], [0])), 0, n_out)
            half = torch.tensordot(left.T, tensor, dims=([1], [0]))
            right = _leading(half, 1, n_in)
            core = torch.tensordot(half, right, dims=([1], [0])).movedim(3, 1)
            lost = norm - float(core.square().sum())
            if abs(before - lost) <= least_gain * lost or lost <= 0:
                break
            before = lost
    return right.T, core, left


def _leading(tensor: Tensor, axis: int, rank: int) -> Tensor:
    """Return the `rank` leading left singular vectors (n, rank) of the unfolding along an axis."""
    unfolded = tensor.transpose(0, axis).flatten(1)
    vectors = torch.linalg.eigh(unfolded @ unfolded.T).eigenvectors[:, -rank:].flip(1)
    return vectors * _signs(vectors)


def _signs(vectors: Tensor) -> Tensor:
    """Return the sign (r,) of the largest entry of each column, so that a decomposition has one outcome."""
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))[0]
    return torch.where(largest < 0, -1.0, 1.0).to(vectors.dtype)


def _cp(weight: Tensor, format: str, rank: int) -> tuple[Tensor, ...]:
    """Return canonical factors by alternating least squares from singular vectors: (r, I), the kernel's, (O, r).

    Every component has the same norm in each factor.

    Raises:
        NacdeployError: the iteration ended in values that are no numbers.
    """
    from tensorly.decomposition import parafac  # a second to import, and needed here alone

    tensor = weight.flatten(2) if format == CP3 else weight
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scale, factors = parafac(
            tensor.cpu().numpy(), rank, n_iter_max=N_ALS_STEPS, init="svd", tol=1e-6, random_state=0
        )
    parts = [torch.from_numpy(factor) for factor in factors]
    norms = [part.norm(dim=0).clamp(min=torch.finfo(part.dtype).tiny) for part in parts]
    size = torch.stack([torch.from_numpy(scale), *norms]).prod(0) ** (1 / len(parts))
    out, into, *kernel = (part / norm * size for part, norm in zip(parts, norms, strict=True))
    if not all(bool(part.isfinite().all()) for part in (out, into, *kernel)):
        raise NacdeployError(f"{format} of rank {rank} does not converge for {tuple(weight.shape)}; take tucker2")
    return (into.T, *(part.T for part in kernel), out)
