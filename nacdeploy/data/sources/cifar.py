"""CIFAR-10 and CIFAR-100 through torchvision: 60,000 colour images, 32x32 (Krizhevsky, 2009)."""

from pathlib import Path
from typing import Any

import torch

from nacdeploy.data.sets import ImageSet, Splits
from nacdeploy.data.sources.downloads import SOURCE, downloading, place
from nacdeploy.data.splits import take_validation
from nacdeploy.profile.tables.training import DataTable


def read(name: str, argument: str | None, table: DataTable) -> Splits:
    """Read CIFAR-10, or CIFAR-100 with its 100 fine labels, from the given directory or a download; validation is taken
    from train.

    Raises:
        NacdeployError: the data are not there and cannot be downloaded.
        UsageError: validation would take all training images.
    """
    root, may = place(argument)
    with downloading(name, f"cifar-{name.removeprefix('cifar')}-python.tar.gz", root, may):
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
