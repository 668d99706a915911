"""scikit-learn's 1,797 handwritten digits of 8x8 pixels, which need no download (Alpaydin and Kaynak, 1998)."""

import torch

from nacdeploy.base.errors import UsageError
from nacdeploy.data.sets import ImageSet, Splits
from nacdeploy.data.splits import split_by_fraction
from nacdeploy.data.transforms import resized
from nacdeploy.profile.tables.training import DataTable

DEFAULT_INPUT_SIZE = 16
MAX_PIXEL = 16


def read(argument: str | None, table: DataTable) -> Splits:
    """Read the digits as grey images, split by seed: 15 % validation, 25 % test.

    Raises:
        UsageError: an argument was given.
    """
    if argument is not None:
        raise UsageError(f"data set 'digits' takes no argument, given: '{argument}'")
    from sklearn.datasets import load_digits

    digits = load_digits()
    scaled = torch.from_numpy(digits.images).mul(255 / MAX_PIXEL).round().to(torch.uint8)
    images = resized(scaled.unsqueeze(1), table.input_size or DEFAULT_INPUT_SIZE)
    everything = ImageSet(images, torch.from_numpy(digits.target).long())
    class_names = tuple(map(str, range(10)))
    parts = split_by_fraction(everything.labels, class_names, validation=0.15, test=0.25, seed=table.split_seed)
    train, validation, test = map(everything.subset, parts)
    return Splits(train, validation, test, class_names, "sklearn.datasets.load_digits")
