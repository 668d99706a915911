"""Commands that are killed in the middle of a training: they go on from its last epoch to the same end."""

import contextlib
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import change, run, succeed

from nacdeploy.task import training
from nacdeploy.task.loop import unfinished

VALUES = "checkpoint/model.safetensors"


@pytest.fixture
def at_each_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unfinished, "EVERY_S", 0.0)
    monkeypatch.setattr(unfinished, "_SHARE", float("inf"))


@pytest.fixture
def killed_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], list[int]]:
    """Count the epochs that are trained from now on, and end the command in one of them as Ctrl-C would."""
    epoch = training._epoch

    def set_to(number: int | None) -> list[int]:
        seen: list[int] = []

        def counted(*given: Any) -> Any:
            if len(seen) == number:
                raise KeyboardInterrupt
            seen.append(len(seen))
            return epoch(*given)

        monkeypatch.setattr(training, "_epoch", counted)
        return seen

    return set_to


COMMANDS = {
    "transfer": ("transfer", "--strategy", "PFQF(epochs=3)"),
    "with post-finetune": ("transfer", "--strategy", "Q", "--post-finetune", "4"),
    "finetune": ("finetune", "--from", "runs/transfer-QEF-1", "--epochs", "4"),
    "train": ("train", "--epochs", "4"),
    "search": ("search", "--seed", "3"),
}


@pytest.mark.parametrize(("name", "n_before"), [*((name, 2) for name in COMMANDS), ("transfer", 5), ("search", 4)])
def test_command_killed_in_a_training_goes_on_from_its_last_epoch(
    name: str, n_before: int, home: Path, at_each_epoch: None, killed_at: Callable[[int | None], list[int]]
) -> None:
    change("finetune", epochs=3)
    change("search", alphabet="FP", searcher="random", max_trainings=2)
    change("search.rules", finetune_due=0.0)
    shutil.copytree(home, home / "other")
    command, values = COMMANDS[name], VALUES if name != "train" else Path(VALUES).name
    whole = killed_at(None)
    with contextlib.chdir("other"):
        succeed(*command, "--out", "one")
    killed_at(n_before)
    assert run(*command, "--out", "one").code != 0
    left = [*Path("runs/unfinished").glob("*"), *Path("one").rglob("unfinished-*")]
    assert left and not Path("one/result.json").exists()
    rest = killed_at(None)
    goes_on = ("search", "--resume", "one") if Path("one/run.json").is_file() else (*command, "--out", "one")
    said = succeed(*goes_on).err
    assert len(rest) == len(whole) - n_before
    assert "a training that was interrupted goes on behind epoch" in said
    assert Path("one", values).read_bytes() == Path("other/one", values).read_bytes()
    assert not Path("runs/unfinished").exists() and not [*Path("one").rglob("unfinished-*")]


def _transferred(seconds: float | None) -> bool:
    """Transfer in a process that is killed after some seconds, and keeps each epoch; whether it got to its result."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            unfinished.EVERY_S, unfinished._SHARE = 0.0, float("inf")
            done = run(*COMMANDS["transfer"], "--out", "one")
            Path("said").write_text(done.err)
            code = done.code
        finally:
            os._exit(code)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL), Path("said").read_text()
    return Path("one/result.json").exists()  # whole, even if killed while the report is drawn


@pytest.mark.slow
def test_transfer_killed_at_ten_random_moments_ends_with_the_same_bytes(home: Path) -> None:
    change("finetune", epochs=6, batch_size=10)
    start = time.monotonic()
    assert _transferred(None)
    takes, whole = time.monotonic() - start, Path("one", VALUES).read_bytes()
    draw, n_kills = random.Random(0), 0
    while n_kills < 10:
        shutil.rmtree("one", ignore_errors=True)
        ended = _transferred(draw.uniform(0, takes))
        while not ended:
            n_kills += 1
            ended = _transferred(draw.uniform(takes / 4, 2 * takes))
        assert Path("one", VALUES).read_bytes() == whole
    shutil.rmtree("one")
    assert _transferred(None) and not Path("runs/unfinished").exists()
