"""Fashion-MNIST from its four IDX files: 70,000 grey images of clothes, 28x28 (Xiao et al., 2017)."""

import gzip
import io
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nacdeploy.base.errors import UsageError
from nacdeploy.base.outside import doors
from nacdeploy.data.sets import ImageSet, Splits
from nacdeploy.data.sources.downloads import SOURCE, cache_directory, downloading
from nacdeploy.data.splits import take_validation
from nacdeploy.profile.tables.training import DataTable

CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
FIRST_FILE = "train-images-idx3-ubyte"
DEBIAN_DIRECTORIES = (Path("/usr/share/datasets/fashion-mnist"), Path("/usr/share/dataset-fashion-mnist"))
# The output of `dpkg -L dataset-fashion-mnist`.
DEBIAN_LISTING = Path("/var/lib/dpkg/info/dataset-fashion-mnist.list")
_UNSIGNED_BYTE = 8


def read(argument: str | None, table: DataTable) -> Splits:
    """Read Fashion-MNIST from the given directory, the Debian package, or a download; validation is taken from train.

    Raises:
        NacdeployError: the data are nowhere and cannot be downloaded.
        UsageError: a file of the directory is missing or broken, or validation would take all training images.
    """
    directory, source = _find(argument)
    everything = _read_pair(directory, "train")
    train, validation = take_validation(everything, table.n_validation, table.split_seed)
    return Splits(train, validation, _read_pair(directory, "t10k"), CLASS_NAMES, source)


def _find(argument: str | None) -> tuple[Path, str]:
    """Return the directory that holds the files, and the directory's name for the record."""
    if argument is not None:
        given = Path(argument).expanduser()
        nested = given / "FashionMNIST" / "raw"
        return (nested if nested.is_dir() else given), argument
    for directory in _debian_directories():
        if _has(directory, FIRST_FILE):
            return directory, str(directory)
    return _download(), SOURCE


def _debian_directories() -> list[Path]:
    lines = DEBIAN_LISTING.read_text(encoding="utf-8").splitlines() if DEBIAN_LISTING.is_file() else []
    return [*DEBIAN_DIRECTORIES, *(Path(line).parent for line in lines if Path(line).name.startswith(FIRST_FILE))]


def _download() -> Path:
    from torchvision.datasets import FashionMNIST

    root = cache_directory()
    with downloading("fashion-mnist", "its four *-ubyte.gz files", root):
        FashionMNIST(str(root), download=True)
    return root / "FashionMNIST" / "raw"


def _has(directory: Path, stem: str) -> bool:
    return any((directory / name).is_file() for name in (f"{stem}.gz", stem))


def _read_pair(directory: Path, part: str) -> ImageSet:
    """Read the images and labels of one part, "train" or "t10k"."""
    images = read_idx(_path(directory, f"{part}-images-idx3-ubyte"), n_axes=3)
    labels = read_idx(_path(directory, f"{part}-labels-idx1-ubyte"), n_axes=1).long()
    if len(images) != len(labels) or len(labels) == 0:
        raise UsageError(f"{directory}: {len(images)} images and {len(labels)} labels in its '{part}' files")
    if int(labels.max()) >= len(CLASS_NAMES):
        raise UsageError(f"{directory}: label {int(labels.max())} in its '{part}' files; they go from 0 to 9")
    return ImageSet(images.unsqueeze(1), labels)


def _path(directory: Path, stem: str) -> Path:
    for name in (f"{stem}.gz", stem):
        if (directory / name).is_file():
            return directory / name
    raise UsageError(f"{directory} does not hold {stem}.gz; fashion-mnist:DIR needs the four files of Fashion-MNIST")


def read_idx(path: Path, *, n_axes: int) -> Tensor:
    """Read an IDX file, gzipped or not, as uint8 with `n_axes` axes (LeCun's format of MNIST).

    Raises:
        UsageError: the file cannot be read, or is no IDX file of unsigned bytes with that many axes.
    """
    try:
        content = doors.read_bytes(path)
        if path.suffix == ".gz":
            content = doors.unpacked(gzip.GzipFile(fileobj=io.BytesIO(content)), len(content), str(path))
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{path} cannot be read ({error})") from error
    header = 4 + 4 * n_axes
    if len(content) < header or content[:4] != bytes([0, 0, _UNSIGNED_BYTE, n_axes]):
        raise UsageError(f"{path} is not an IDX file of unsigned bytes with {n_axes} axes")
    shape = tuple(np.frombuffer(content, ">u4", n_axes, offset=4).tolist())
    values = np.frombuffer(content, np.uint8, offset=header)
    if values.size != int(np.prod(shape)):
        raise UsageError(f"{path} holds {values.size} values where its header says {'x'.join(map(str, shape))}")
    return torch.from_numpy(values.reshape(shape).copy())
