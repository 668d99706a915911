"""Weight sharing: each weight of a layer is one of a few values, by its label (Han et al., 2016, section 3).

Labels and values stand beside the backbone, as quantizers and masks do. Training moves the values alone: each value
gets the mean of its members' gradients, and no weight changes its label. Label 0 is zero and stays zero: masks and
`fix_zeros` use it. On an integer grid (Q's, or a fixed point) every run rounds the values to the grid, and scales by
output channel stand beside them, so that the coded values are the exported ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nacdeploy.coding.fixed_point import FixedPoint
from nacdeploy.network.attachments import clusters

KMEANS, LINEAR, FIXED_POINT, INTEGERS = "kmeans", "linear", "fixed_point", "integers"
_LARGEST_BYTE = 255

Steps = NDArray[np.int64]


@dataclass(frozen=True)
class Codebook:
    """The way to find a layer's values, and the structure of the result.

    Attributes:
        method: `kmeans` and `linear` find values of their own; `fixed_point` rounds down to a grid; `integers` takes
            the integers of Q's grid unchanged.
        bits: the width of a code.
        n_values: the number of values besides zero.
        init: the start of `kmeans` (see `clusters.kmeans`).
        int_bits: the bits before the point of `fixed_point`.
        fix_zeros: whether zeros stay zero.
        limits: the limits of integers on a grid; None for floats.
        n_scales: the number of scales on a grid.
    """

    method: str
    bits: int
    n_values: int
    init: str = "kmeans++"
    int_bits: int = 0
    fix_zeros: bool = True
    limits: tuple[int, int] | None = None
    n_scales: int = 0


@dataclass(frozen=True)
class Shared:
    """The values of one layer: (n_values,) floats, labels of the weight's shape (0 is zero, i is value i - 1), and
    on a grid its scales (n_scales,)."""

    centroids: Tensor
    labels: Tensor
    scales: Tensor | None


OnGrid = tuple[Tensor, Tensor]  # integers of the weight's shape and scales by output channel


def share(weight: Tensor, book: Codebook, on_grid: OnGrid | None = None) -> Shared:
    """Return the shared values of a weight (masked weights are zero); `on_grid` holds its integers and scales on Q's
    grid."""
    if on_grid is not None or book.method == FIXED_POINT:
        steps, scales = _steps(weight, book, on_grid)
        # a checkpoint is rebuilt from other weights than the shared ones
        integers = np.sort(np.resize(_present(steps), book.n_values))
        labels = np.minimum(np.searchsorted(integers, steps) + 1, book.n_values)
        centroids = torch.from_numpy(integers).float() * scales.mean()
        return Shared(centroids, _labels(np.where(steps == 0, 0, labels), weight, book), scales.clone())
    values = _doubles(weight)
    keeps_zero = (values == 0) & book.fix_zeros
    found = _centroids(values[~keeps_zero], book, book.n_values)
    labels = np.where(keeps_zero, 0, clusters.nearest(values, found) + 1)
    return Shared(torch.from_numpy(found).float(), _labels(labels, weight, book), None)


def n_integers(weight: Tensor, book: Codebook, on_grid: OnGrid | None = None) -> int:
    """Return the number of integers besides zero that `share` finds: the `n_values` of a codebook on a grid."""
    steps, _ = _steps(weight, book, on_grid)
    return len(np.unique(steps[steps != 0]))


def _steps(weight: Tensor, book: Codebook, on_grid: OnGrid | None) -> tuple[Steps, Tensor]:
    """Return the integers (n,) of a weight on its grid, and the grid's scales."""
    if on_grid is None:
        fixed = FixedPoint(book.bits, book.int_bits)
        steps = np.clip(np.floor(_doubles(weight) / fixed.step), *fixed.limits).astype(np.int64)
        return steps, torch.tensor([fixed.step])
    steps, scales = on_grid[0].cpu().numpy().astype(np.int64).ravel(), on_grid[1].detach().cpu()
    if book.method != INTEGERS:
        steps = _clustered(steps, np.repeat(scales.double().numpy(), weight[0].numel()), book)
    return steps, scales


def _clustered(steps: Steps, scales: clusters.Floats, book: Codebook) -> Steps:
    """Move integers (n,) of `scales` (n,) to the nearest of a few; an error counts by its size in weights."""
    low = int(steps.min(initial=0))
    errors = np.bincount(steps - low, np.square(scales))
    line = np.arange(low, low + len(errors), dtype=np.float64)
    present = (errors > 0) & (line != 0)
    if not present.any():
        return steps
    found = np.unique(np.round(_centroids(line[present], book, 2**book.bits - 1, errors[present])))
    moved = found[clusters.nearest(line, found)].astype(np.int64)
    return np.where(steps == 0, 0, moved[steps - low])


