"""Data sets by name: images in memory as uint8, always three disjoint splits, everything drawn from the split seed."""

import torch
from torch import Tensor

from nacdeploy.data import cifar, digits, fashion_mnist, folder
from nacdeploy.data.sets import Dataset, ImageSet
from nacdeploy.data.splits import stratified_order
from nacdeploy.data.transforms import augmented, resized
from nacdeploy.errors import UsageError, unknown
from nacdeploy.profile.training import DataTable

__all__ = ["SOURCES", "Dataset", "ImageSet", "augmented", "load"]

_READERS = {
    "digits": digits.read,
    "fashion-mnist": fashion_mnist.read,
    "cifar10": cifar.read_cifar10,
    "cifar100": cifar.read_cifar100,
    "folder": folder.read,
}
SOURCES: tuple[str, ...] = tuple(_READERS)


def load(name: str, table: DataTable) -> Dataset:
    """A data set by name, `SOURCE` or `SOURCE:DIRECTORY`, reduced and resized as the table says.

    A split with fewer images than `n_train`, `n_validation` or `n_test` stays whole.

    Raises:
        NacdeployError: it cannot be downloaded.
        UsageError: the name is unknown, or the data are missing, broken or too few for three splits.
    """
    source, colon, argument = name.partition(":")
    if source not in _READERS:
        raise unknown("data set", source, SOURCES)
    splits = _READERS[source](argument if colon else None, table)
    train = _prepared(splits.train, "train", table.n_train, table)
    mean, std = statistics(train.images)
    return Dataset(
        name=name,
        train=train,
        validation=_prepared(splits.validation, "validation", table.n_validation, table),
        test=_prepared(splits.test, "test", table.n_test, table),
        class_names=splits.class_names,
        mean=mean,
        std=std,
        split_seed=table.split_seed,
        source=splits.source,
        augment=table.augment,
    )


def _prepared(split: ImageSet, name: str, n_images: int | None, table: DataTable) -> ImageSet:
    """The first `n_images` of a split in stratified order, in the size asked for."""
    if len(split) == 0:
        raise UsageError(f"the {name} split is empty; give more images or reduce the other splits")
    reduced = split.subset(stratified_order(split.labels, table.split_seed)[:n_images])
    return ImageSet(resized(reduced.images, table.input_size), reduced.labels)


def statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of uint8 `(N, C, H, W)` scaled to [0, 1], exact by counting values.

    A constant channel gets a deviation of one grey level, so that it can be divided by.
    """
    values = torch.arange(256, dtype=torch.float64) / 255
    counts = torch.stack([channel.flatten().int().bincount(minlength=256) for channel in images.transpose(0, 1)])
    weights = counts.double() / counts.sum(dim=1, keepdim=True)
    mean = weights @ values
    variance = (weights * (values - mean[:, None]) ** 2).sum(dim=1)
    std = variance.sqrt().clamp(min=1 / 255)
    return tuple(mean.tolist()), tuple(std.tolist())
