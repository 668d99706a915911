"""ImageNet as ILSVRC lays it out, and Tiny ImageNet as it is unpacked.

Their `val` is the test split, since the labels of `test` were never published; validation is taken from train by seed.
"""

import csv
import re
from pathlib import Path

from nacdeploy.base.errors import UsageError
from nacdeploy.base.outside import doors
from nacdeploy.base.records import read_text
from nacdeploy.data.pictures import suffixes
from nacdeploy.data.sets import Splits
from nacdeploy.data.sources.listed import Rows, splits_by_name
from nacdeploy.profile.tables.training import DataTable

_WORDNET = re.compile(r"n\d{8}")
_LAYOUT = "train/nXXXXXXXX/*.JPEG, and val/nXXXXXXXX/*.JPEG or val/*.JPEG with their labels (README)"
_TRUTH, _META = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"
_LISTS = ("LOC_val_solution.csv", "val_labels.txt", "val.txt", "val_map.txt", "val_annotations.txt")


def read(argument: str | None, table: DataTable) -> Splits:
    """Read ImageNet: `train` and `val` below the folder, or below its `ILSVRC/Data/CLS-LOC`; one of them is enough.

    Where `val` has no folders by class, a list beside it says them: Kaggle's `LOC_val_solution.csv`, a text of lines
    "file class", or the development kit's ground truth with its `meta.mat`.

    Raises:
        UsageError: the folder is missing, or not laid out so.
    """
    root = Path(argument).expanduser() if argument else None
    if root is None or not root.is_dir():
        raise UsageError(f"data set 'imagenet' needs its folder: imagenet:PATH, with {_LAYOUT}")
    data = next((at for at in (root, root / "Data/CLS-LOC", root / "ILSVRC/Data/CLS-LOC") if _has(at)), None)
    if data is None:
        raise UsageError(f"{root} has neither train nor val; it needs {_LAYOUT}")
    train = _by_folder(data / "train")
    names = tuple(sorted({label for _, label in train}))
    val = _by_folder(data / "val") or _listed(data / "val", root, names)
    if not train and not val:
        raise UsageError(f"{data} holds no images; it needs {_LAYOUT}")
    names = names or tuple(sorted({label for _, label in val}))
    if strange := {label for _, label in val} - {*names}:
        raise UsageError(f"{data / 'val'} has class '{min(strange)}', which train does not have")
    given = {"training": train, "test": val} if train and val else {"training": train or val}
    return splits_by_name(given, names, str(root), table)


def read_tiny(argument: str | None, table: DataTable) -> Splits:
    """Read Tiny ImageNet: `train/ID/images/*`, and `val/images/*` with `val/val_annotations.txt`.

    Raises:
        UsageError: the folder is missing, or not laid out so.
    """
    root = Path(argument).expanduser() if argument else None
    annotations = root / "val" / "val_annotations.txt" if root else None
    if root is None or annotations is None or not annotations.is_file():
        raise UsageError("data set 'tiny-imagenet' needs its folder, with val/val_annotations.txt: tiny-imagenet:PATH")
    train = [(path, path.parts[-3]) for path in sorted(root.glob("train/*/images/*"))]
    lines = [line.split("\t") for line in doors.read_text(annotations, "record_mib").splitlines() if line.strip()]
    test = [(root / "val" / "images" / line[0], line[1]) for line in lines if len(line) > 1]
    if not train or len(test) != len(lines):
        raise UsageError(f"{root} is not Tiny ImageNet as it is unpacked: train/ID/images, val/val_annotations.txt")
    names = tuple(sorted({label for _, label in train}))
    return splits_by_name({"training": train, "test": test}, names, str(root), table)


def _has(folder: Path) -> bool:
    return (folder / "train").is_dir() or (folder / "val").is_dir()


def _by_folder(folder: Path) -> Rows:
    """Return the images of folders that are called by WordNet's numbers."""
    images = (path for path in sorted(folder.glob("n*/*")) if path.suffix.lower() in suffixes())
    return [(path, path.parent.name) for path in images if _WORDNET.fullmatch(path.parent.name)]


def _listed(val: Path, root: Path, names: tuple[str, ...]) -> Rows:
    """Return the images of a `val` without folders, by a list beside or above it.

    Raises:
        UsageError: there is no list, or it leaves out an image.
    """
    images = {path.name: path for path in sorted(val.glob("*.JPEG"))} if val.is_dir() else {}
    if not images:
        return []
    places = [folder for folder in (val, *val.parents) if folder == root or root in folder.parents]
    found = [folder / name for folder in places for name in _LISTS if (folder / name).is_file()]
    kits = [kit for folder in places for kit in sorted(folder.glob(f"**/{_TRUTH}"))] if not found else []
    if not found and not kits:
        raise UsageError(
            f"{val} has no folders by class, and nothing says the classes of its {len(images)} images: put "
            f"{', '.join(_LISTS[:2])} or the development kit ({_TRUTH}, {_META}) into {root}"
        )
    labels = _of_list(found[0], names) if found else _of_kit(kits[0], list(images))
    missing = next((name for name in images if name not in labels), None)
    if missing is not None:
        raise UsageError(f"{found[0] if found else kits[0]} has no class for {missing}")
    return [(path, labels[name]) for name, path in images.items()]


def _of_list(file: Path, names: tuple[str, ...]) -> dict[str, str]:
    """Return class by file name from a text of lines "file class ..." or Kaggle's CSV; a class is WordNet's number, or
    its place among the classes of train."""
    text = read_text(file)
    rows = [row[0].split() + row[1].split() for row in csv.reader(text.splitlines()) if len(row) > 1]
    rows = rows or [line.split() for line in text.splitlines()]
    labels = {}
    for number, row in enumerate(rows, 1):
        if len(row) < 2 or row[0] == "ImageId":
            continue
        stem, label = Path(row[0]).stem, row[1]
        if label.isdecimal() and int(label) < len(names):
            label = names[int(label)]
        if not _WORDNET.fullmatch(label):
            raise UsageError(f"{file}, line {number}: '{label[:50]}' is no class; a class is called like n01440764")
        labels[f"{stem}.JPEG"] = label
    return labels


def _of_kit(truth: Path, images: list[str]) -> dict[str, str]:
    """Return class by file name from the development kit: a number per image, in the order of their names."""
    meta = truth.parent / _META
    if not meta.is_file():
        raise UsageError(f"{truth} numbers the classes by {_META}, which does not lie beside it")
    from scipy.io import loadmat

    try:
        doors.check_file(meta, "record_mib")
        rows = loadmat(str(meta), squeeze_me=True)["synsets"]
        by_number = {int(row[0]): str(row[1]) for row in rows}
        numbers = [int(line) for line in read_text(truth).split()]
        return {name: by_number[number] for name, number in zip(images, numbers, strict=True)}
    except Exception as error:  # scipy fails in many ways on what is no MATLAB file
        raise UsageError(f"{truth} does not number the {len(images)} images by {meta} ({error})") from error
