"""A sink for the reports of a run, and what every sink shares: items with their parents, and plain data."""

import contextlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from nacdeploy.base import folders

Kind = Literal["dataset", "checkpoint", "strategy", "artifact"]

RECORD_NAME = "tracking.jsonl"
MAX_NAME = 128


@dataclass(frozen=True)
class Tensor:
    """An input or output of a model that can be served; a dimension that is not fixed is -1."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Served:
    """The needs of a registry that serves an artifact: its signature, the program that answers from its folder, the
    modules beside that program, the packages that it imports, and what it is told."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    program: Path
    modules: tuple[Path, ...] = ()
    needs: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Item:
    """A thing with a place in the lineage: a finished file or folder, or data, which have no path but `metadata`.

    Attributes:
        aliases: by which a registry finds this version of `name`; "latest" is every registry's own.
        parents: what it was made from.
        served: how it answers; None if it is not deployed.
    """

    kind: Kind
    name: str
    path: Path | None = None
    metadata: Mapping[str, object] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    parents: tuple["Item", ...] = ()
    served: Served | None = None

    @property
    def slug(self) -> str:
        """The name as registries take it."""
        return spelled(self.name)


class Tracker(Protocol):
    """A sink for the reports of a run.

    >>> tracker: Tracker = JsonLinesTracker(Path("example") / RECORD_NAME)
    >>> tracker.row("epoch", {"epoch": 1, "loss": 0.5})
    >>> tracker.close()
    >>> print((Path("example") / RECORD_NAME).read_text().strip())
    {"epoch": 1, "loss": 0.5, "kind": "epoch"}
    """

    def row(self, kind: str, data: Mapping[str, object]) -> None:
        """Record one evaluation, epoch or other event; `kind` names which."""

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Record a whole table, such as the strategies of a search."""

    def media(self, name: str, path: Path) -> None:
        """Record a picture (.png) or a page (.html)."""

    def artifact(self, item: Item) -> None:
        """Record what a run made, with what it was made from."""

    def close(self) -> None:
        """Write what is buffered; nothing may be recorded afterwards."""


class JsonLinesTracker:
    """A tracker that appends one JSON object per line and flushes at once, so that a killed run keeps its reports."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            broken_end = path.exists() and not path.read_bytes().endswith(b"\n") and path.stat().st_size > 0
            self._file = path.open("a", encoding="utf-8")
            if broken_end:
                self._file.write("\n")
        except OSError as error:
            raise folders.cannot_write(path, error) from error

    def row(self, kind: str, data: Mapping[str, object]) -> None:
        self._write({**data, "kind": kind})

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        self._write({"kind": "table", "name": name, "columns": columns, "rows": rows})

    def media(self, name: str, path: Path) -> None:
        self._write({"kind": "media", "name": name, "path": path})

    def artifact(self, item: Item) -> None:
        parents = [{"type": each.kind, "name": each.name, "path": each.path} for each in item.parents]
        named = {"type": item.kind, "name": item.name, "path": item.path, "aliases": item.aliases}
        self._write({"kind": "artifact", **named, "parents": parents, "metadata": item.metadata})

    def close(self) -> None:
        self._file.close()

    def _write(self, line: Mapping[str, object]) -> None:
        try:
            self._file.write(json.dumps(plain(line), allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise folders.cannot_write(self._path, error) from error


@dataclass(frozen=True)
class Trackers:
    """Several trackers as one."""

    members: tuple[Tracker, ...] = field(default=())

    def row(self, kind: str, data: Mapping[str, object]) -> None:
        for member in self.members:
            member.row(kind, data)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        for member in self.members:
            member.table(name, columns, rows)

    def media(self, name: str, path: Path) -> None:
        for member in self.members:
            member.media(name, path)

    def artifact(self, item: Item) -> None:
        for member in self.members:
            member.artifact(item)

    def close(self) -> None:
        for member in self.members:
            member.close()


@contextlib.contextmanager
def variables(wanted: Mapping[str, str]) -> Iterator[None]:
    """Set variables of the environment within a block: clients read some settings from there alone."""
    before = {key: os.environ.get(key) for key in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


def spelled(name: str) -> str:
    """Return a name in letters, digits, dots, underscores and hyphens, which every registry takes.

    >>> spelled("net.py:make-Q(bits=4)-ort")
    'net.py-make-Q-bits-4--ort'
    """
    return re.sub(r"[^\w.-]+", "-", name)[:MAX_NAME].strip("-") or "unnamed"


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or the name of its type."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def plain(value: Any) -> Any:
    """Convert to JSON-able data: mappings and sequences entry by entry, and numbers that JSON lacks and other objects
    as text."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if value is None or isinstance(value, (str, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return str(value)
