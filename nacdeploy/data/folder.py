"""A user's own images in folders, one per class (torchvision's ImageFolder layout).

`PATH/CLASS/*.png` is split by seed; `PATH/{train,val,test}/CLASS/*.png` keeps the splits that are given and takes the
missing ones from train. The files are split and counted before any is read.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from nacdeploy.data.sets import ImageSet, Splits
from nacdeploy.data.splits import split_by_fraction, stratified_order
from nacdeploy.data.transforms import resized
from nacdeploy.errors import UsageError
from nacdeploy.profile.training import DataTable

if TYPE_CHECKING:
    from PIL.Image import Image

FRACTION = 0.15
VALIDATION_NAMES = ("val", "valid", "validation")
_GRAY_MODES = ("1", "L", "LA")
_WIDE_MODES = ("I", "F")


@dataclass(frozen=True, eq=False)
class Files:
    """Image files not yet read, and their labels, int64 `(N,)`."""

    paths: tuple[Path, ...]
    labels: Tensor

    def subset(self, indices: Tensor) -> "Files":
        """The files at `indices`, int64 `(M,)`, in that order."""
        return Files(tuple(self.paths[i] for i in indices.tolist()), self.labels[indices])


def read(argument: str | None, table: DataTable) -> Splits:
    """The images below a folder. They stay grey where all of them are, otherwise all become RGB.

    Raises:
        UsageError: the folder is missing, empty or too small to split, or an image is broken or of another size.
    """
    if not argument:
        raise UsageError("data set 'folder' needs a path: folder:PATH")
    root = Path(argument).expanduser()
    if not root.is_dir():
        raise UsageError(f"folder {argument} does not exist or is no directory")
    class_names, given, notes = _splits(root, table.split_seed)
    wanted = (table.n_train, table.n_validation, table.n_test)
    chosen = [
        files.subset(stratified_order(files.labels, table.split_seed)[:n])
        for files, n in zip(given, wanted, strict=True)
    ]
    train, validation, test = _read_all(chosen, table.input_size)
    return Splits(train, validation, test, class_names, argument + notes)


def _splits(root: Path, seed: int) -> tuple[tuple[str, ...], tuple[Files, Files, Files], str]:
    """The class names, the files of train, validation and test, and a note on which of them were made."""
    train_directory, validation_directory, test_directory = _split_directories(root)
    class_names = _class_names(train_directory)
    files = _files(train_directory, class_names)
    missing = [not validation_directory, not test_directory]
    train, validation, test = split_by_fraction(
        files.labels, class_names, validation=FRACTION * missing[0], test=FRACTION * missing[1], seed=seed
    )
    splits = (
        files.subset(train),
        _files(validation_directory, class_names) if validation_directory else files.subset(validation),
        _files(test_directory, class_names) if test_directory else files.subset(test),
    )
    made = [name for name, is_made in zip(("validation", "test"), missing, strict=True) if is_made]
    return class_names, splits, f" ({' and '.join(made)} taken from train by seed)" if made else ""


def _split_directories(root: Path) -> tuple[Path, Path | None, Path | None]:
    """Where train, validation and test lie; without given splits everything is train."""
    given = {path.name: path for path in _subdirectories(root) if _subdirectories(path)}
    validation = [given[name] for name in VALIDATION_NAMES if name in given]
    if len(validation) > 1:
        raise UsageError(f"folder {root} has two validation splits: {validation[0].name} and {validation[1].name}")
    test = given.get("test")
    others = [path for path in (*validation, test) if path]
    if "train" in given:
        return given["train"], validation[0] if validation else None, test
    if others:
        raise UsageError(f"folder {root} has a split '{others[0].name}' and no 'train'")
    return root, None, None


def _subdirectories(directory: Path) -> list[Path]:
    return sorted(path for path in directory.iterdir() if path.is_dir() and not path.name.startswith("."))


def _class_names(directory: Path) -> tuple[str, ...]:
    names = tuple(path.name for path in _subdirectories(directory))
    if not names:
        raise UsageError(f"folder {directory} has no class folders; the layout is CLASS/image.png")
    if len(names) == 1:
        raise UsageError(f"folder {directory} has one class only, '{names[0]}'; a classifier needs two or more")
    return names


def _files(directory: Path, class_names: tuple[str, ...]) -> Files:
    """The image files of one split, labelled by the classes of train."""
    from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

    strange = {path.name for path in _subdirectories(directory)} - set(class_names)
    if strange:
        raise UsageError(f"folder {directory} has class '{min(strange)}', which the training images do not have")
    labels = {name: i for i, name in enumerate(class_names) if (directory / name).is_dir()}
    found = make_dataset(str(directory), labels, extensions=IMG_EXTENSIONS, allow_empty=True) if labels else []
    samples = [(Path(path), label) for path, label in found if not Path(path).name.startswith(".")]
    seen = {label for _, label in samples}
    empty = [name for name, label in labels.items() if label not in seen]
    if not samples or empty:
        raise UsageError(f"folder {directory / empty[0] if empty else directory} holds no images")
    return Files(tuple(path for path, _ in samples), torch.tensor([label for _, label in samples], dtype=torch.int64))


def _read_all(splits: list[Files], input_size: int | None) -> Iterator[ImageSet]:
    """Each split with its images read, all of them in one size and number of channels."""
    images = [[_read_image(path, input_size) for path in files.paths] for files in splits]
    _check_sizes(splits, images)
    channels = max(image.shape[0] for split in images for image in split)
    for files, split in zip(splits, images, strict=True):
        yield ImageSet(torch.stack([image.expand(channels, -1, -1) for image in split]), files.labels)


def _check_sizes(splits: list[Files], images: list[list[Tensor]]) -> None:
    paths = [path for files in splits for path in files.paths]
    sizes = [(image.shape[1], image.shape[2]) for split in images for image in split]
    usual, _ = Counter(sizes).most_common(1)[0]
    for path, size in zip(paths, sizes, strict=True):
        if size != usual:
            raise UsageError(
                f"images differ in size: {path} is {size[0]}x{size[1]}, most are {usual[0]}x{usual[1]}; "
                "set images.input_size"
            )


def _read_image(path: Path, input_size: int | None) -> Tensor:
    """One image as uint8 `(C, H, W)`: one channel if it is grey, three otherwise."""
    import PIL.Image

    try:
        with PIL.Image.open(path) as image:
            pixels = _pixels(image)
    # PIL's decoders fail in many ways on a broken file: OSError, SyntaxError, ValueError, struct.error and more.
    except Exception as error:
        raise UsageError(f"{path} is not a readable image ({error})") from error
    return resized(torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0), input_size)[0]


def _pixels(image: "Image") -> np.ndarray:
    """uint8 `(H, W, C)`."""
    if image.mode in _WIDE_MODES:
        raise ValueError(f"mode {image.mode}: only images of 8 or 16 bits per channel can be read")
    if image.mode.startswith("I;16"):
        # PIL's own conversion clips 16 bits at 255.
        return (np.asarray(image) >> 8).astype(np.uint8)[..., None]
    if image.mode in _GRAY_MODES:
        return np.array(image.convert("L"))[..., None]
    return np.array(image.convert("RGB"))
