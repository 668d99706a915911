"""A search that is killed at any point, or whose disk is full, goes on to the end that it would have had."""

import contextlib
import json
import os
import random
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import change, refused_line, rows, run, succeed

from nacdeploy.trials import evaluator

DEADLINE_S = 300


def outcome(folder: Path) -> dict[str, Any]:
    result = json.loads((folder / "result.json").read_text())
    return {key: result[key] for key in ("chain", "figures", "scores", "front", "n_evaluations", "n_trainings")}


def searched_for(seconds: float | None, folder: Path, log: Path) -> bool:
    """Search into `folder`, or go on there, in a process that is killed after some seconds; whether it got to the end.
    Every evaluation that it ends is noted in `log` before its row is written."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            _noted(log)
            arguments = ("--resume", folder) if (folder / "run.json").is_file() else ("--out", folder)
            with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stderr(nowhere):
                code = run("search", *arguments).code
        finally:
            os._exit(code)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL)
    return status == 0


def _noted(log: Path) -> None:
    evaluate = evaluator.Evaluator.__call__

    def noted(self: evaluator.Evaluator, chain: Any) -> Any:
        with log.open("a") as file:
            file.write(f"{chain}\n")
        return evaluate(self, chain)

    evaluator.Evaluator.__call__ = noted  # type: ignore[method-assign] # in the child only


def goes_on(n_kills: int, seed: int) -> None:
    """Search whole, and again with kills at random moments: the same rows and result, no journaled row run twice."""
    start = time.monotonic()
    assert searched_for(None, Path("whole"), Path("whole.log"))
    takes, draw = time.monotonic() - start, random.Random(seed)
    for number in range(n_kills):
        folder, log = Path(f"killed-{number}"), Path(f"killed-{number}.log")
        kept: list[str] = []
        ended = searched_for(draw.uniform(0, takes), folder, log)
        while not ended:
            kept = [row["chain"] for row in rows(folder)] if (folder / "journal.jsonl").is_file() else []
            log.write_text("")
            ended = searched_for(draw.uniform(takes / 4, 2 * takes), folder, log)
            assert not set(kept) & set(log.read_text().splitlines())
        assert rows(folder) == rows(Path("whole"))
        assert outcome(folder) == outcome(Path("whole"))


def test_search_killed_at_random_moments_goes_on_to_the_same_end(home: Path) -> None:
    change("search", window=2, budget=5)
    change("search.rules", finetune_due=0.0)
    goes_on(n_kills=3, seed=0)


@pytest.mark.slow
def test_search_killed_at_many_random_moments_goes_on_to_the_same_end(home: Path) -> None:
    change("search", window=3, budget=12, max_trainings=5)
    change("search.rules", finetune_due=0.0)
    goes_on(n_kills=25, seed=1)


def test_cache_that_is_ahead_of_the_journal_changes_no_count(home: Path) -> None:
    change("search", alphabet="FP", searcher="random", budget=20, max_trainings=2)
    change("search.rules", finetune_due=0.0)
    succeed("search", "--out", "whole")
    journal = Path("whole/journal.jsonl")
    whole, expected = journal.read_bytes(), outcome(Path("whole"))
    assert expected["n_trainings"] == 2
    for n_lines in range(1, whole.count(b"\n")):
        journal.write_bytes(b"".join(whole.splitlines(keepends=True)[:n_lines]))
        before = [row["trained"] for row in rows(Path("whole"))]
        succeed("search", "--resume", "whole")
        assert [row["trained"] for row in rows(Path("whole"))][: len(before)] == before
        assert len(journal.read_bytes().splitlines()) == len(whole.splitlines())
        assert outcome(Path("whole")) == expected


@contextlib.contextmanager
def files_of_at_most(n_bytes: int) -> Iterator[None]:
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, former[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)


@pytest.mark.parametrize("n_bytes", [100, 4_000, 7_000, 30_000])
def test_full_disk_is_one_line_and_the_search_goes_on_when_there_is_space(n_bytes: int, home: Path) -> None:
    with files_of_at_most(n_bytes):
        done = run("search", "--out", "new")
    assert done.code == 1
    assert "free some space" in refused_line(done)
    if Path("new/run.json").is_file():
        succeed("search", "--resume", "new")
    else:
        succeed("search", "--out", "new")
    assert rows(Path("new")) == rows(Path("runs/search-1"))


def test_two_searches_never_write_one_journal(home: Path) -> None:
    from nacdeploy.strategies.search.journal import Journal

    path = Path("runs/search-1/journal.jsonl")
    header = json.loads(path.read_text().splitlines()[0])
    with Journal.open(path, header["fingerprint"]):
        done = run("search", "--resume", "runs/search-1")
    assert done.code == 1
    assert "is being written by another search" in refused_line(done)
