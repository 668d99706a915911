"""The folders of a data set that are its splits: `train`, `val` and `test` in any case, and their usual synonyms."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nacdeploy.base.errors import UsageError

SYNONYMS = {
    "training": ("train", "training", "trn"),
    "validation": ("val", "valid", "validation", "dev", "development"),
    "test": ("test", "testing", "tst"),
}
# Some data sets use this name for the split of early stopping, others for the split of the reported score.
_OPEN = ("eval", "evaluation", "holdout")
_KNOWN = ", ".join(name for names in SYNONYMS.values() for name in names)


@dataclass(frozen=True)
class SplitFolders:
    """The folder of the training images, and the splits that are given beside it."""

    train: Path
    validation: Path | None
    test: Path | None


def split_folders(root: Path, subdirectories: Callable[[Path], Sequence[Path]]) -> SplitFolders:
    """Find the splits below `root`; without split folders, all images are training images.

    A folder without folders in it is a class, whatever its name.

    Raises:
        UsageError: two folders mean one split, there is no training split beside the others, or a name is ambiguous.
    """
    candidates = [path for path in subdirectories(root) if subdirectories(path)]
    given = {split: [p for p in candidates if _plain(p) in names] for split, names in SYNONYMS.items()}
    for split, paths in given.items():
        if len(paths) > 1:
            raise UsageError(f"folder {root} has two {split} splits: {paths[0].name} and {paths[1].name}")
    train, validation, test = (paths[0] if paths else None for paths in given.values())
    _check_others(root, [p for p in candidates if p not in (train, validation, test)], any(given.values()))
    if train is None and (other := validation or test):
        raise UsageError(f"folder {root} has a split '{other.name}' and no 'train'")
    return SplitFolders(train or root, validation, test)


def _check_others(root: Path, others: Sequence[Path], has_splits: bool) -> None:
    """Refuse folders whose names speak of a split without being a known name of one."""
    unclear = [path for path in others if has_splits and _plain(path) in _OPEN]
    meant = {split: [p for p in others if _words(p) & {*names}] for split, names in SYNONYMS.items()}
    if has_splits or sum(map(bool, meant.values())) > 1:  # one alone may be a class: 'test tubes'
        unclear += [path for paths in meant.values() for path in paths]
    if unclear:
        raise UsageError(f"folder {root} has '{unclear[0].name}', which may be a split; call splits by one of {_KNOWN}")


def _plain(path: Path) -> str:
    return path.name.lower().strip()


def _words(path: Path) -> set[str]:
    """Return the words of a name: of 'seg_train2' seg and train."""
    return set(re.findall(r"[a-z]+", path.name.lower()))
