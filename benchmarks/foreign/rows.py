"""One row per network and column: what was found, in how long and with how much memory; a file of JSON lines."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nacdeploy.base import records

COLUMNS = ("built", "captured", "P", "Q", "S", "D", "E", "QPF", "export", "trt", "PQ")
RIGHT, WRONG, REFUSED = "right", "wrong", "refused"
# An unexpected error that the package caught is a fault like a traceback; the last two are the limits of the run.
UNEXPECTED, TRACEBACK, TIMEOUT, MEMORY = "unexpected", "traceback", "timeout", "memory"
FAULTS = (UNEXPECTED, TRACEBACK)
RESULTS = "results.jsonl"


@dataclass(frozen=True)
class Row:
    """What one column of one network came to. `peak_mib` is that of the process and its children, `grid`
    that of ONNX Runtime on the machine at hand."""

    model: str
    column: str
    outcome: str
    reason: str = ""
    seconds: float = 0.0
    peak_mib: float = 0.0
    figures: Mapping[str, float] = field(default_factory=dict)
    commit: str = ""
    grid: str = ""


def read(folder: Path) -> dict[tuple[str, str], Row]:
    """The last row of every network and column in an out folder; a line cut off by a kill is left out."""
    file, found = folder / RESULTS, {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            row = records.from_data(Row, json.loads(line))
        except ValueError:
            continue
        found[row.model, row.column] = row
    return found


def append(folder: Path, rows: Iterable[Row]) -> None:
    """Add rows at the end of the file."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / RESULTS).open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(records.to_data(row)) + "\n" for row in rows)
