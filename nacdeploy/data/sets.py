"""The values of this room: a set of images, the splits of a source, and a data set ready for use."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from nacdeploy.data.transforms import Shaping


class Pictures(Protocol):
    """Images that are decoded on demand, with the interface of a uint8 tensor `(N, C, H, W)`.

    >>> from pathlib import Path
    >>> from nacdeploy.data.on_disk import FilePictures, Store
    >>> paths = (Path("dark.png"), Path("light.png"))
    >>> store = Store(paths, (1, 2, 2), lambda path: torch.full((1, 2, 2), len(path.stem), dtype=torch.uint8), n_kept=0)
    >>> pictures: Pictures = FilePictures(store, torch.arange(2), channels=1)
    >>> pictures.in_channels(3).shape
    torch.Size([2, 3, 2, 2])
    >>> pictures.decoded(torch.tensor([1]))
    tensor([[[[5, 5],
              [5, 5]]]], dtype=torch.uint8)
    """

    @property
    def shape(self) -> torch.Size: ...
    def __getitem__(self, at: slice) -> Tensor:
        """Return the images of a range, decoded."""

    def split(self, size: int) -> Iterator[Tensor]:
        """Yield all images in order, decoded, `size` at once."""

    def at(self, indices: Tensor) -> "Pictures":
        """Return the images at `indices`, int64 `(M,)`, in that order, not decoded."""

    def decoded(self, indices: Tensor) -> Tensor:
        """Return the images at `indices`, int64 `(M,)`, decoded."""

    def in_channels(self, n_channels: int) -> "Pictures":
        """Return grey images repeated as `n_channels` equal channels."""

    def content(self) -> Iterator[bytes]:
        """Yield the content of the images, in pieces: images with the same content are the same."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images, uint8 `(N, C, H, W)` in memory or decoded on demand, and their labels: classes, int64 `(N,)`, what a
    metric makes of classes, or the targets of a user's own task (`brought.targets`).

    `given` holds the labels, or finds them from the set itself when they are first read.
    """

    images: Tensor | Pictures
    given: Any

    @cached_property
    def labels(self) -> Any:
        """The labels."""
        return self.given(self) if callable(self.given) else self.given

    def __len__(self) -> int:
        return int(self.images.shape[0])

    def subset(self, indices: Tensor) -> "ImageSet":
        """Return the images at `indices`, int64 `(M,)`, in that order."""
        images = self.images[indices] if isinstance(self.images, Tensor) else self.images.at(indices)
        return ImageSet(images, self.given[indices] if isinstance(self.given, Tensor) else self.given)

    def drawn(self, n: int, seed: int) -> "ImageSet":
        """Return `n` of the images, all if there are fewer, drawn by a seed and in their order: the first ones of a
        folder may be of one class."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        return self.subset(order[:n].sort().values)

    def batch(self, indices: Tensor) -> Tensor:
        """Return the images at `indices`, int64 `(M,)`, as uint8 `(M, C, H, W)`."""
        return self.images[indices] if isinstance(self.images, Tensor) else self.images.decoded(indices)

    def whole(self) -> Tensor:
        """Return all images, uint8 `(N, C, H, W)`, in memory: for sets that are known to be small."""
        return self.images[:]

    def content(self, with_labels: bool = True) -> Iterator[bytes | memoryview]:
        """Yield the bytes of the images, and of the labels if asked for, in pieces."""
        if isinstance(self.images, Tensor):
            yield repr(tuple(self.images.shape)).encode()
            yield self.images.contiguous().numpy().data
        else:
            yield from self.images.content()
        if with_labels and isinstance(self.labels, Tensor):
            yield self.labels.contiguous().numpy().data
        elif with_labels:
            yield from self.labels.content()


@dataclass(frozen=True, eq=False)
class Splits:
    """Three disjoint sets from a source, the names of the labels, and the place where the sets were read.

    `bits` is the depth of the files' pixels: pixels of more than 8 bits were shifted to 8. `shaping` is the way in
    which the source itself brought the images to their size, if it did. Sets that are not labelled have one class.
    """

    train: ImageSet
    validation: ImageSet
    test: ImageSet
    class_names: tuple[str, ...]
    source: str
    bits: int = 8
    shaping: Shaping | None = None
    notes: tuple[str, ...] = ()
    is_labelled: bool = True


@dataclass(frozen=True, eq=False)
class Dataset:
    """Three disjoint splits with their normalisation.

    `mean` and `std` are per channel, in the network's order of channels ("rgb" or "bgr") and range of values ("0..1" or
    "0..255"). Any prefix of a split holds its classes in the split's
    own proportions. `augment` is one of "none", "shift" and "crop-flip". `bits` is the depth of the pixels in the
    files, of which the upper 8 were taken; `shaping` gave them their size. `notes` tell a user how they were
    read. Where the images are not labelled, the labels are the answers of the network whose content has the key
    `answered_by`, and -1 before it is known.

    The data of a user's own task are inputs as the network takes them, float32, without mean and std. Their training
    split holds the samples that are looked at without training; `epochs` gives the batches of an epoch from batch size,
    seed and number, and `calibration` inputs without labels. `n_answers` is the number of values of one answer,
    `identity` a hash of the task's functions. Training data that come out otherwise each time (`train_varies`) are no
    part of the fingerprint.
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
    shaping: Shaping = field(default_factory=Shaping)
    notes: tuple[str, ...] = ()
    n_answers: int | None = None
    calibration: ImageSet | None = None
    epochs: Callable[[int, int, int], Iterator[tuple[Tensor, Any]]] | None = None
    identity: str = ""
    train_varies: bool = False
    is_labelled: bool = True
    answered_by: str = ""
    channel_order: str = "rgb"
    value_range: str = "0..1"

    @property
    def n_outputs(self) -> int:
        """The number of a network's outputs: one per class (some classes may have no images), or one per number of a
        label."""
        return self.n_answers or len(self.class_names) or int(self.train.labels.shape[1])

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input: `(C, H, W)` of images."""
        return tuple(self.train.images.shape[1:])

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
        """The sha256 over the images and labels (not a network's answers) of the three splits, in hex."""
        digest = hashlib.sha256(self.identity.encode())
        splits = (None if self.train_varies else self.train, self.validation, self.test, self.calibration)
        for split in (each for each in splits if each is not None):
            for piece in split.content(self.is_labelled):
                digest.update(piece)
        return digest.hexdigest()

    def normalize(self, images: Tensor) -> Tensor:
        """Convert uint8 `(N, C, H, W)` to float32 of the same shape: `(x / 255 - mean) / std`, without the division
        where the network takes values up to 255; inputs of a user's own task stay as they are."""
        if not self.mean:
            return images.float()
        mean = torch.tensor(self.mean, device=images.device).view(-1, 1, 1)
        std = torch.tensor(self.std, device=images.device).view(-1, 1, 1)
        values = images.float() if self.channel_order == "rgb" else images.flip(1).float()
        return ((values / 255 if self.value_range == "0..1" else values) - mean) / std

    @property
    def as_taken(self) -> dict[str, str]:
        """Order and range as far as they are not the usual ones: records and keys of usual images do not change."""
        usual = {"channel_order": "rgb", "value_range": "0..1"}
        return {key: getattr(self, key) for key, value in usual.items() if getattr(self, key) != value}
