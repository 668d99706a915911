"""The values of this room: a set of images, the splits of a source, and a data set ready for use."""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images, uint8 `(N, C, H, W)`, and their labels: classes, int64 `(N,)`, or what a metric makes of classes."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Tensor) -> "ImageSet":
        """Return the images at `indices`, int64 `(M,)`, in that order."""
        return ImageSet(self.images[indices], self.labels[indices])


@dataclass(frozen=True, eq=False)
class Splits:
    """Three disjoint sets from a source, the names of the labels, and the place where the sets were read.

    `bits` is the depth of the files' pixels: pixels of more than 8 bits were shifted to 8.
    """

    train: ImageSet
    validation: ImageSet
    test: ImageSet
    class_names: tuple[str, ...]
    source: str
    bits: int = 8


@dataclass(frozen=True, eq=False)
class Dataset:
    """Three disjoint splits with their normalisation.

    `mean` and `std` are per channel, of images scaled to [0, 1]. Any prefix of a split holds its classes in the split's
    own proportions. `augment` is one of "none", "shift" and "crop-flip". `bits` is the depth of the pixels in the
    files, of which the upper 8 were taken.
    """

    name: str
    train: ImageSet
    validation: ImageSet
    test: ImageSet
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    split_seed: int
    source: str
    augment: str
    bits: int = 8

    @property
    def n_outputs(self) -> int:
        """The number of a network's outputs: one per class (some classes may have no images), or one per number of a
        label."""
        return len(self.class_names) or int(self.train.labels.shape[1])

    @property
    def channels(self) -> int:
        """The channels of an image: 1 or 3."""
        return int(self.train.images.shape[1])

    @property
    def input_size(self) -> tuple[int, int]:
        """`(H, W)` of every image."""
        height, width = self.train.images.shape[2:]
        return int(height), int(width)

    @cached_property
    def fingerprint(self) -> str:
        """The sha256 over the images and labels of the three splits, in hex."""
        digest = hashlib.sha256()
        for split in (self.train, self.validation, self.test):
            digest.update(repr(tuple(split.images.shape)).encode())
            digest.update(split.images.contiguous().numpy().data)
            digest.update(split.labels.contiguous().numpy().data)
        return digest.hexdigest()

    def normalize(self, images: Tensor) -> Tensor:
        """Convert uint8 `(N, C, H, W)` to float32 of the same shape: `(x / 255 - mean) / std`."""
        mean = torch.tensor(self.mean, device=images.device).view(-1, 1, 1)
        std = torch.tensor(self.std, device=images.device).view(-1, 1, 1)
        return (images.float() / 255 - mean) / std
