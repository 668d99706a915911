"""A network's columns in child processes, watched: time by the clock, memory by the resident sets of all of them.

A column that goes beyond its limits is killed and said so; the next child goes on with the columns after it.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.foreign.listing import Entry
from benchmarks.foreign.rows import MEMORY, RIGHT, TIMEOUT, TRACEBACK, WRONG, Row

ROOT = Path(__file__).parent.parent.parent
_POLL_S = 0.1
_PAGE_MIB = os.sysconf("SC_PAGE_SIZE") / 2**20


@dataclass(frozen=True)
class Limits:
    """Seconds of one network in all and of one of its columns, and memory."""

    network_s: float
    column_s: float
    gib: float


def columns_of(entry: Entry, columns: Sequence[str], grid: str, limits: Limits, log: Path) -> Iterator[Row]:
    """The rows of one network in order, each as soon as it is known; what children print goes to the file `log`."""
    if not entry.size:
        yield from (Row(entry.model, column, "refused", entry.note) for column in columns)
        return
    left, deadline = [*columns], time.monotonic() + limits.network_s
    while left:
        if time.monotonic() > deadline:
            yield from (Row(entry.model, c, TIMEOUT, f"no time left of {limits.network_s:g} s") for c in left)
            return
        last, n_before = None, len(left)
        for row in _child(entry, left, grid, limits, deadline, log):
            last = row
            if row.column in left:
                yield row
                left.remove(row.column)
        is_lost = last is None or (last.column == "built" and last.outcome not in (RIGHT, WRONG))
        if is_lost or len(left) == n_before:
            yield from (replace(last or Row(entry.model, "built", TRACEBACK), column=c, seconds=0.0) for c in left)
            return


def _child(
    entry: Entry, columns: Sequence[str], grid: str, limits: Limits, deadline: float, log: Path
) -> Iterator[Row]:
    """The rows of one process, the last one said by the watcher where the process did not come to its end."""
    with TemporaryDirectory() as folder, log.open("a") as printed:
        events = Path(folder) / "events.jsonl"
        command = [sys.executable, "-m", "benchmarks.foreign.child", entry.model, str(entry.size), grid, str(events)]
        environment = {**os.environ, "TMPDIR": folder, "PYTHONPATH": str(ROOT), "COVERAGE_WATCHER": str(os.getpid())}
        process = subprocess.Popen(
            [*command, *columns], cwd=ROOT, stdout=printed, stderr=printed, env=environment, start_new_session=True
        )
        try:
            yield from _Watch(entry.model, process, events, limits, deadline).rows()
        finally:
            _kill(process)


@dataclass
class _Watch:
    model: str
    process: subprocess.Popen[bytes]
    events: Path
    limits: Limits
    deadline: float
    column: str = "built"
    peak_mib: float = 0.0
    n_read: int = 0

    def rows(self) -> Iterator[Row]:
        began = time.monotonic()
        while True:
            has_ended = self.process.poll() is not None
            self.peak_mib = max(self.peak_mib, resident_mib(self.process.pid))
            for event in self._new_events():
                if "end" in event:
                    yield self._row(event)
                    if self.column == event["end"]:
                        self.column = ""
                else:
                    self.column, self.peak_mib, began = event["begin"], 0.0, time.monotonic()
            if has_ended:
                if self.process.returncode:
                    yield self._fault(*_death(self.process.returncode), time.monotonic() - began)
                return
            if broken := self._broken(time.monotonic() - began):
                yield self._fault(*broken, time.monotonic() - began)
                return
            time.sleep(_POLL_S)

    def _new_events(self) -> list[dict[str, Any]]:
        lines = self.events.read_text().splitlines(keepends=True) if self.events.exists() else []
        whole = [line for line in lines[self.n_read :] if line.endswith("\n")]
        self.n_read += len(whole)
        return [json.loads(line) for line in whole]

    def _row(self, event: dict[str, Any]) -> Row:
        peak = max(self.peak_mib, event["peak_mib"])
        return Row(
            self.model, event["end"], event["outcome"], event["reason"], event["seconds"], peak, event["figures"]
        )

    def _broken(self, seconds: float) -> tuple[str, str] | None:
        """The limit that is exceeded."""
        if self.peak_mib > 1024 * self.limits.gib:
            return MEMORY, f"more than {self.limits.gib:g} GiB"
        if seconds > self.limits.column_s:
            return TIMEOUT, f"more than {self.limits.column_s:g} s"
        return (TIMEOUT, f"no time left of {self.limits.network_s:g} s") if time.monotonic() > self.deadline else None

    def _fault(self, outcome: str, reason: str, seconds: float) -> Row:
        return Row(self.model, self.column or "built", outcome, reason, round(seconds, 2), round(self.peak_mib, 1))


def _death(code: int) -> tuple[str, str]:
    if code == -signal.SIGKILL:  # not ours: the system's, for want of memory
        return MEMORY, "killed by the system"
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return TRACEBACK, f"the process died ({how})"


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a child with all that it started: they are one session of their own."""
    if process.poll() is None or _session(process.pid):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def resident_mib(session: int) -> float:
    """The resident memory of all processes of a session."""
    return sum(_resident_mib(pid) for pid in _session(session))


def _session(session: int) -> list[str]:
    """The processes of a session, by the sixth field of their stat."""
    found = []
    for pid in (each.name for each in Path("/proc").iterdir() if each.name.isdigit()):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[3] == str(session):
            found.append(pid)
    return found


def _resident_mib(pid: str) -> float:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_MIB
    except (OSError, IndexError):
        return 0.0
