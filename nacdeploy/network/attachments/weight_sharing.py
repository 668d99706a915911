"""Weight sharing: each weight of a layer is one of a few values, by its label (Han et al., 2016, section 3).

Labels and values stand beside the backbone, as quantizers and masks do. Training moves the values alone: each gets the
mean of its members' gradients, and no weight changes its label. Label 0 is zero and stays zero: that is what masks and
`fix_zeros` hide. On an integer grid (Q's, or a fixed point) the values are rounded to it in every run, and scales by
output channel stand beside them, so that what is coded is what is exported.
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
    """How a layer's values are found, and the structure that they make: `n_values` besides zero, integers within
    `limits` where they lie on a grid (None: floats) and the number of its scales.

    `kmeans` and `linear` find values of their own, by `init` (see `clusters.kmeans`); `fixed_point` rounds down to the
    grid of `int_bits`; `integers` takes those of Q's grid as they are.
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
    """The values of one layer: (n_values,) floats, labels of the weight's shape (0 is zero, i is value i - 1), and on a
    grid its scales (n_scales,)."""

    centroids: Tensor
    labels: Tensor
    scales: Tensor | None


OnGrid = tuple[Tensor, Tensor]  # integers of the weight's shape and scales by output channel


def share(weight: Tensor, book: Codebook, on_grid: OnGrid | None = None) -> Shared:
    """The shared values of a weight (masked ones are zero); `on_grid`: its integers and scales on Q's grid."""
    if on_grid is not None or book.method == FIXED_POINT:
        steps, scales = _steps(weight, book, on_grid)
        # the weights that a checkpoint is rebuilt from are not those that were shared
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
    """How many integers besides zero `share` finds: what `n_values` is to be on a grid."""
    steps, _ = _steps(weight, book, on_grid)
    return len(np.unique(steps[steps != 0]))


def _steps(weight: Tensor, book: Codebook, on_grid: OnGrid | None) -> tuple[Steps, Tensor]:
    """The integers (n,) of a weight on its grid, and the scales of that."""
    if on_grid is None:
        fixed = FixedPoint(book.bits, book.int_bits)
        steps = np.clip(np.floor(_doubles(weight) / fixed.step), *fixed.limits).astype(np.int64)
        return steps, torch.tensor([fixed.step])
    steps, scales = on_grid[0].cpu().numpy().astype(np.int64).ravel(), on_grid[1].detach().cpu()
    if book.method != INTEGERS:
        steps = _clustered(steps, np.repeat(scales.double().numpy(), weight[0].numel()), book)
    return steps, scales


def _clustered(steps: Steps, scales: clusters.Floats, book: Codebook) -> Steps:
    """Integers (n,) of `scales` (n,), each moved to the nearest of a few; an error counts by what it is in weights."""
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
    """The integers (of the weight's shape) that a layer on a grid is made of."""
    return _table(shared.centroids, shared.scales, limits)[shared.labels.long()]


def _table(centroids: Tensor, scales: Tensor | None, limits: tuple[int, int] | None) -> Tensor:
    """The value of every label (n_values + 1,): zero, then the centroids, on a grid as integers."""
    if scales is not None and limits is not None:
        centroids = torch.round(centroids / scales.mean()).clamp(*limits)
    return torch.cat([centroids.new_zeros(1), centroids])


def _doubles(weight: Tensor) -> clusters.Floats:
    return weight.detach().cpu().double().numpy().ravel()


def _labels(labels: np.ndarray, weight: Tensor, book: Codebook) -> Tensor:
    kind = np.uint8 if book.n_values <= _LARGEST_BYTE else np.int32
    return torch.from_numpy(labels.astype(kind)).reshape(weight.shape)


class _Share(torch.autograd.Function):
    """Values by label; a value's gradient is the mean of those of its members, straight through the rounding to a grid.
    Han et al., 2016, take the sum (eq. 3): with the mean, a step is as long as that of a single weight."""

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
        """The values of a layer that is shared."""
        return Shared(
            self._parameters[_name(layer, "centroids")],  # type: ignore[arg-type]
            self._buffers[_name(layer, "labels")],  # type: ignore[arg-type]
            self._buffers.get(_name(layer, "scales")),
        )

    def weight(self, layer: str) -> Tensor:
        """The weight of a layer that is shared; its gradient goes to the centroids."""
        shared = self.of(layer)
        return _Share.apply(shared.centroids, shared.labels, shared.scales, self.books[layer].limits)

    def shares_floats(self, layer: str) -> bool:
        """Whether a layer is shared, and not on Q's grid."""
        return layer in self.books and self.integers(layer) is None

    def integers(self, layer: str) -> tuple[Tensor, Tensor] | None:
        """The int8 integers and scales of a layer on Q's grid, None for another."""
        shared, limits = self.of(layer), self.books[layer].limits
        if self.books[layer].method == FIXED_POINT or shared.scales is None or limits is None:
            return None
        return integers_of(shared, limits).detach().to(torch.int8), shared.scales

    def extra_repr(self) -> str:
        return ", ".join(f"{layer}: {book.method} {book.n_values}" for layer, book in self.books.items())


def _name(layer: str, part: str) -> str:
    """The name of a value: the path of the weight, without the dots that a name may not have."""
    return f"{layer}.weight.{part}".replace(".", "/")
