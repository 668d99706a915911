"""CIFAR-10 and CIFAR-100 through torchvision: 60,000 colour images, 32x32 (Krizhevsky, 2009)."""

from pathlib import Path
from typing import Any

import torch

from nacdeploy.data.sets import ImageSet, Splits
from nacdeploy.data.sources.downloads import SOURCE, downloading, place
from nacdeploy.data.splits import take_validation
from nacdeploy.profile.tables.training import DataTable


def read_cifar10(argument: str | None, table: DataTable) -> Splits:
    """Read CIFAR-10 from the given directory or a download; validation is taken from train.

    Raises:
        NacdeployError: the data are not there and cannot be downloaded.
        UsageError: validation would take all training images.
    """
    return _read("cifar10", "cifar-10-python.tar.gz", argument, table)


def read_cifar100(argument: str | None, table: DataTable) -> Splits:
    """Read CIFAR-100 with its 100 fine labels, otherwise as `read_cifar10`."""
    return _read("cifar100", "cifar-100-python.tar.gz", argument, table)


def _read(name: str, archive: str, argument: str | None, table: DataTable) -> Splits:
    root, may = place(argument)
    with downloading(name, archive, root, may):
        everything, test = (_dataset(name, root, train=train, download=may) for train in (True, False))
    train, validation = take_validation(_images(everything), table.n_validation, table.split_seed)
    source = SOURCE if argument is None else argument
    return Splits(train, validation, _images(test), tuple(everything.classes), source)


def _dataset(name: str, root: Path, *, train: bool, download: bool) -> Any:
    from torchvision import datasets

    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    return kind(str(root), train=train, download=download)


def _images(dataset: Any) -> ImageSet:
    images = torch.from_numpy(dataset.data).permute(0, 3, 1, 2).contiguous()
    return ImageSet(images, torch.tensor(dataset.targets, dtype=torch.int64))
