"""The transforms of images: resizing once at loading, augmentation at every batch."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from nacdeploy.base.errors import unknown
from nacdeploy.profile.tables.training import DataTable

AUGMENTATIONS = ("none", "shift", "crop-flip")
_CHUNK = 1024


@dataclass(frozen=True)
class Shaping:
    """The way from an image to the size that the network takes.

    Attributes:
        size: both sides become this long, whatever the shape was.
        resize: the shorter side becomes this long, the other one in proportion.
        crop: the middle square of this side is kept; missing pixels are black.
        interpolation: of `resize` and `size`: "bilinear" or "bicubic" with antialiasing, or "nearest".
    """

    size: int | None = None
    resize: int | None = None
    crop: int | None = None
    interpolation: str = "bilinear"

    def __call__(self, images: Tensor) -> Tensor:
        """Return integers `(N, C, H, W)` in their new size, of the same type."""
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms.v2 import functional

        if self.resize is not None and min(images.shape[2:]) != self.resize:
            mode = InterpolationMode(self.interpolation)
            images = functional.resize(images, [self.resize], interpolation=mode, antialias=mode.value != "nearest")
        if self.size is not None and self.interpolation != "bilinear":
            mode, sides = InterpolationMode(self.interpolation), [self.size, self.size]
            return functional.resize(images, sides, interpolation=mode, antialias=mode.value != "nearest")
        if self.crop is not None:
            images = functional.center_crop(images, [self.crop])
        return resized(images, self.size)

    def of(self, height: int, width: int) -> tuple[int, int]:
        """Return the `(H, W)` that an image of this height and width gets."""
        side = self.size or self.crop
        if side is not None:
            return side, side
        if self.resize is None:
            return height, width
        short, long = sorted((height, width))
        longer = int(self.resize * long / short)
        return (self.resize, longer) if height <= width else (longer, self.resize)


def shaping(table: DataTable) -> Shaping:
    """Return the shaping that a table sets."""
    return Shaping(table.input_size, table.resize, table.crop, table.interpolation)


def resized(images: Tensor, size: int | None) -> Tensor:
    """Resize integers `(N, C, H, W)` to the same type `(N, C, size, size)`, bilinear with antialiasing; None changes
    nothing."""
    if size is None or tuple(images.shape[2:]) == (size, size):
        return images
    chunks = [_resized_chunk(chunk, size) for chunk in images.split(_CHUNK)]
    return torch.cat(chunks)


def _resized_chunk(images: Tensor, size: int) -> Tensor:
    smooth = F.interpolate(images.float(), (size, size), mode="bilinear", antialias=True, align_corners=False)
    return smooth.round().clamp(0, 255 if images.dtype == torch.uint8 else 65535).to(images.dtype)


def augmented(images: Tensor, kind: str, generator: torch.Generator) -> Tensor:
    """Change each image of a batch, uint8 `(N, C, H, W)`, at random; all randomness comes from `generator`.

    "shift" moves by up to an eighth of the size and fills with zeros, "crop-flip" also mirrors every other image.

    Raises:
        UsageError: the kind is unknown.
    """
    if kind not in AUGMENTATIONS:
        raise unknown("augmentation", kind, AUGMENTATIONS)
    if kind == "none":
        return images
    shifted = _shifted(images, generator)
    return _flipped(shifted, generator) if kind == "crop-flip" else shifted


def _shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    n, channels, height, width = images.shape
    dy, dx = max(1, height // 8), max(1, width // 8)
    padded = F.pad(images, (dx, dx, dy, dy))
    rows = _windows(n, height, dy, generator).to(images.device)
    columns = _windows(n, width, dx, generator).to(images.device)
    image = torch.arange(n, device=images.device).view(n, 1, 1, 1)
    channel = torch.arange(channels, device=images.device).view(1, channels, 1, 1)
    return padded[image, channel, rows.view(n, 1, height, 1), columns.view(n, 1, 1, width)]


def _windows(n: int, length: int, margin: int, generator: torch.Generator) -> Tensor:
    """Return, for each of `n` images, `length` consecutive positions of a padded axis, `(n, length)`."""
    starts = torch.randint(0, 2 * margin + 1, (n, 1), generator=generator, device=generator.device)
    return starts + torch.arange(length, device=generator.device)


def _flipped(images: Tensor, generator: torch.Generator) -> Tensor:
    coin = torch.randint(0, 2, (len(images), 1, 1, 1), generator=generator, device=generator.device)
    return torch.where(coin.bool().to(images.device), images.flip(-1), images)
