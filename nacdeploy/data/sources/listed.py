"""Image files that a CSV of the user's own names."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from nacdeploy.base.errors import UsageError
from nacdeploy.base.outside import doors
from nacdeploy.data.files import Files, as_splits, completed
from nacdeploy.data.sets import Splits
from nacdeploy.data.sources.split_folders import SYNONYMS
from nacdeploy.profile.tables.training import DataTable

_COLUMNS = ("path", "label")
Rows = Sequence[tuple[Path, str]]


def read_csv(argument: str | None, table: DataTable) -> Splits:
    """Read images by a CSV with the columns `path` (from the file's folder), `label` and, if splits are given, `split`.

    Raises:
        UsageError: the file is missing, has other columns, names a file that is not there, or an unknown split.
    """
    if not argument:
        raise UsageError("data set 'csv' needs a file: csv:PATH, with the columns path, label and, if given, split")
    place = Path(argument).expanduser()
    rows = _rows(place)
    labels = sorted({row["label"] for row in rows})
    if len(labels) < 2:
        raise UsageError(f"{place} names {len(labels)} class; a classifier needs two or more")
    by_split: dict[str, list[tuple[Path, str]]] = {}
    for number, row in enumerate(rows, 2):
        path = place.parent / row["path"]
        if not path.is_file():
            raise UsageError(f"{place}, line {number}: there is no file {path}")
        by_split.setdefault(_split(row.get("split") or "train", place, number), []).append((path, row["label"]))
    return splits_by_name(by_split, tuple(labels), str(place), table)


def _rows(place: Path) -> list[dict[str, str]]:
    if not place.is_file():
        raise UsageError(f"there is no file {place}")
    try:
        read = csv.DictReader(io.StringIO(doors.read_text(place, "record_mib"), newline=""))
        rows, columns = list(read), tuple(read.fieldnames or ())
    except csv.Error as error:
        raise UsageError(f"{place} is no CSV in UTF-8 ({error})") from error
    if missing := [name for name in _COLUMNS if name not in columns]:
        raise UsageError(f"{place} has no column '{missing[0]}': its first line names path, label and, if given, split")
    if not rows:
        raise UsageError(f"{place} names no image")
    for number, row in enumerate(rows, 2):
        if any(not row[name] for name in _COLUMNS):
            raise UsageError(f"{place}, line {number}: path or label is empty")
    return rows


def _split(name: str, place: Path, number: int) -> str:
    for split, names in SYNONYMS.items():
        if name.strip().lower() in names:
            return split
    known = ", ".join(name for names in SYNONYMS.values() for name in names)
    raise UsageError(f"{place}, line {number}: the split '{name}' is none of {known}")


def splits_by_name(by_split: Mapping[str, Rows], class_names: tuple[str, ...], source: str, table: DataTable) -> Splits:
    """Return the splits of files with the names of their classes; missing ones are taken from train by seed."""
    numbers = {name: i for i, name in enumerate(class_names)}
    found = {split: _files(rows, numbers) for split, rows in by_split.items()}
    if "training" not in found:
        raise UsageError(f"{source} has no training images")
    given, made = completed(
        found["training"], found.get("validation"), found.get("test"), class_names, table.split_seed
    )
    return as_splits(given, class_names, source + made, table)


def _files(rows: Rows, numbers: Mapping[str, int]) -> Files:
    labels = torch.tensor([numbers[label] for _, label in rows], dtype=torch.int64)
    return Files(tuple(path for path, _ in rows), labels)