def _centroids(
    values: clusters.Floats, book: Codebook, n: int, weights: clusters.Floats | None = None
) -> clusters.Floats:
    return clusters.levels(values, n) if book.method == LINEAR else clusters.kmeans(values, n, book.init, weights)


def _present(steps: Steps) -> Steps:
    found = np.unique(steps[steps != 0])
    return found if len(found) else np.zeros(1, np.int64)


def integers_of(shared: Shared, limits: tuple[int, int]) -> Tensor:
    """Return the integers (of the weight's shape) of a layer on a grid."""
    return _table(shared.centroids, shared.scales, limits)[shared.labels.long()]


def _table(centroids: Tensor, scales: Tensor | None, limits: tuple[int, int] | None) -> Tensor:
    """Return the value of every label (n_values + 1,): zero, then the centroids, on a grid as integers."""
    if scales is not None and limits is not None:
        centroids = torch.round(centroids / scales.mean()).clamp(*limits)
    return torch.cat([centroids.new_zeros(1), centroids])


def _doubles(weight: Tensor) -> clusters.Floats:
    return weight.detach().cpu().double().numpy().ravel()


def _labels(labels: np.ndarray, weight: Tensor, book: Codebook) -> Tensor:
    kind = np.uint8 if book.n_values <= _LARGEST_BYTE else np.int32
    return torch.from_numpy(labels.astype(kind)).reshape(weight.shape)


class _Share(torch.autograd.Function):
    """Values by label; a value's gradient is the mean of its members' gradients, straight through the rounding to a
    grid.

    Han et al., 2016, take the sum (eq. 3); with the mean, a step is as long as the step of a single weight.
    """

    @staticmethod
    def forward(
        ctx: Any, centroids: Tensor, labels: Tensor, scales: Tensor | None, limits: tuple[int, int] | None
    ) -> Tensor:
        ctx.save_for_backward(labels)
        ctx.n_values = len(centroids)
        values = _table(centroids, scales, limits)[labels.long()]
        return values if scales is None else values * scales.reshape(-1, *[1] * (values.dim() - 1))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        labels = ctx.saved_tensors[0].flatten().long()
        gradient = gradients[0].reshape(-1)
        sums = gradient.new_zeros(ctx.n_values + 1).index_add_(0, labels, gradient)
        members = torch.bincount(labels, minlength=ctx.n_values + 1).clamp(min=1)
        return (sums / members)[1:], None, None, None


class Sharing(nn.Module):
    """The shared values by layer: `<layer>/weight/centroids` (trained), `/labels` and `/scales` (fixed)."""

    def __init__(self, books: Mapping[str, Codebook], shared: Mapping[str, Shared]) -> None:
        super().__init__()
        self.books = dict(books)
        for layer, values in shared.items():
            self.register_parameter(_name(layer, "centroids"), nn.Parameter(values.centroids))
            self.register_buffer(_name(layer, "labels"), values.labels)
            if values.scales is not None:
                self.register_buffer(_name(layer, "scales"), values.scales)

    @property
    def layers(self) -> tuple[str, ...]:
        return tuple(self.books)

    def of(self, layer: str) -> Shared:
        """Return the values of a shared layer."""
        return Shared(
            self._parameters[_name(layer, "centroids")],  # type: ignore[arg-type]
            self._buffers[_name(layer, "labels")],  # type: ignore[arg-type]
            self._buffers.get(_name(layer, "scales")),
        )

    def weight(self, layer: str) -> Tensor:
        """Return the weight of a shared layer; its gradient goes to the centroids."""
        shared = self.of(layer)
        return _Share.apply(shared.centroids, shared.labels, shared.scales, self.books[layer].limits)

    def shares_floats(self, layer: str) -> bool:
        """Tell whether a layer is shared, and not on Q's grid."""
        return layer in self.books and self.integers(layer) is None

    def integers(self, layer: str) -> tuple[Tensor, Tensor] | None:
        """Return the int8 integers and scales of a layer on Q's grid, or None for another layer."""
        shared, limits = self.of(layer), self.books[layer].limits
        if self.books[layer].method == FIXED_POINT or shared.scales is None or limits is None:
            return None
        return integers_of(shared, limits).detach().to(torch.int8), shared.scales

    def extra_repr(self) -> str:
        return ", ".join(f"{layer}: {book.method} {book.n_values}" for layer, book in self.books.items())


def _name(layer: str, part: str) -> str:
    """Return the name of a value: the path of the weight without dots, which such a name may not have."""
    return f"{layer}.weight.{part}".replace(".", "/")
