"""Hugging Face data sets on disk: saved by `save_to_disk`, or parquet files. Nothing is downloaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nacdeploy.base.errors import MissingExtraError, UsageError
from nacdeploy.base.outside import own
from nacdeploy.data.samples import Sample, splits_of
from nacdeploy.data.sets import Splits
from nacdeploy.data.sources.split_folders import SYNONYMS
from nacdeploy.profile.tables.training import DataTable

_LABELS = ("label", "labels", "target", "class", "fine_label", "cls")
_NEEDED = "hf:PATH needs a folder that Dataset.save_to_disk or DatasetDict.save_to_disk wrote, or parquet files"


@dataclass(frozen=True, eq=False)
class Row:
    """One row of a table, and the column of its image."""

    rows: Any
    column: str
    number: int
    root: Path

    def __str__(self) -> str:
        return f"{self.root}, row {self.number}"

    def read_bytes(self) -> bytes:
        cell = self.rows[self.number][self.column] or {}
        if cell.get("bytes") is not None:
            return bytes(cell["bytes"])
        path = Path(str(cell.get("path") or ""))
        path = path if path.is_absolute() else self.root / path
        if not path.is_file() or not own.is_inside(path, [self.root]):
            raise UsageError(f"{self} holds no image, and names none in {self.root}")
        return path.read_bytes()


def read(argument: str | None, table: DataTable) -> Splits:
    """Read the images of a data set on disk. A split whose labels are all -1, as published tests have them, is left
    out.

    Raises:
        MissingExtraError: the package datasets is not installed.
        UsageError: there is no data set, or it has no column of images.
    """
    root, parts = _opened(argument, table.in_memory_mib)
    by_split: dict[str, list[Sample]] = {}
    names: Sequence[str] | None = None
    notes = []
    for split, rows in parts.items():
        column, label = _image_column(rows, root), _label_column(rows)
        names = getattr(rows.features[label], "names", None) if label else None
        labels = [None] * len(rows) if label is None else [_name(value, names) for value in rows[label]]
        if labels and label is not None and set(labels) == {None}:
            notes.append(f"{root}: the labels of '{split}' are hidden (-1), and it is left out")
            continue
        images = _undecoded(rows, column)
        by_split.setdefault(_split(split, root), []).extend(
            Sample(Row(images, column, number, root), name) for number, name in enumerate(labels)
        )
    return splits_of(by_split, str(root), table, names, tuple(notes))


def has_labels(argument: str) -> bool:
    """Tell whether the data set has a column of labels."""
    _, parts = _opened(argument, None)
    return any(_label_column(rows) is not None for rows in parts.values())


def _opened(argument: str | None, in_memory_mib: int | None) -> tuple[Path, dict[str, Any]]:
    """Return the tables by split.

    Parquet files are read into memory; where no room is given they are opened without any row.
    """
    if not argument:
        raise UsageError(_NEEDED)
    root = Path(argument).expanduser()
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise MissingExtraError("datasets", "hf", f"data set 'hf:{argument}'") from error
    if not root.exists():
        raise UsageError(f"{root} does not exist; {_NEEDED}")
    if parquet := [root] if root.suffix == ".parquet" else sorted(root.rglob("*.parquet")):
        n_mib = sum(file.stat().st_size for file in parquet) / 2**20
        if in_memory_mib is not None and n_mib > in_memory_mib:
            raise UsageError(
                f"{root}: parquet files are read into memory, and these have {n_mib:.0f} MiB (images.in_memory_mib is "
                f"{in_memory_mib}); what Dataset.save_to_disk writes is read from disk"
            )
        return root, _of_parquet(parquet, in_memory_mib is not None)
    try:
        found = datasets.load_from_disk(str(root))
    except Exception as error:  # pyarrow and datasets fail in many ways on what is none or damaged
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(f"{root} is no data set that can be read ({reason[:200]}); {_NEEDED}") from error
    return root, dict(found) if isinstance(found, datasets.DatasetDict) else {"train": found}


def _of_parquet(files: Sequence[Path], with_rows: bool) -> dict[str, Any]:
    """Return the tables of parquet files by split: a word of a file's name, `train-00000-of-00002.parquet`."""
    import pyarrow.parquet
    from datasets import Dataset

    by_split: dict[str, list[Path]] = {}
    for file in files:
        by_split.setdefault(file.stem.partition("-")[0], []).append(file)
    if len(by_split) > 1 or all(_known(name) is None for name in by_split):
        by_split = by_split if any(map(_known, by_split)) else {"train": list(files)}
    try:
        if not with_rows:
            return {"train": Dataset(pyarrow.parquet.read_schema(files[0]).empty_table())}
        tables = {
            name: pyarrow.concat_tables(map(pyarrow.parquet.read_table, paths)) for name, paths in by_split.items()
        }
        return {name: Dataset(each) for name, each in tables.items()}
    except Exception as error:  # as above
        raise UsageError(
            f"{files[0].parent}: its parquet files cannot be read ({str(error).splitlines()[0][:200]})"
        ) from error


def _known(name: str) -> str | None:
    return next((split for split, names in SYNONYMS.items() if name.strip().lower() in names), None)


def _split(name: str, root: Path) -> str:
    found = _known(name)
    if found is None:
        known = ", ".join(each for names in SYNONYMS.values() for each in names)
        raise UsageError(f"{root}: the split '{name[:100]}' is none of {known}")
    return found


def _image_column(rows: Any, root: Path) -> str:
    from datasets import Image

    features = dict(rows.features)
    found = [name for name, feature in features.items() if isinstance(feature, Image)]
    found += [name for name, feature in features.items() if isinstance(feature, dict) and "bytes" in feature]
    if not found:
        raise UsageError(f"{root} has no column of images; its columns: {', '.join(map(str, features))[:200]}")
    return str(found[0])


def _label_column(rows: Any) -> str | None:
    from datasets import ClassLabel

    found = [name for name, feature in rows.features.items() if isinstance(feature, ClassLabel)]
    return next((name for name in (*_LABELS, *found) if name in rows.features), None)


def _name(value: Any, names: Sequence[str] | None) -> str | None:
    if value is None or (isinstance(value, int) and value < 0):
        return None
    return names[value] if names is not None and isinstance(value, int) else str(value)


def _undecoded(rows: Any, column: str) -> Any:
    """Return the column of images alone, as bytes."""
    from datasets import Image

    alone = rows.select_columns([column])
    return alone.cast_column(column, Image(decode=False)) if isinstance(rows.features[column], Image) else alone
