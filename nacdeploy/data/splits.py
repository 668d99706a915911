"""Splitting and ordering by label: every draw comes from a seed, every split is stratified."""

import torch
from torch import Tensor

from nacdeploy.base.errors import UsageError
from nacdeploy.data.sets import ImageSet

DEFAULT_N_VALIDATION = 5000


def stratified_order(labels: Tensor, seed: int) -> Tensor:
    """A random permutation, int64 `(N,)`, of which every prefix has the classes of `labels` `(N,)` in proportion.

    Each class is spread evenly over [0, 1] with jitter, so that a prefix is off by about one image per class.
    """
    generator = torch.Generator().manual_seed(seed)
    indices, ranks, counts = _ranked(labels, generator)
    jitter = torch.rand(len(labels), generator=generator, dtype=torch.float64)
    return indices[((ranks + jitter) / counts).argsort(stable=True)]


def split_by_fraction(
    labels: Tensor,
    class_names: tuple[str, ...],
    *,
    validation: float,
    test: float,
    seed: int,
    some_elsewhere: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Disjoint indices of train, validation and test: each class gives the same fraction, at least one image, to each.

    A fraction of zero makes that split empty. `some_elsewhere`: a class without any image has its own in another split
    that is given.

    Raises:
        UsageError: a class has fewer images than there are splits.
    """
    n_splits = 1 + (validation > 0) + (test > 0)
    for name, count in zip(class_names, labels.bincount(minlength=len(class_names)).tolist(), strict=True):
        if count < n_splits and not (some_elsewhere and count == 0):
            raise UsageError(f"class '{name}' has {count} images; to split into {n_splits} it needs {n_splits} or more")
    indices, ranks, counts = _ranked(labels, torch.Generator().manual_seed(seed))
    end_of_test = _share(counts, test)
    end_of_validation = end_of_test + _share(counts, validation)
    return (
        indices[ranks >= end_of_validation],
        indices[(ranks >= end_of_test) & (ranks < end_of_validation)],
        indices[ranks < end_of_test],
    )


def take_validation(train: ImageSet, n_validation: int | None, seed: int) -> tuple[ImageSet, ImageSet]:
    """A training set as (the rest, a stratified validation set of `n_validation` images, by default 5,000).

    Raises:
        UsageError: no training image would be left.
    """
    wanted = DEFAULT_N_VALIDATION if n_validation is None else n_validation
    if wanted >= len(train):
        raise UsageError(
            f"a validation split of {wanted} leaves none of the {len(train)} training images; "
            f"set images.n_validation below {len(train)}"
        )
    order = stratified_order(train.labels, seed)
    return train.subset(order[wanted:]), train.subset(order[:wanted])


def _share(counts: Tensor, fraction: float) -> Tensor:
    """How many of each image's class go to a split, `(N,)`."""
    return (counts * fraction).round().clamp(min=1) if fraction > 0 else torch.zeros_like(counts)


def _ranked(labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Shuffled indices grouped by class, each one's rank within its class, and the size of that class; all `(N,)`."""
    shuffled = torch.randperm(len(labels), generator=generator)
    indices = shuffled[labels[shuffled].argsort(stable=True)]
    classes = labels[indices]
    counts = labels.bincount()
    starts = counts.cumsum(0) - counts
    return indices, torch.arange(len(labels)) - starts[classes], counts[classes]
