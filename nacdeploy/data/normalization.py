"""Mean and standard deviation for normalising images: given numbers, ImageNet's, or the statistics of the training
images."""

from collections.abc import Mapping

import torch
from torch import Tensor

from nacdeploy.base.errors import UsageError
from nacdeploy.data.sets import Pictures
from nacdeploy.profile.tables.training import DataTable, Normalization

Scale = tuple[float, ...]
_AT_ONCE = 256  # images
IMAGENET: tuple[Scale, Scale] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def normalization(table: DataTable, images: Tensor | Pictures) -> tuple[Scale, Scale]:
    """Return the mean and deviation of the table, or of the training images, uint8 `(N, C, H, W)`, if the table has
    none.

    There is one value per channel. Three given values for grey images are kept: grey images are then shown in colour.

    Raises:
        UsageError: "model" is asked for, which the data do not know.
    """
    is_own = {None, "data"} & {each for each in (table.mean, table.std) if not isinstance(each, tuple)}
    own = statistics(images) if is_own else IMAGENET  # a large set is not read for what nobody asks
    known = {"data": own, "imagenet": IMAGENET}
    seen = {name: (table.seen(mean), table.seen(std)) for name, (mean, std) in known.items()}
    mean, std = (_scale(given, i, seen) for i, given in enumerate((table.mean, table.std)))
    n_channels = max(len(mean), len(std), images.shape[1])
    return _over(mean, n_channels), _over(std, n_channels)


def in_colour(images: Tensor | Pictures, n_channels: int) -> Tensor | Pictures:
    """Repeat grey images `(N, 1, H, W)` as `n_channels` equal channels; return other images unchanged."""
    if images.shape[1] != 1:
        return images
    return images.expand(-1, n_channels, -1, -1) if isinstance(images, Tensor) else images.in_channels(n_channels)


def statistics(images: Tensor | Pictures) -> tuple[Scale, Scale]:
    """Return mean and standard deviation per channel of uint8 `(N, C, H, W)` scaled to [0, 1], exact by counting
    values.

    A constant channel gets a deviation of one grey level, so that it can be divided by.
    """
    values = torch.arange(256, dtype=torch.float64) / 255
    counts = torch.zeros(images.shape[1], 256, dtype=torch.int64)
    for part in images.split(_AT_ONCE):
        counts += torch.stack([channel.flatten().int().bincount(minlength=256) for channel in part.transpose(0, 1)])
    weights = counts.double() / counts.sum(dim=1, keepdim=True)
    mean = weights @ values
    variance = (weights * (values - mean[:, None]) ** 2).sum(dim=1)
    std = variance.sqrt().clamp(min=1 / 255)
    return tuple(mean.tolist()), tuple(std.tolist())


def _scale(given: Normalization, at: int, known: Mapping[str, tuple[Scale, Scale]]) -> Scale:
    """Return one value or three of the mean (`at` 0) or the deviation (1)."""
    if given is None or (isinstance(given, str) and given in known):
        return known[given or "data"][at]
    if isinstance(given, str):
        raise UsageError(f"images.{('mean', 'std')[at]} = '{given}' needs a network; give numbers")
    return given if isinstance(given, tuple) else (given,)


def _over(scale: Scale, n_channels: int) -> Scale:
    return scale * n_channels if len(scale) == 1 else scale
