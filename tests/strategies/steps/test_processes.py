"""A training by several processes: the weights of one with as many batches to a step; no failure leaves anything."""

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_profile

from nacdeploy.base.errors import DivergedError, LostWorkerError, MissingExtraError, UsageError
from nacdeploy.network.network import content
from nacdeploy.strategies.baseline import initial_state, plain_network
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.state import CompressionState
from nacdeploy.strategies.steps import processes
from nacdeploy.strategies.steps.advance import advance
from nacdeploy.task import Task

ONE, TWO = {"accumulate": 2}, {"processes": 2}
RECIPE: dict[str, Any] = {"epochs": 4, "batch_size": 30, "learning_rate": 0.01, "early_stop_patience": None}


@pytest.fixture(autouse=True)
def two_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_n_cpus", lambda: 2)


def trained(state: CompressionState, word: str, task: Task, **keys: Any) -> CompressionState:
    profile = make_profile(finetune={**RECIPE, **keys})
    for link in Chain.parse(word):
        state = advance(state, link, task, profile)
    return state


@pytest.fixture(scope="module")
def start(task: Task) -> CompressionState:
    """An untrained network, which every training makes better."""
    network = plain_network(task, make_profile())
    return replace(initial_state(network, task), origin=network)


def largest_difference(one: CompressionState, other: CompressionState) -> float:
    mine, theirs = content(one.network), content(other.network)
    assert mine.keys() == theirs.keys()
    return max(float((mine[name].double() - theirs[name].double()).abs().max()) for name in mine)


def test_two_processes_train_as_one_that_accumulates_two_batches(start: CompressionState, task: Task) -> None:
    """20 steps in fixed order, 5 in each epoch, on ten batches of 30; norms' statistics are those of the settling."""
    one, two = trained(start, "F", task, **ONE), trained(start, "F", task, **TWO)
    assert two.steps[-1].n_epochs == 4 and two.metrics.score > start.metrics.score + 0.1
    assert largest_difference(two, one) < 1e-4 and largest_difference(two, start) > 1e-2


@pytest.mark.slow
def test_processes_train_what_is_compressed_with_a_teacher(start: CompressionState, task: Task) -> None:
    word = "PQF(epochs=2,distill=0.5)"
    one, two = trained(start, word, task, **ONE), trained(start, word, task, **TWO)
    assert largest_difference(two, one) < 1e-2 and two.network.rule == one.network.rule  # roundings may differ


def test_fewer_devices_than_asked_are_one_line(start: CompressionState, task: Task) -> None:
    with pytest.raises(UsageError, match=r"^processes = 3, and 2 CPUs are here; processes = 2 would work$"):
        trained(start, "F", task, processes=3)


def test_missing_package_is_one_line(start: CompressionState, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "import_problem", lambda name: f"{name} is not installed")
    with pytest.raises(MissingExtraError, match=r"several processes needs the package 'accelerate': pip install"):
        trained(start, "F", task, **TWO)


@pytest.mark.slow
def test_training_that_diverges_in_several_processes_is_one_line(start: CompressionState, task: Task) -> None:
    before = {name: value.clone() for name, value in content(start.network).items()}
    with pytest.raises(DivergedError, match="the loss is not a number"):
        trained(start, "F", task, **TWO, learning_rate=1e30)
    assert all(torch.equal(value, before[name]) for name, value in content(start.network).items())


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_process_that_is_killed_is_one_line_and_ends_the_others(
    rank: int, start: CompressionState, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched: list[Any] = []

    class Noted(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *given: Any, **named: Any) -> None:
            super().__init__(*given, **named)
            launched.append(self)

    def told(folder: Path, n_told: int, report: Any) -> int:
        if (folder / "epochs").is_file():  # they are at work
            launched[rank].kill()
        return n_told

    monkeypatch.setattr(subprocess, "Popen", Noted)
    monkeypatch.setattr(processes, "_told", told)
    with pytest.raises(LostWorkerError, match=rf"^process {rank + 1} of 2 that train died \(signal 9\); nothing else"):
        trained(start, "F", task, **TWO, epochs=500)
    assert len(launched) == 2 and all(each.poll() is not None for each in launched)


def test_loop_of_a_head_has_one_process() -> None:
    with pytest.raises(UsageError, match="processes is for whole networks"):
        make_profile(exits={"recipe": {"processes": 2}})
