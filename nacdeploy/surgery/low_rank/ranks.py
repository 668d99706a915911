"""Ranks of low-rank layers: the weights that they cost, and the ranks for a reduction, a share or EVBMF.

Formats, for a weight (O, I, kh, kw), or (O, I) of a linear layer, with their ranks: `svd` (r,), `tucker2` (r_out,
r_in), `cp3` and `cp4` (r,). The formulas are those of MUSCO (Gusak et al., 2019, "Automated multi-stage compression of
neural networks").
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from nacdeploy.surgery.low_rank.evbmf import evbmf

SVD, TUCKER2, CP3, CP4 = "svd", "tucker2", "cp3", "cp4"
FORMATS = (SVD, TUCKER2, CP3, CP4)

Shape = Sequence[int]
Ranks = tuple[int, ...]


def modes(shape: Shape, format: str) -> Ranks:
    """Return the ranks above which a format gains nothing: the modes; for CP the bound of a tensor's rank."""
    n_out, n_in, *kernel = shape
    if format == TUCKER2:
        return n_out, n_in
    if format == SVD:
        return (min(n_out, n_in),)
    sizes = (n_out, n_in, math.prod(kernel)) if format == CP3 else (n_out, n_in, *kernel)
    return (math.prod(sizes) // max(sizes),)


def n_weights(shape: Shape, format: str, ranks: Shape) -> int:
    """Count the weights of the factors, without biases."""
    return n_macs(shape, format, ranks, 1, 1)


def n_macs(shape: Shape, format: str, ranks: Shape, n_before: int, n_after: int) -> int:
    """Count the multiply-accumulates of the factors at `n_before` places of the input map and `n_after` of the
    output map."""
    n_out, n_in, *kernel = shape
    size, rank = math.prod(kernel), ranks[0]
    if format == TUCKER2:
        return ranks[1] * n_in * n_before + (rank * ranks[1] * size + rank * n_out) * n_after
    if format == SVD:
        return rank * (n_in + n_out) * n_after
    inner = size if format == CP3 else sum(kernel)
    return rank * n_in * n_before + rank * (inner + n_out) * n_after


def least(shape: Shape, format: str) -> int:
    """Return MUSCO's least ranks."""
    return 8 if format == TUCKER2 or (format == SVD and len(shape) == 2) else 2


def for_rate(
    shape: Shape,
    format: str,
    rate: float,
    min_rank: int,
    *,
    n_now: int | None = None,
    limits: Ranks = (),
    multiple: int = 1,
) -> Ranks:
    """Return the ranks that leave 1 / `rate` of `n_now` weights (unset: the whole layer's).

    The ranks are at least `min_rank` and within `limits` (unset: the modes). Tucker-2 holds r_out = beta r_in with beta
    = max(0.8 O / I, 1) and solves the quadratic equation of its weights. A rank below 1, beyond its limit or off the
    units of `multiple` is moved there, and the other rank is solved again.
    """
    n_left = (math.prod(shape) if n_now is None else n_now) / rate
    if format == TUCKER2:
        wanted = _tucker2_for(shape, n_left, min_rank)
        return _solved_again(wanted, shape, n_left, limits or modes(shape, format), min_rank, multiple)
    rank = int(n_left / n_weights(shape, format, (1,)))
    return clamped((max(rank, min_rank),), shape, format)


def _tucker2_for(shape: Shape, n_left: float, min_rank: int) -> Ranks:
    n_out, n_in, *kernel = shape
    beta = max(0.8 * n_out / n_in, 1.0)
    square, linear = math.prod((beta, *kernel)), n_in + beta * n_out
    rank = int((math.sqrt(linear**2 + 4 * square * n_left) - linear) / (2 * square))
    if min_rank > 1:  # asked for: as MUSCO does, both grow with it; below 1 there is nothing to keep
        rank = max(rank, min_rank)
    return int(beta * rank), rank


def _solved_again(wanted: Ranks, shape: Shape, n_left: float, limits: Ranks, min_rank: int, multiple: int) -> Ranks:
    """Return Tucker-2's ranks within limits and in units: one as near as possible to `wanted`, the other from the
    weights left."""
    n_out, n_in, *kernel = shape
    size = math.prod(kernel)
    (r_out, r_in), (most_out, most_in) = wanted, limits
    fixed_out, fixed_in = (_allowed(rank, most, min_rank, multiple) for rank, most in zip(wanted, limits, strict=True))
    if (fixed_out, fixed_in) == (r_out, r_in):
        return wanted
    if r_out > most_out and r_in <= most_in:
        left_in = int((n_left - fixed_out * n_out) / (n_in + fixed_out * size))
        return fixed_out, _allowed(left_in, most_in, min_rank, multiple)
    left_out = int((n_left - fixed_in * n_in) / (n_out + fixed_in * size))
    return _allowed(left_out, most_out, min_rank, multiple), fixed_in


def _allowed(rank: int, limit: int, min_rank: int, multiple: int) -> int:
    """Return the rank of one mode within its bounds and in units."""
    return _rounded(min(max(rank, min_rank), limit), limit, multiple)


def for_share(shape: Shape, format: str, share: float, now: Ranks) -> Ranks:
    """Return a share of each of the ranks `now` (at first the modes), at least 1.

    For a whole layer's CP it is a share of the larger number of channels.
    """
    is_whole = format in (CP3, CP4) and now == modes(shape, format)
    whole = (max(shape[:2]),) if is_whole else now
    return clamped(tuple(int(share * n + 0.5) for n in whole), shape, format)


def estimated(weight: Tensor, format: str, now: Ranks, weaken: float, min_rank: int) -> Ranks:
    """Return the ranks `now` weakened towards the ranks that EVBMF finds in the unfoldings of `weight` (float64).

    A weight that is a product of factors is searched within its own subspaces, of the ranks `now`.
    """
    found = [evbmf(matrix).rank for matrix in _unfoldings(weight, format, now)]
    return tuple(weakened(rank, vbmf, weaken, min_rank) for rank, vbmf in zip(now, found, strict=True))


def weakened(rank: int, vbmf: int, factor: float, min_rank: int) -> int:
    """Return the rank `factor` of the way from `rank` to EVBMF's, at least `min_rank`, or `rank` if EVBMF finds none
    (0)."""
    if rank <= min_rank or vbmf == 0:
        return rank
    return max(int(rank - factor * (rank - vbmf)), min_rank)


def clamped(ranks: Shape, shape: Shape, format: str) -> Ranks:
    """Return ranks between 1 and the modes."""
    return tuple(max(1, min(rank, mode)) for rank, mode in zip(ranks, modes(shape, format), strict=True))


def rounded(ranks: Shape, limits: Shape, multiple: int) -> Ranks:
    """Round ranks to the nearest multiple, at least one, and below the limit unless they lie on the limit.

    If no multiple fits below the limit, the ranks stay.
    """
    return tuple(_rounded(rank, limit, multiple) for rank, limit in zip(ranks, limits, strict=True))


def _rounded(rank: int, limit: int, multiple: int) -> int:
    near = max(1, (rank + multiple // 2) // multiple) * multiple
    if rank >= limit or near < limit:
        return min(rank, limit) if rank >= limit else near
    return (limit - 1) // multiple * multiple or rank


def _unfoldings(weight: Tensor, format: str, now: Ranks) -> tuple[Tensor, ...]:
    """Return the matrices whose ranks are estimated, in the coordinates of their largest `now` singular vectors."""
    if format == SVD:
        values = torch.linalg.svdvals(weight.flatten(1))[: now[0]]
        return (torch.diag(values),) if now[0] < min(weight.shape[:2]) else (weight.flatten(1),)
    core = weight
    for axis, rank in enumerate(now):
        core = _projected(core, axis, rank)
    return core.flatten(1), core.transpose(0, 1).flatten(1)


def _projected(tensor: Tensor, axis: int, rank: int) -> Tensor:
    """Express the `axis` of a tensor in its `rank` leading left singular vectors."""
    if rank >= tensor.shape[axis]:
        return tensor
    unfolded = tensor.transpose(0, axis).flatten(1)
    basis = torch.linalg.eigh(unfolded @ unfolded.T).eigenvectors[:, -rank:]
    return torch.tensordot(basis.T, tensor, dims=([1], [axis])).movedim(0, axis)
