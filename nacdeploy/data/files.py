"""From image files to sets of images: one size, one number of channels, in memory where they are few, else on disk.

Headers are read first, by threads: they say whether the images are of one size, grey, and of how many bits.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median_low

import torch
from torch import Tensor

from nacdeploy.base.errors import UsageError
from nacdeploy.data.on_disk import FilePictures, Store, threads
from nacdeploy.data.pictures import Header, Place, depth, header, in_eight_bits
from nacdeploy.data.pictures import read as read_picture
from nacdeploy.data.sets import ImageSet, Splits
from nacdeploy.data.splits import split_by_fraction, stratified_order
from nacdeploy.data.transforms import Shaping
from nacdeploy.data.transforms import shaping as shaping_of
from nacdeploy.metrics.f1 import SEPARATOR
from nacdeploy.profile.tables.training import DataTable

USUAL_CROP, USUAL_RESIZE = 224, 256  # ImageNet's: of images that differ in size, where nobody says what to do
FRACTION = 0.15  # of train, for a split that is missing
_NAMED = 3  # broken files


@dataclass(frozen=True, eq=False)
class Files:
    """Image files that are not read yet, and their labels, int64 `(N,)`."""

    paths: tuple[Place, ...]
    labels: Tensor

    def subset(self, indices: Tensor) -> "Files":
        """Return the files at `indices`, int64 `(M,)`, in that order."""
        return Files(tuple(self.paths[i] for i in indices.tolist()), self.labels[indices])


@dataclass(frozen=True)
class Seen:
    """The findings of a reading: the depth of the pixels, the shaping of the images, and notes for the user."""

    bits: int
    shaping: Shaping
    notes: tuple[str, ...] = ()


def completed(
    train: Files,
    validation: Files | None,
    test: Files | None,
    class_names: tuple[str, ...],
    seed: int,
    *,
    some_elsewhere: bool = False,
) -> tuple[tuple[Files, Files, Files], str]:
    """Return the three splits, with missing ones taken from train by seed, and a note that names these.

    Where names list several labels ("cat|dog"), images are drawn without regard to them: many a set stands once.

    Raises:
        UsageError: a class has fewer images than splits need.
    """
    missing = [validation is None, test is None]
    fractions = [FRACTION * is_missing for is_missing in missing]
    is_plain = not any(SEPARATOR in name for name in class_names)
    parts = split_by_fraction(
        train.labels if is_plain else torch.zeros_like(train.labels),
        class_names if is_plain else ("",),
        validation=fractions[0],
        test=fractions[1],
        seed=seed,
        some_elsewhere=some_elsewhere,
    )
    rest, own_validation, own_test = map(train.subset, parts)
    made = [name for name, is_made in zip(("validation", "test"), missing, strict=True) if is_made]
    note = f" ({' and '.join(made)} taken from train by seed)" if made else ""
    return (rest, validation or own_validation, test or own_test), note


def as_splits(given: Sequence[Files], class_names: tuple[str, ...], source: str, table: DataTable) -> Splits:
    """Return the images of train, validation and test, no more of each than the table sets.

    Raises:
        UsageError: a file is broken and `images.broken` does not say "skip".
    """
    wanted = (table.n_train, table.n_validation, table.n_test)
    chosen = [
        split.subset(stratified_order(split.labels, table.split_seed)[:n])
        for split, n in zip(given, wanted, strict=True)
    ]
    (train, validation, test), seen = read(chosen, table)
    return Splits(train, validation, test, class_names, source, seen.bits, seen.shaping, seen.notes)


def read(splits: Sequence[Files], table: DataTable) -> tuple[list[ImageSet], Seen]:
    """Read the images of each split.

    Raises:
        UsageError: a file is broken and `images.broken` does not say "skip".
    """
    splits, skipped = _readable(splits) if table.broken == "skip" else (splits, ())
    if not any(len(files.paths) for files in splits):
        raise UsageError(f"no image can be read: {skipped[0]}")
    headers = _headers(splits)
    shaping, resized = _shaping(headers, table)
    height, width = shaping.of(headers[0].height, headers[0].width)
    notes = (*skipped, *resized)
    if len(headers) * 3 * height * width <= table.in_memory_mib << 20:
        sets, bits = _in_memory(splits, shaping)
    else:
        sets, bits = _left_on_disk(splits, headers, shaping, (height, width), table.cache_mib << 20)
        notes = (*notes, f"{len(headers)} images stay on disk (images.in_memory_mib is {table.in_memory_mib})")
    return sets, Seen(bits, shaping, notes)


def _headers(splits: Sequence[Files]) -> list[Header]:
    return list(threads().map(header, [path for files in splits for path in files.paths]))


def _readable(splits: Sequence[Files]) -> tuple[list[Files], tuple[str, ...]]:
    """Return the splits without files that cannot be decoded, and a note that names some of these files."""
    found = [list(threads().map(_is_readable, files.paths)) for files in splits]
    broken = [
        p for files, good in zip(splits, found, strict=True) for p, ok in zip(files.paths, good, strict=True) if not ok
    ]
    kept = [files.subset(torch.tensor(good).nonzero().flatten()) for files, good in zip(splits, found, strict=True)]
    if not broken:
        return kept, ()
    more = f" and {len(broken) - _NAMED} more" if len(broken) > _NAMED else ""
    named = f"{', '.join(map(str, broken[:_NAMED]))}{more}"
    return kept, (f"{len(broken)} broken {'file is' if len(broken) == 1 else 'files are'} left out: {named}",)


def _is_readable(path: Place) -> bool:
    try:
        read_picture(path, Shaping(size=4))
    except UsageError:
        return False
    return True


def _shaping(headers: Sequence[Header], table: DataTable) -> tuple[Shaping, tuple[str, ...]]:
    """Return the shaping that gives all images one size: the table's, or ImageNet's, with a note, if sizes differ."""
    given = shaping_of(table)
    sizes = Counter(given.of(header.height, header.width) for header in headers)
    if len(sizes) <= 1:
        return given, ()
    side = min(USUAL_CROP, table.resize or median_low(min(header.height, header.width) for header in headers))
    resize = table.resize or round(side * USUAL_RESIZE / USUAL_CROP)
    note = (
        f"images differ in size: the shorter side becomes {resize} pixels, of which the middle {side}x{side} are kept "
        "(images.resize, images.crop, or images.input_size)"
    )
    return replace(given, resize=resize, crop=side), (note,)


def _in_memory(splits: Sequence[Files], shaping: Shaping) -> tuple[list[ImageSet], int]:
    decode = partial(read_picture, shaping=shaping)
    found = [list(threads().map(decode, files.paths)) for files in splits]
    bits = depth([picture for split in found for picture in split])
    images = [[in_eight_bits(picture, bits) for picture in split] for split in found]
    channels = max(image.shape[0] for split in images for image in split)
    stacked = [[image.expand(channels, -1, -1) for image in split] for split in images]
    some = next(split for split in stacked if split)
    return [
        ImageSet(torch.stack(split or some)[: len(split)], files.labels)
        for files, split in zip(splits, stacked, strict=True)
    ], bits


def _left_on_disk(
    splits: Sequence[Files], headers: Sequence[Header], shaping: Shaping, size: tuple[int, int], n_bytes: int
) -> tuple[list[ImageSet], int]:
    wide = [header.path for header in headers if header.is_wide]
    bits = depth([read_picture(path, shaping) for path in wide])
    channels = 1 if all(header.is_grey for header in headers) else 3
    shape, recipe = (channels, *size), f"{shaping} {bits} bits"
    n_kept = n_bytes // (channels * size[0] * size[1])
    sets = []
    for files in splits:
        decode = partial(_decoded, shaping=shaping, bits=bits)
        store = Store(files.paths, shape, decode, n_kept)
        sets.append(ImageSet(FilePictures(store, torch.arange(len(files.paths)), channels, recipe), files.labels))
        n_kept = max(0, n_kept - len(files.paths))
    return sets, bits


def _decoded(path: Place, shaping: Shaping, bits: int) -> Tensor:
    return in_eight_bits(read_picture(path, shaping), bits)
