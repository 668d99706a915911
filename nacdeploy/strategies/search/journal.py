"""Journal: every finished evaluation of a search as one JSON line, kept through a kill.

The first line holds the schema version and the run's fingerprint. A line counts once its newline is on the disk: a torn
last line is cut off on opening, so that a resumed search loses the evaluation in progress and nothing else.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from nacdeploy.base.errors import NacdeployError, UsageError
from nacdeploy.base.outside import doors
from nacdeploy.base.records import SCHEMA_VERSION, from_data, to_data, write_text
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.search.objective import Figures, check_figures


@dataclass(frozen=True)
class Evaluation:
    """One row: a chain and its outcome. A failed chain holds `error` and no figures.

    `training` is the content key of the training that its last letter asked for, run now or remembered; `trained` marks
    the first row of the search with that key.
    """

    chain: str
    state_key: str
    figures: Figures | None
    refused: dict[str, str] = field(default_factory=dict)
    trained: bool = False
    seconds: float = 0.0
    error: str | None = None
    training: str | None = None


def failed(chain: Chain, error: str, seconds: float = 0.0, training: str | None = None) -> Evaluation:
    """Return the row of a chain whose last step was refused, diverged or lost its workers; its state equals no
    other."""
    return Evaluation(str(chain), f"failed:{chain}", None, seconds=seconds, error=error, training=training)


@dataclass(frozen=True)
class Change:
    """A key of the fingerprint with another value than when the journal was begun."""

    key: str
    was: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.key} was {_short(self.was)} and is {_short(self.now)}"


class Journal:
    """An append-only file of evaluations. Made by `Journal.open`."""

    def __init__(self, path: Path, file: BinaryIO, evaluations: list[Evaluation]) -> None:
        self.path = path
        self.evaluations = evaluations
        self._file = file

    @classmethod
    def open(cls, path: Path, fingerprint: Mapping[str, Any]) -> "Journal":
        """Start a journal, or continue the journal at `path`.

        Raises:
            UsageError: the journal belongs to a run with another fingerprint (the keys that differ are named), has
                another schema, or is damaged before its last line.
            NacdeployError: the file cannot be written, or another process writes it.
        """
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("ab", buffering=0)
            _lock(file, path)
            lines, n_bytes = _whole_lines(doors.read_bytes(path, "record_mib"), str(path))
            theirs, evaluations = _read(lines, path) if lines else (dict(fingerprint), [])
            _check_fingerprint(theirs, fingerprint, path)
            os.truncate(path, n_bytes)
            journal = cls(path, file, evaluations)
        except OSError as error:
            raise _cannot_write(path, error) from error
        if not lines:
            journal._write({"schema": SCHEMA_VERSION, "fingerprint": dict(fingerprint)})
        return journal

    def append(self, evaluation: Evaluation) -> None:
        """Add one row; when this returns, it is on the disk.

        Raises:
            NacdeployError: the disk is full or gone.
        """
        self._write(to_data(evaluation))
        self.evaluations.append(evaluation)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _write(self, data: Any) -> None:
        line = memoryview((json.dumps(data, allow_nan=False) + "\n").encode())
        try:
            while line:
                line = line[self._file.write(line) :]
            os.fsync(self._file.fileno())
            is_there = os.path.samestat(os.fstat(self._file.fileno()), self.path.stat())
        except FileNotFoundError:
            is_there = False
        except OSError as error:
            raise _cannot_write(self.path, error) from error
        if not is_there:
            raise NacdeployError(
                f"{self.path} was removed while the search wrote it; begin a new one with another --out"
            )


def _whole_lines(content: bytes, where: str) -> tuple[list[Any], int]:
    """Return the parsed lines that were written whole, and their number of bytes.

    Raises:
        UsageError: a line before the last is damaged.
    """
    raw = content.splitlines(keepends=True)
    last = [_last(raw.pop(), where)] if raw else []
    kept = [line for line in last if line is not None]
    n_bytes = sum(map(len, raw)) + (len(content) - sum(map(len, raw)) if kept else 0)
    return [*(doors.json_of(line, f"{where} line {n}") for n, line in enumerate(raw, start=1)), *kept], n_bytes


def _last(line: bytes, where: str) -> Any:
    """Return the last line, or None if it was torn."""
    if not line.endswith(b"\n"):
        return None
    try:
        return doors.json_of(line, where)
    except UsageError:
        return None


def read(path: Path) -> tuple[dict[str, Any], list[Evaluation]]:
    """Read the fingerprint and the rows of another run's journal; an empty journal gives neither.

    Raises:
        UsageError: the journal is missing, has another schema, or is damaged before its last line.
    """
    try:
        lines, _ = _whole_lines(doors.read_bytes(path, "record_mib"), str(path))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from error
    return _read(lines, path) if lines else ({}, [])


def write(path: Path, fingerprint: Mapping[str, Any], evaluations: Sequence[Evaluation]) -> None:
    """Write a journal of existing rows, whole or not at all.

    Raises:
        NacdeployError: the journal cannot be written.
    """
    lines = [{"schema": SCHEMA_VERSION, "fingerprint": dict(fingerprint)}, *map(to_data, evaluations)]
    write_text(path, "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines))


def changes(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> tuple[Change, ...]:
    """Compare the fingerprint of a journal with the fingerprint of a run, by key."""
    theirs, ours = json.loads(json.dumps([dict(theirs), dict(ours)]))
    keys = sorted(key for key in theirs.keys() | ours.keys() if theirs.get(key) != ours.get(key))
    return tuple(Change(key, theirs.get(key), ours.get(key)) for key in keys)


def _read(lines: list[Any], path: Path) -> tuple[dict[str, Any], list[Evaluation]]:
    header, *rows = lines
    if not isinstance(header, dict) or header.get("schema") != SCHEMA_VERSION:
        raise UsageError(f"{path} is not a journal of schema {SCHEMA_VERSION}; choose another --out")
    if set(header) != {"schema", "fingerprint"} or not isinstance(header["fingerprint"], dict):
        raise UsageError(f"{path} line 1: a journal begins with its schema and its fingerprint; choose another --out")
    return header["fingerprint"], [_row(row, f"{path} line {number}") for number, row in enumerate(rows, start=2)]


def _row(data: Any, where: str) -> Evaluation:
    """Return a row that is possible: of a chain, with figures within their bounds."""
    row = from_data(Evaluation, data, where)
    try:
        Chain.parse(row.chain)
        if row.figures is not None:
            check_figures(row.figures)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error
    return row


def _check_fingerprint(theirs: Mapping[str, Any], ours: Mapping[str, Any], path: Path) -> None:
    if changed := changes(theirs, ours):
        raise UsageError(
            f"{path} belongs to another search: {', '.join(map(str, changed))}; bring that back, or begin a new run "
            f"that takes over what still holds: --resume {path.parent} --fork"
        )


def _short(value: Any) -> str:
    """Print a value for a message: hashes by their beginning."""
    text = repr(value)
    return f"{text[:13]}...'" if isinstance(value, str) and len(value) == 64 else text


def _lock(file: BinaryIO, path: Path) -> None:
    """Lock a journal, so that two searches never write one; the lock ends with the process, however the process
    ends."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise NacdeployError(f"{path} is being written by another search; wait for it, or end it first") from error


def _cannot_write(path: Path, error: OSError) -> NacdeployError:
    return NacdeployError(f"cannot write {path}: {error.strerror or error}; free some space or choose another --out")
