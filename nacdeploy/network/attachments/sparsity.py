"""Sparse weights: masks by pattern, the order of channels in which 2:4 keeps most, and the cost of a masked weight.

2:4 keeps two of every four consecutive input channels, for each output channel and kernel position, as the sparse
tensor cores of NVIDIA GPUs require (Mishra et al., 2021). A last part of fewer than four is padded with zeros, as
kernels pad it. The criterion of every pattern is magnitude; for a block (kernel, filter) its L1 or L2 norm. A masked
weight stays masked.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from nacdeploy.network.captured.graph import CONVOLVING

TWO_FOUR, ELEMENT, KERNEL, FILTER = "2:4", "element", "kernel", "filter"
_INDEX_BITS = 2  # a value kept by 2:4 says at which of four places it stood
_LARGEST_SAMPLE, _SMALLEST_SAMPLE = 2048, 64
_MOST_COMPARED = 2**28  # rows times pairs of channels in one round of the search for an order
_LEAST_GAIN = 1e-6
_ROUNDING = 1e-9
_FIRST_AXIS = {ELEMENT: None, KERNEL: 2, FILTER: 1}  # from which on the axes of a weight belong to one block


@dataclass(frozen=True)
class Sparsity:
    """The masked layers and their patterns: a function of the network alone, so that the masks can be chosen anew.

    Attributes:
        pattern: the pattern of masks.
        ratio: the masked fraction of each layer's elements, kernels or filters.
        exclude: the layers that stay dense.
        min_channels: a layer with fewer channels stays dense.
        ratios: fractions by layer in place of `ratio`; a layer without an entry stays dense.
        patterns: the patterns of layers with another pattern than `pattern`.
        importance: the norm of a block, "l1" or "l2".
        rounding: "floor" or "ceil", to a whole number of elements, kernels or filters.
        every_convolution: whether convolutions along one and three axes are layers too; rules of older files do not
            say so.
    """

    pattern: str
    ratio: float = 0.5
    exclude: tuple[str, ...] = ()
    min_channels: int = 1
    ratios: Mapping[str, float] = field(default_factory=dict)
    patterns: Mapping[str, str] = field(default_factory=dict)
    importance: str = "l1"
    rounding: str = "floor"
    every_convolution: bool = False

    def share(self, name: str) -> float:
        """Return the fraction of a layer that is masked."""
        return self.ratios.get(name, 0.0) if self.ratios else self.ratio

    def pattern_of(self, name: str) -> str:
        """The pattern of a layer."""
        return self.patterns.get(name, self.pattern)

    def n_masked(self, name: str, n_blocks: int) -> int:
        """Return the number of a layer's elements, kernels or filters that are masked."""
        exact = self.share(name) * n_blocks
        return math.ceil(exact - _ROUNDING) if self.rounding == "ceil" else math.floor(exact + _ROUNDING)

    def why_dense(self, name: str, layer: nn.Module) -> str | None:
        """Return why `layer` gets no mask, or None if it gets one."""
        n_outputs, n_inputs = layer.weight.shape[:2]  # type: ignore[index]
        if not self.every_convolution and isinstance(layer, nn.Conv1d | nn.Conv3d):
            return "this S is of a version that took Conv2d and Linear layers alone"
        if not self.share(name):
            return "a share of 0" if name in self.ratios or not self.ratios else "not in sparsify.ratios"
        if any(name == entry or name.startswith(f"{entry}.") for entry in self.exclude):
            return "excluded"
        if getattr(layer, "groups", 1) > 1:
            return "depthwise or grouped"
        if self.pattern_of(name) in (KERNEL, FILTER) and not isinstance(layer, CONVOLVING):
            return "no convolution"
        if self.pattern_of(name) == TWO_FOUR and n_inputs < 4:
            return "fewer than 4 input channels"
        return f"fewer than {self.min_channels} channels" if min(n_outputs, n_inputs) < self.min_channels else None


