"""Images and labels as NumPy arrays: one `.npz`, or a folder of `.npy` files with the same names."""

import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nacdeploy.base.errors import UsageError
from nacdeploy.base.outside import doors
from nacdeploy.data.files import FRACTION
from nacdeploy.data.sets import ImageSet, Splits
from nacdeploy.data.sources.split_folders import SYNONYMS
from nacdeploy.data.splits import split_by_fraction
from nacdeploy.profile.tables.training import DataTable

_IMAGES, _LABELS = ("images", "x", "data"), ("labels", "y", "targets")
_LAYOUT = "images and labels, or train_images and train_labels beside those of val and test (also x_train, y_train)"
_UNREADABLE = (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error)
Read = Callable[[str], NDArray[Any]]


def read_npz(argument: str | None, table: DataTable) -> Splits:
    """Read the arrays of one `.npz`.

    Raises:
        UsageError: the file is missing or none, or its arrays are not images and labels.
    """
    if not argument:
        raise UsageError(f"data set 'npz' needs a file: npz:PATH, with {_LAYOUT}")
    place = Path(argument).expanduser()
    try:
        _check_npz(place)
        with np.load(place, allow_pickle=False) as opened:
            return _splits(dict.fromkeys(opened.files, opened.__getitem__), place, table)
    except _UNREADABLE as error:
        raise UsageError(
            f"{place} cannot be read as .npz of plain arrays ({type(error).__name__}); it needs {_LAYOUT}"
        ) from error


def read_npy(argument: str | None, table: DataTable) -> Splits:
    """Read the arrays of a folder of `.npy` files.

    Raises:
        UsageError: the folder is missing, or its arrays are not images and labels.
    """
    if not argument or not Path(argument).expanduser().is_dir():
        raise UsageError(f"data set 'npy' needs a folder: npy:PATH, with {_LAYOUT} as .npy files")
    place = Path(argument).expanduser()

    def read(name: str) -> NDArray[Any]:
        try:
            doors.check_file(place / f"{name}.npy")
            return np.asarray(np.load(place / f"{name}.npy", allow_pickle=False))
        except _UNREADABLE as error:
            raise UsageError(f"{place / name}.npy cannot be read ({error})") from error

    return _splits({path.stem: read for path in sorted(place.glob("*.npy"))}, place, table)


def _check_npz(place: Path) -> None:
    """Check the size of an archive of arrays, packed and unpacked, before its arrays take memory."""
    doors.check_file(place)
    if zipfile.is_zipfile(place):  # numpy says what is wrong with others
        with zipfile.ZipFile(place) as archive:
            n_bytes = sum(entry.file_size for entry in archive.infolist())
        if n_bytes > doors.unpacked_limit(place.stat().st_size):
            raise doors.above(str(place), f"says that it unpacks to {n_bytes} bytes", "unpacked_mib")


def _splits(arrays: Mapping[str, Read], place: Path, table: DataTable) -> Splits:
    """Return three splits of the arrays; missing ones are taken from train by seed."""
    given = {split: found for split in SYNONYMS if (found := _set(arrays, split, place)) is not None}
    whole = _pair(arrays, _IMAGES, _LABELS, place)
    if whole is not None and not given:
        given["training"] = whole
    if "training" not in given:
        raise UsageError(f"{place} holds {', '.join(arrays) or 'nothing'}; it needs {_LAYOUT}")
    n_classes = max(int(each.labels.max()) for each in given.values()) + 1
    n_images = sum(len(each.labels) for each in given.values())
    if n_classes > n_images:
        raise UsageError(f"{place} has class {n_classes - 1} and {n_images} images; classes are numbered from 0")
    names = tuple(map(str, range(n_classes)))
    fractions = [FRACTION * (split not in given) for split in ("validation", "test")]
    parts = split_by_fraction(
        given["training"].labels, names, validation=fractions[0], test=fractions[1], seed=table.split_seed
    )
    train, validation, test = map(given["training"].subset, parts)
    made = [split for split in ("validation", "test") if split not in given]
    note = f" ({' and '.join(made)} taken from train by seed)" if made else ""
    return Splits(train, given.get("validation", validation), given.get("test", test), names, f"{place}{note}")


def _set(arrays: Mapping[str, Read], split: str, place: Path) -> ImageSet | None:
    names = SYNONYMS[split]
    images, labels = (
        tuple(made for kind in kinds for name in names for made in (f"{name}_{kind}", f"{kind}_{name}"))
        for kinds in (_IMAGES, _LABELS)
    )
    return _pair(arrays, images, labels, place)


def _pair(arrays: Mapping[str, Read], images: tuple[str, ...], labels: tuple[str, ...], place: Path) -> ImageSet | None:
    pair = [next((name for name in names if name in arrays), None) for names in (images, labels)]
    if pair[0] is None or pair[1] is None:
        return None
    x, y = (arrays[name](name) for name in pair if name)
    return ImageSet(_pixels(x, f"{place}: {pair[0]}"), _classes(y, len(x), f"{place}: {pair[1]}"))


def _pixels(values: NDArray[Any], where: str) -> torch.Tensor:
    """Return uint8 `(N, C, H, W)` from an array `(N, H, W)`, `(N, H, W, C)` or `(N, C, H, W)`."""
    if values.dtype != np.uint8:
        raise UsageError(f"{where} is {values.dtype}; images are uint8 pixels from 0 to 255")
    if values.ndim == 3:
        values = values[:, None]
    if values.ndim != 4 or not len(values):
        raise UsageError(f"{where} has the shape {values.shape}; images are (N, H, W), (N, H, W, C) or (N, C, H, W)")
    if values.shape[1] not in (1, 3) and values.shape[3] in (1, 3):
        values = values.transpose(0, 3, 1, 2)
    if values.shape[1] not in (1, 3):
        raise UsageError(f"{where} has the shape {values.shape}; images have 1 or 3 channels")
    return torch.from_numpy(np.ascontiguousarray(values))


def _classes(values: NDArray[Any], n: int, where: str) -> torch.Tensor:
    values = values.reshape(-1) if values.shape == (n, 1) else values
    if values.shape != (n,) or not np.issubdtype(values.dtype, np.integer) or int(values.min()) < 0:
        raise UsageError(f"{where} is {values.dtype} {values.shape}; labels are {n} class numbers from 0")
    return torch.from_numpy(values.astype(np.int64))
