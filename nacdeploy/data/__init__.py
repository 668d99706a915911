"""Data sets by name: images in memory as uint8, always three disjoint splits, everything drawn from the split seed."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from nacdeploy.base.errors import UsageError, unknown
from nacdeploy.data.classes import on_outputs, output_names
from nacdeploy.data.normalization import in_colour, normalization, statistics
from nacdeploy.data.sets import Dataset, ImageSet, Splits
from nacdeploy.data.sources import arrays, cifar, digits, fashion_mnist, folder, imagenet, listed, svhn
from nacdeploy.data.sources.downloads import name_by_user
from nacdeploy.data.sources.packed import hub, shards
from nacdeploy.data.splits import stratified_order
from nacdeploy.data.transforms import augmented, shaping
from nacdeploy.metrics import ACCURACY, Metric, asks_the_baseline
from nacdeploy.profile.tables.training import DataTable

__all__ = ["SOURCES", "Dataset", "ImageSet", "augmented", "has_labels", "load", "name_by_user", "statistics"]

_READERS: dict[str, Callable[[str | None, DataTable], Splits]] = {
    "digits": digits.read,
    "fashion-mnist": fashion_mnist.read,
    "cifar10": partial(cifar.read, "cifar10"),
    "cifar100": partial(cifar.read, "cifar100"),
    "svhn": svhn.read,
    "tiny-imagenet": imagenet.read_tiny,
    "imagenet": imagenet.read,
    "folder": folder.read,
    "csv": listed.read_csv,
    "npz": arrays.read_npz,
    "npy": arrays.read_npy,
    "wds": shards.read,
    "hf": hub.read,
}
_ASKED = {"folder": folder.has_labels, "wds": shards.has_labels, "hf": hub.has_labels}
SOURCES: tuple[str, ...] = tuple(_READERS)


def load(name: str, table: DataTable, metric: Metric = ACCURACY) -> Dataset:
    """Load a data set by name, `SOURCE` or `SOURCE:DIRECTORY`, and prepare it as the table says, with labels for the
    metric.

    Preparing reduces, resizes and normalises the images. A split with fewer images than `n_train`, `n_validation` or
    `n_test` stays whole.

    Raises:
        NacdeployError: the data cannot be downloaded.
        UsageError: the name is unknown, or the data are missing, broken or too few for three splits.
    """
    source, colon, argument = name.partition(":")
    if source not in _READERS and Path(name).is_dir():
        raise UsageError(f"'{name}' is no data set's name but a folder; images in folders by class: folder:{name}")
    if source not in _READERS:
        raise unknown("data set", source, SOURCES)
    splits = _labelled(_READERS[source](argument if colon else None, table), name, table, metric)
    train = _prepared(splits.train, "train", table.n_train, table, splits.shaping is not None)
    mean, std = normalization(table, train.images)
    validation = _prepared(splits.validation, "validation", table.n_validation, table, splits.shaping is not None)
    test = _prepared(splits.test, "test", table.n_test, table, splits.shaping is not None)
    if splits.is_labelled:
        labelled = [metric.labels(split.labels, splits.class_names) for split in (train, validation, test)]
    else:
        labelled = [(torch.full((len(split),), -1), splits.class_names) for split in (train, validation, test)]
    train, validation, test = (
        ImageSet(in_colour(split.images, len(mean)), labels)
        for split, (labels, _) in zip((train, validation, test), labelled, strict=True)
    )
    return Dataset(
        name=name,
        train=train,
        validation=validation,
        test=test,
        class_names=labelled[0][1],
        mean=mean,
        std=std,
        split_seed=table.split_seed,
        source=splits.source,
        augment=table.augment,
        bits=splits.bits,
        shaping=splits.shaping or shaping(table),
        notes=splits.notes,
        is_labelled=splits.is_labelled,
        channel_order=table.channel_order,
        value_range=table.value_range,
    )


def has_labels(name: str) -> bool:
    """Tell whether the images of a data set have labels, without reading an image: a folder without folders has none.

    Raises:
        UsageError: the data are missing.
    """
    source, _, argument = name.partition(":")
    if source not in _ASKED or not argument:
        return True
    return _ASKED[source](argument)


def _labelled(splits: Splits, name: str, table: DataTable, metric: Metric) -> Splits:
    """Return the splits with the classes that the network tells apart.

    Raises:
        UsageError: the metric needs labels and there are none, or nothing says which outputs the network has.
    """
    if asks_the_baseline(metric):
        return replace(splits, class_names=output_names(table.classes, table.n_classes), is_labelled=False)
    if not splits.is_labelled:
        raise UsageError(
            f"data set '{name}' has no labels, since its images lie in no folders by class; {metric.title} needs them, "
            "metric = 'agreement' with a trained network (--checkpoint) does not"
        )
    if table.classes is not None:
        return on_outputs(splits, table.classes, table.n_classes)
    if table.n_classes is not None:
        raise UsageError("images.n_classes is given without images.classes, which says what outputs the labels are")
    return splits


def _prepared(split: ImageSet, name: str, n_images: int | None, table: DataTable, is_shaped: bool) -> ImageSet:
    """Return the first `n_images` of a split in stratified order, in the size that the table sets unless the source
    gave it."""
    if len(split) == 0:
        raise UsageError(f"the {name} split is empty; give more images or reduce the other splits")
    reduced = split.subset(stratified_order(split.labels, table.split_seed)[:n_images])
    if is_shaped or not isinstance(reduced.images, Tensor):
        return reduced
    return ImageSet(shaping(table)(reduced.images), reduced.labels)
