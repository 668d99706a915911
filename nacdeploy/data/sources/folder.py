"""A user's own images in folders, one per class (torchvision's ImageFolder layout), or without labels in one folder.

`PATH/CLASS/*.png` is split by seed. `PATH/{train,val,test}/CLASS/*.png` keeps the given splits and takes a missing
split from train. The classes are those of train; if `images.classes` maps folders to outputs, the classes of all splits
count. The files are split and counted before any file is read.
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from nacdeploy.base.errors import UsageError
from nacdeploy.data.files import Files, as_splits, completed
from nacdeploy.data.pictures import suffixes as image_suffixes
from nacdeploy.data.sets import Splits
from nacdeploy.data.sources.split_folders import split_folders
from nacdeploy.profile.tables.training import DataTable


def read(argument: str | None, table: DataTable) -> Splits:
    """Read the images below a folder. The images stay grey if all are grey; otherwise all become RGB.

    Raises:
        UsageError: the folder is missing, empty or too small to split, or an image is broken.
    """
    if not argument:
        raise UsageError("data set 'folder' needs a path: folder:PATH")
    root = Path(argument).expanduser()
    if not root.is_dir():
        raise UsageError(f"folder {argument} does not exist or is no directory")
    if not has_labels(argument):
        return _unlabelled(root, argument, table)
    class_names, given, made = _splits(root, table.split_seed, table.classes is not None)
    return as_splits(given, class_names, argument + made, table)


def has_labels(argument: str) -> bool:
    """Tell whether a folder holds folders by class, and not images alone."""
    root = Path(argument).expanduser()
    return not root.is_dir() or bool(_subdirectories(root)) or not _directly(root)


def _directly(directory: Path) -> list[Path]:
    suffixes = image_suffixes()
    return sorted(
        path for path in directory.iterdir() if path.suffix.lower() in suffixes and not path.name.startswith(".")
    )


def _unlabelled(root: Path, argument: str, table: DataTable) -> Splits:
    """Return the images of a folder, all in one class, in splits that are drawn by seed."""
    paths = _directly(root)
    files = Files(tuple(paths), torch.zeros(len(paths), dtype=torch.int64))
    if len(paths) < 3:
        raise UsageError(f"folder {root} holds {len(paths)} images; three splits need three at least")
    given, made = completed(files, None, None, ("",), table.split_seed)
    return replace(as_splits(given, ("",), argument + made, table), is_labelled=False)


def _splits(root: Path, seed: int, are_outputs: bool) -> tuple[tuple[str, ...], tuple[Files, Files, Files], str]:
    """Return the class names, the files of train, validation and test, and a note on the splits that were made here.

    With `are_outputs`, the classes are outputs of the network, which knows them even if train shows no image of a
    class.
    """
    given = split_folders(root, _subdirectories)
    others = [split for split in (given.validation, given.test) if split is not None] if are_outputs else []
    class_names = _class_names(given.train, others)
    found = _files(given.train, class_names)
    validation, test = (_files(path, class_names) if path else None for path in (given.validation, given.test))
    splits, made = completed(found, validation, test, class_names, seed, some_elsewhere=are_outputs)
    return class_names, splits, made


def _subdirectories(directory: Path) -> list[Path]:
    return sorted(path for path in directory.iterdir() if path.is_dir() and not path.name.startswith("."))


def _class_names(directory: Path, others: Sequence[Path] = ()) -> tuple[str, ...]:
    names = tuple(sorted({path.name for split in (directory, *others) for path in _subdirectories(split)}))
    if not names:
        raise UsageError(f"folder {directory} has no class folders; the layout is CLASS/image.png")
    if len(names) == 1:
        raise UsageError(
            f"folder {directory} has one class only, '{names[0]}'; a classifier needs two or more, and images without "
            f"labels are given as folder:{directory / names[0]}"
        )
    return names


def _files(directory: Path, class_names: tuple[str, ...]) -> Files:
    """Return the image files of one split, labelled by the classes of train."""
    strange = {path.name for path in _subdirectories(directory)} - set(class_names)
    if strange:
        raise UsageError(
            f"folder {directory} has class '{min(strange)}', which the training images do not have; where the classes "
            "are outputs of a given network, images.classes (--classes) says which"
        )
    labels = {name: i for i, name in enumerate(class_names) if (directory / name).is_dir()}
    suffixes = image_suffixes()
    samples = [(path, labels[name]) for name in sorted(labels) for path in _images(directory / name, suffixes)]
    seen = {label for _, label in samples}
    empty = [name for name, label in labels.items() if label not in seen]
    if not samples or empty:
        raise UsageError(_nothing(directory / empty[0] if empty else directory, suffixes))
    return Files(tuple(path for path, _ in samples), torch.tensor([label for _, label in samples], dtype=torch.int64))


def _images(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Return the image files below a folder, in order."""
    return [
        Path(where, name)
        for where, names in sorted(_walked(folder))
        for name in sorted(names)
        if name.lower().endswith(suffixes) and not name.startswith(".")
    ]


def _walked(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield every folder below one, with the names of its files. A link is followed to a folder that was not entered
    yet: links in circles have no end."""
    entered = set()
    for where, inner, names in os.walk(folder, followlinks=True):
        entered.add(os.path.realpath(where))
        links = {name: os.path.realpath(Path(where, name)) for name in inner if Path(where, name).is_symlink()}
        others = sorted(name for name in inner if name not in links)
        inner[:] = others + sorted(name for name, real in links.items() if real not in entered)
        yield where, names


def _nothing(directory: Path, suffixes: tuple[str, ...]) -> str:
    """Say that no image was found, which names were searched, and which files are there."""
    others = Counter(path.suffix for path in directory.rglob("*") if path.is_file() and not path.name.startswith("."))
    there = f", but {others.most_common(1)[0][1]} of '{others.most_common(1)[0][0]}'" if others else ""
    return f"folder {directory} holds no images by their suffix ({', '.join(suffixes)}){there}"
