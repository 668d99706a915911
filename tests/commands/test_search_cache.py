"""The cache of searches: shared, small, damaged, full or out of reach, it changes time and never a result."""

import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from command_line import change, run, succeed
from test_fork import no_training
from test_resume import outcome, rows

SCRIPT = str(Path(sys.executable).with_name("nacdeploy"))


def results(folder: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The evaluations and the end of a search, whoever trained."""
    return rows(Path(folder)), outcome(Path(folder))


@pytest.fixture
def expected(home: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    return results("runs/search-1")


def test_second_search_on_a_shared_cache_trains_nothing_and_finds_the_same(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change("search", alphabet="FP", budget=6, searcher="random")
    succeed("search", "--cache", "shared", "--out", "one")
    no_training(monkeypatch)
    succeed("search", "--cache", "shared", "--out", "two")
    assert results("one") == results("two")
    assert any(row["trained"] for row in rows(Path("one")))
    assert not Path("one/cache").exists()


def test_cache_may_be_named_in_the_settings_file_and_in_the_profile(home: Path) -> None:
    Path("nacdeploy.toml").write_text('profile = "tiny.toml"\nwandb = false\nbudget = 1\ncache = "named"\n')
    succeed("search", "--out", "one")
    change("search", cache="in-profile", budget=1)
    succeed("search", "--out", "two")
    Path("nacdeploy.toml").write_text('profile = "tiny.toml"\nwandb = false\n')
    succeed("search", "--out", "three")
    assert all(any(Path(folder).iterdir()) for folder in ("named", "in-profile"))


def test_cache_may_be_a_url(home: Path, expected: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"memory://{uuid4()}"
    succeed("search", "--cache", url, "--out", "one")
    no_training(monkeypatch)
    succeed("search", "--cache", url, "--out", "two")
    assert results("two") == expected


@pytest.mark.parametrize("cache_gib", [1e-7, 1e-4])
def test_search_with_a_tiny_budget_for_its_cache_finds_the_same(cache_gib: float, home: Path, expected: Any) -> None:
    change("search", cache_gib=cache_gib)
    done = succeed("search", "--out", "small")
    assert results("small") == expected
    held = sum(path.stat().st_size for path in Path("small/cache").iterdir())
    assert held <= cache_gib * 2**30
    assert done.err.count("search.cache_gib") <= 1


def test_resumed_search_may_go_on_with_another_cache(home: Path) -> None:
    before = rows(Path("runs/search-1"))
    succeed("search", "--resume", "runs/search-1", "--budget", 5, "--cache", "elsewhere")
    assert rows(Path("runs/search-1"))[: len(before)] == before
    assert any(Path("elsewhere").iterdir())


@pytest.mark.parametrize("where", ["tiny.toml/below", "nosuch://bucket", "s3://bucket/x", "/proc/nothing"])
def test_cache_out_of_reach_is_one_line_before_the_work(where: str, home: Path) -> None:
    done = run("search", "--cache", where, "--out", "new")
    assert (done.code, done.out, len(done.err.splitlines())) == (1, "", 1)
    assert where in done.err
    assert "--cache" in done.err
    assert not Path("new").exists()


@contextmanager
def files_of_at_most(n_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_cache_that_cannot_be_written_is_said_once_and_the_search_goes_on(home: Path) -> None:
    """The limit lets the journal be written, but neither weights nor, at the end, the checkpoint."""
    with files_of_at_most(20_000):
        done = run("search", "--out", "new")
    assert done.err.count("going on without keeping what is new") == 1
    assert rows(Path("new")) == rows(Path("runs/search-1"))
    assert not list(Path("new").rglob("*.partial"))


@pytest.mark.slow
def test_searches_killed_at_any_time_leave_a_cache_that_works(home: Path, expected: Any) -> None:
    for n in range(2):
        command = [SCRIPT, "search", "--cache", "shared", "--out", f"killed-{n}"]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while not Path("shared").is_dir() or len(list(Path("shared").iterdir())) < 4 + 3 * n:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = succeed("search", "--cache", "shared", "--out", "last")
    assert results("last") == expected
    assert "of no use" not in done.err
