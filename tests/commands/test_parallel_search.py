"""A search by two worker processes of a real Ray: the same rows as one, also when a worker is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import change, refused_line, rows, run, succeed

from nacdeploy.strategies.steps import checkpoint

SCRIPT = [sys.executable, "-m", "nacdeploy.cli.main"]
DEADLINE_S = 240


def processes() -> Iterator[tuple[int, int, str]]:
    """Process ids, their parents and titles."""
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = status.read_text().partition("(")[2].rpartition(")")
            title = status.with_name("cmdline").read_text().partition("\0")[0] or name
            yield int(status.parent.name), int(rest.split()[1]), title
        except (OSError, IndexError):
            continue  # it ended meanwhile


def workers_of(driver: int) -> list[int]:
    """The workers that a driver's own Ray runs."""
    table = {pid: (parent, title) for pid, parent, title in processes()}

    def descends(pid: int) -> bool:
        while pid in table and pid != driver:
            pid = table[pid][0]
        return pid == driver

    return [pid for pid, (_, title) in table.items() if title.startswith("ray::_Worker") and descends(pid)]


def killed_worker(process: "subprocess.Popen[bytes]", journal: Path) -> None:
    """Kill one worker as soon as two rows are there."""
    end = time.monotonic() + DEADLINE_S
    while not journal.is_file() or journal.read_bytes().count(b"\n") < 3 or not workers_of(process.pid):
        assert process.poll() is None, "the search ended before a worker could be killed"
        assert time.monotonic() < end
        time.sleep(0.01)
    os.kill(workers_of(process.pid)[0], signal.SIGKILL)


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="finds the workers in /proc")
def test_two_workers_find_what_one_finds_though_one_is_killed(home: Path) -> None:
    pytest.importorskip("ray")
    change("search", window=2, budget=5)
    succeed("search", "--out", "one")
    process = subprocess.Popen([*SCRIPT, "search", "--workers", "2", "--out", "two"], stderr=subprocess.DEVNULL)
    killed_worker(process, Path("two/journal.jsonl"))
    assert process.wait() == 0
    assert rows(Path("two")) == rows(Path("one"))
    one, two = (json.loads(Path(name, "result.json").read_text()) for name in ("one", "two"))
    for key in ("chain", "figures", "scores", "front", "n_trainings"):
        assert one[key] == two[key]
    one, two = (Path(name, "checkpoint", checkpoint.VALUES).read_bytes() for name in ("one", "two"))
    assert one == two


def test_run_is_resumed_by_another_number_of_workers(home: Path) -> None:
    succeed("search", "--resume", "runs/search-1", "--workers", 1, "--budget", 5)
    assert len(rows(Path("runs/search-1"))) == 6


def test_unreachable_cluster_ends_a_search_before_anything_is_done(home: Path) -> None:
    done = run("search", "--out", "new", "--ray", "127.0.0.1:9")
    assert (done.code, done.out) == (1, "")
    assert refused_line(done).startswith("error: no Ray cluster at 127.0.0.1:9:")
    assert not Path("new").exists()
    before = Path("runs/search-1/journal.jsonl").read_bytes()
    assert run("search", "--resume", "runs/search-1", "--ray", "127.0.0.1:9", "--budget", 9).code == 1
    assert Path("runs/search-1/journal.jsonl").read_bytes() == before
