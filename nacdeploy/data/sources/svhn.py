"""Street View House Numbers through torchvision: digits in colour, 32x32 (Netzer et al., 2011)."""

from typing import Any

import torch

from nacdeploy.data.sets import ImageSet, Splits
from nacdeploy.data.sources.downloads import SOURCE, downloading, place
from nacdeploy.data.splits import take_validation
from nacdeploy.profile.tables.training import DataTable


def read(argument: str | None, table: DataTable) -> Splits:
    """Read SVHN from the given directory or a download; validation is taken from train.

    Raises:
        NacdeployError: the data are not there and cannot be downloaded.
        UsageError: validation would take all training images.
    """
    from torchvision.datasets import SVHN

    root, may = place(argument)
    with downloading("svhn", "train_32x32.mat and test_32x32.mat", root, may):
        everything, test = (_images(SVHN(str(root), split=split, download=may)) for split in ("train", "test"))
    train, validation = take_validation(everything, table.n_validation, table.split_seed)
    return Splits(train, validation, test, tuple(map(str, range(10))), SOURCE if argument is None else argument)


def _images(dataset: Any) -> ImageSet:
    return ImageSet(torch.from_numpy(dataset.data), torch.from_numpy(dataset.labels).long())
