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


def workers_of(driver: int, title_start: str = "ray::_Worker") -> list[int]:
    """The workers that a driver's own Ray runs, or all processes below it (`title_start` "")."""
    table = {pid: (parent, title) for pid, parent, title in processes()}

    def descends(pid: int) -> bool:
        while pid in table and pid != driver:
            pid = table[pid][0]
        return pid == driver

    return [pid for pid, (_, title) in table.items() if title.startswith(title_start) and descends(pid)]


def wait_for_workers(process: "subprocess.Popen[bytes]", journal: Path) -> None:
    """Wait until two rows are there and workers run."""
    end = time.monotonic() + DEADLINE_S
    while not journal.is_file() or journal.read_bytes().count(b"\n") < 3 or not workers_of(process.pid):
        assert process.poll() is None, "the search ended before a worker could be caught"
        assert time.monotonic() < end
        time.sleep(0.01)


def killed_worker(process: "subprocess.Popen[bytes]", journal: Path) -> None:
    """Kill one worker as soon as two rows are there."""
    wait_for_workers(process, journal)
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


def ended(process: "subprocess.Popen[bytes]", number: int, group: bool) -> str:
    """What a command says that is told to end by a signal, alone or as by Ctrl-C; no process of it is left."""
    below = workers_of(process.pid, "")
    os.killpg(process.pid, number) if group else process.send_signal(number)
    said = process.communicate()[1].decode()
    end = time.monotonic() + 30
    while left := set(below) & {pid for pid, _, _ in processes()}:
        assert time.monotonic() < end, f"{left} outlive the command"
        time.sleep(0.1)
    return said


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="finds the workers in /proc")
@pytest.mark.parametrize(("number", "group", "code"), [(signal.SIGTERM, False, 143), (signal.SIGINT, True, 130)])
def test_search_by_workers_that_is_told_to_end_leaves_in_a_line_and_goes_on(
    number: int, group: bool, code: int, home: Path
) -> None:
    pytest.importorskip("ray")
    change("search", window=2, budget=6)
    succeed("search", "--out", "one")
    command = [*SCRIPT, "search", "--workers", "2", "--out", "two"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)
    wait_for_workers(process, Path("two/journal.jsonl"))
    said = ended(process, number, group)
    assert process.returncode == code
    assert [line for line in said.splitlines() if "rror" in line or "***" in line] == [said.splitlines()[-1]]
    assert said.splitlines()[-1].endswith("; what was finished is kept")
    succeed("search", "--resume", "two")
    assert rows(Path("two")) == rows(Path("one"))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="finds the workers in /proc")
@pytest.mark.parametrize("what", ["gcs_server", "raylet", "ray::"])
def test_search_that_is_told_to_end_while_its_ray_starts_leaves_no_process(what: str, home: Path) -> None:
    pytest.importorskip("ray")
    process = subprocess.Popen([*SCRIPT, "search", "--workers", "2", "--out", "two"], stderr=subprocess.PIPE)
    while not any(what in title for pid, _, title in processes() if pid in workers_of(process.pid, "")):
        assert process.poll() is None
        time.sleep(0.01)
    said = ended(process, signal.SIGTERM, group=False)
    assert (process.returncode, said) == (143, "error: told to end; what was finished is kept\n")
    assert not Path("two").exists()


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
