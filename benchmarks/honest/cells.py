"""The cells of the table: each is one trained or quantised network, made once, and one line of cells.jsonl.

A cell's folder appears whole and its line comes last, so that a job that was killed at any moment leaves nothing that
a later one would take for done.
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock

from benchmarks.peers.environments import python_of
from benchmarks.peers.timing import Images, Subject, Worker, accuracy
from nacdeploy.base import records
from nacdeploy.base.errors import NacdeployError
from nacdeploy.base.progress import Progress

LINES = "cells.jsonl"
ENVIRONMENTS = Path("bench-run") / "peers"  # shared with the other tables


@dataclass(frozen=True)
class Made:
    """A network that was made: its file within the cell's folder, the epochs that it was trained in all, and who runs
    it."""

    file: str
    n_epochs: int
    runtime: str = "onnxruntime"
    environment: str = "own"


@dataclass(frozen=True)
class Cell:
    """One line: where the network lies, its accuracy on validation (a fraction, of the session that is timed), and the
    CPU seconds that it took; of a network that could not be made only the reason."""

    key: str
    path: str = ""
    n_epochs: int = 0
    validation: float = 0.0
    cpu_s: float = 0.0
    runtime: str = "onnxruntime"
    environment: str = "own"
    error: str = ""

    def subject(self, root: Path) -> Subject:
        """The cell as what is timed; `root` is the folder of the cells."""
        path = (root / self.path).absolute()
        return Subject(self.key, "cell", path, self.runtime, self.environment, n_epochs=self.n_epochs)


class MissingError(Exception):
    """A cell is not there, and none is to be made."""


@dataclass
class Cells:
    """The cells of one network and seed in `root`; with `make` off what is not there is missing."""

    root: Path
    validation: Callable[[], Images]
    progress: Progress
    make: bool = True
    done: dict[str, Cell] = field(default_factory=dict)

    def __post_init__(self) -> None:
        found = self._read()
        self.done = {key: cell for key, cell in found.items() if not (cell.error and self.make)}  # failed: again

    def get(self, key: str, make: Callable[[Path], Made]) -> Cell:
        """The cell of this key, made now if it is new; `make` fills a folder. Two processes make it once.

        Raises:
            MissingError: it is not there, and none is to be made.
        """
        if key in self.done:
            return self.done[key]
        if not self.make:
            raise MissingError(key)
        place = self.folder(key)
        place.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{place}.lock"):
            found = self._read().get(key)
            self.done[key] = found if found is not None and not found.error else self._new(key, make)
        return self.done[key]

    def _new(self, key: str, make: Callable[[Path], Made]) -> Cell:
        self.progress.say(f"{time.strftime('%H:%M')} {self.root.parent.name}, {self.root.name}: {key}")
        start = _cpu_s()
        try:
            cell = self._made(key, make, start)
        except (NacdeployError, RuntimeError) as error:
            cell = Cell(key, cpu_s=_cpu_s() - start, error=f"{error}")
            self.progress.say(f"{key} has no row: {error}")
        _append(self.root / LINES, cell)
        return cell

    def _made(self, key: str, make: Callable[[Path], Made], start: float) -> Cell:
        place = self.folder(key)
        with records.new_directory(place, replace=True) as folder:
            made = make(folder)
        path = (place / made.file).relative_to(self.root)
        cell = Cell(key, str(path), made.n_epochs, 0.0, 0.0, made.runtime, made.environment)
        found = judged(cell.subject(self.root), self.validation())
        return Cell(**{**vars(cell), "validation": found, "cpu_s": _cpu_s() - start})

    def _read(self) -> dict[str, Cell]:
        """The lines whose networks are there, the last one of each key."""
        file = self.root / LINES
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        cells = [cell for line in lines if (cell := _read(line, file)) is not None]
        return {cell.key: cell for cell in cells if cell.error or (self.root / cell.path).exists()}

    def folder(self, key: str) -> Path:
        """Where a cell's files lie."""
        return self.root / "cells" / key.replace("/", "_").replace(" ", "-")


def judged(subject: Subject, images: Images) -> float:
    """The accuracy (a fraction) of one network in its own runtime."""
    worker = Worker(python_of(subject.environment, ENVIRONMENTS))
    try:
        request = {"path": str(subject.path), "runtime": subject.runtime, "settings": {}, "image": str(images.first)}
        worker.ask(do="load", name=subject.name, **request)
        return accuracy(worker, subject.name, images)
    finally:
        worker.close()


def _cpu_s() -> float:
    return sum(os.times()[:4])


def _append(file: Path, cell: Cell) -> None:
    """Write one line; after a kill the last one may lack its end."""
    file.parent.mkdir(parents=True, exist_ok=True)
    before = file.read_bytes() if file.is_file() else b""
    with file.open("a", encoding="utf-8") as opened:
        cut_off = "\n" if before and not before.endswith(b"\n") else ""
        opened.write(cut_off + json.dumps(records.to_data(cell)) + "\n")


def _read(line: str, file: Path) -> Cell | None:
    """A line; None of one that a kill cut off."""
    try:
        return records.from_data(Cell, json.loads(line), where=str(file))
    except (ValueError, NacdeployError):
        return None