class Masks(nn.Module):
    """The masks (bool, True is kept, of the weight's shape) as buffers by layer."""

    def __init__(self, masks: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.layers = tuple(masks)
        for layer, mask in masks.items():
            self.register_buffer(self.buffer(layer), mask)

    @staticmethod
    def buffer(layer: str) -> str:
        """Return the name of a layer's mask: the path of its weight without dots, which a buffer's name may not
        have."""
        return f"{layer}.weight".replace(".", "/")

    def get(self, layer: str) -> Tensor | None:
        """Return the mask of a layer, or None without one."""
        return self._buffers.get(self.buffer(layer))

    def extra_repr(self) -> str:
        return ", ".join(self.layers)


def mask(weight: Tensor, sparsity: Sparsity, layer: str = "", former: Tensor | None = None) -> Tensor:
    """Return the kept elements (bool) of a layer's weight (O, I) or (O, I, kh, kw): the largest magnitudes that the
    pattern allows.

    Of equal magnitudes the last are kept. Elements that the `former` mask hides stay hidden, and count.
    """
    magnitude = weight.detach().abs()
    pattern = sparsity.pattern_of(layer)
    if pattern == TWO_FOUR:
        return _two_of_four(magnitude)
    scores = _blocks(magnitude, pattern, sparsity.importance)
    if former is not None:
        scores = scores.masked_fill(~_blocks(former.to(magnitude), pattern).bool(), -1.0)
    n_masked = max(sparsity.n_masked(layer, scores.numel()), int((scores < 0).sum()))
    kept = torch.ones(scores.numel(), dtype=torch.bool, device=weight.device)
    kept[scores.flatten().argsort(stable=True)[:n_masked]] = False
    return kept.reshape(scores.shape).expand(weight.shape).contiguous()


def _blocks(magnitude: Tensor, pattern: str, importance: str = "l1") -> Tensor:
    """Return the norm of each element, kernel or filter, with the axes of a block kept as axes of size 1."""
    first = _FIRST_AXIS[pattern]
    if first is None or magnitude.dim() <= first:
        return magnitude
    axes = tuple(range(first, magnitude.dim()))
    if importance == "l2":
        return torch.linalg.vector_norm(magnitude, dim=axes, keepdim=True)
    return magnitude.sum(axes, keepdim=True)


def _two_of_four(magnitude: Tensor) -> Tensor:
    n_inputs = magnitude.shape[1]
    fours = _in_fours(magnitude.movedim(1, -1), padding=-1.0)
    largest = fours.argsort(dim=-1, descending=True, stable=True)[..., :2]
    kept = torch.zeros(fours.shape, dtype=torch.bool, device=fours.device).scatter_(-1, largest, True)
    return kept.flatten(-2)[..., :n_inputs].movedim(-1, 1).contiguous()


def _in_fours(values: Tensor, padding: float) -> Tensor:
    """Reshape (..., C) to (..., C / 4, 4); a last part of fewer is filled with `padding`."""
    return functional.pad(values, (0, -values.shape[-1] % 4), value=padding).unflatten(-1, (-1, 4))


def kept_fraction(weight: Tensor, kept: Tensor) -> float:
    """Return the share of the magnitude of `weight` that a mask keeps."""
    magnitude = weight.detach().abs().double()
    return float(magnitude[kept].sum() / magnitude.sum().clamp(min=1e-300))


def stored_bits(kept: Tensor, pattern: str, value_bits: int) -> int:
    """Return the bits of a masked weight: its kept values and their places.

    A place takes two bits per kept value (2:4), or one bit per element, kernel or filter.
    """
    n_kept = int(kept.sum())
    if pattern == TWO_FOUR:
        return n_kept * (value_bits + _INDEX_BITS)
    n_flags = {ELEMENT: kept.numel(), KERNEL: kept.shape[:2].numel(), FILTER: kept.shape[0]}[pattern]
    return n_kept * value_bits + n_flags


def best_order(readers: Sequence[Tensor]) -> tuple[int, ...]:
    """Return the order of channels in which 2:4 keeps most of the `readers`' magnitudes, each (rows, C).

    Greedy swaps (Pool & Yu, 2021, section 4), the largest gain first, until no swap gains. Every reader counts alike,
    since a norm behind a reader undoes its scale. Of many rows only a sample is read, smaller with more channels, so
    that the search takes seconds.
    """
    rows = torch.cat([reader.double() / reader.sum().clamp(min=1e-300) for reader in readers])
    n_channels = rows.shape[1]
    n_sampled = max(_SMALLEST_SAMPLE, min(_LARGEST_SAMPLE, _MOST_COMPARED // n_channels**2))
    if len(rows) > n_sampled:
        rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:n_sampled]]
    total = float(rows.sum())
    columns = functional.pad(rows, (0, -n_channels % 4)).T.contiguous()
    order = list(range(n_channels))
    kept, offered = zip(*(_offers(columns, four) for four in range(len(columns) // 4)), strict=True)
    gains = _Gains(torch.stack(kept), torch.cat(offered))
    while swaps := gains.best(n_channels, _LEAST_GAIN * total):
        for a, b in swaps:
            order[a], order[b] = order[b], order[a]
            columns[[a, b]] = columns[[b, a]]
            gains.offered[:, [a, b]] = gains.offered[:, [b, a]]
        for four in {column // 4 for swap in swaps for column in swap}:
            gains.kept[four], gains.offered[4 * four : 4 * four + 4] = _offers(columns, four)
    return tuple(order)


@dataclass(frozen=True)
class _Gains:
    """The magnitude that each four keeps (C / 4,), and would keep with column j in place of its member i, (C, C)."""

    kept: Tensor
    offered: Tensor

    def best(self, n_channels: int, least: float) -> list[tuple[int, int]]:
        """Return the best swaps among the first `n_channels` columns that gain at least `least`, no four twice.

        A swap of other fours does not change what a swap gains.
        """
        now, four = self.kept.repeat_interleave(4), torch.arange(len(self.offered)) // 4
        gains = self.offered + self.offered.T - now[:, None] - now[None, :]
        gains = gains.masked_fill(four[:, None] >= four[None, :], 0.0)[:n_channels, :n_channels].flatten()
        swaps: list[tuple[int, int]] = []
        taken: set[int] = set()
        best = gains.topk(n_channels)
        for gain, place in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            a, b = divmod(place, n_channels)
            if gain > least and not taken & {a // 4, b // 4}:
                swaps.append((a, b))
                taken |= {a // 4, b // 4}
        return swaps


def _offers(columns: Tensor, four: int) -> tuple[Tensor, Tensor]:
    """Return the magnitude that one four of `columns` (C, rows) keeps, (), and with any column in place of each member,
    (4, C).

    With m1 >= m2 the two largest of the three members that stay, a row keeps m1 + max(m2, x) of m1, m2 and x.
    """
    members = columns[4 * four : 4 * four + 4]
    kept = members.topk(2, dim=0).values.sum()
    offered = []
    for leaving in range(4):
        first, second = members[[i for i in range(4) if i != leaving]].topk(2, dim=0).values
        offered.append(first.sum() + torch.maximum(columns, second).sum(1))
    return kept, torch.stack(offered)


@dataclass(frozen=True)
class Found:
    """The pattern in the values of a weight: the fraction of zeros, and whether every four input channels hold two
    zeros."""

    zero_fraction: float
    is_two_four: bool


def sparsity_of(weight: np.ndarray) -> Found:
    """Read the pattern in the values of a weight (O, I, ...), integers or floats. Fewer than four input channels are
    not 2:4."""
    nonzero = np.moveaxis(weight != 0, 1, -1)
    n_inputs = nonzero.shape[-1]
    padded = np.pad(nonzero, [(0, 0)] * (nonzero.ndim - 1) + [(0, -n_inputs % 4)])
    in_fours = padded.reshape(*padded.shape[:-1], -1, 4).sum(-1)
    return Found(1.0 - float(nonzero.mean()), n_inputs >= 4 and int(in_fours.max()) <= 2)
