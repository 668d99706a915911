"""The memory on disk: what was made is made once; what is damaged is made again."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import follow

from nacdeploy.layers.network import content
from nacdeploy.profile import Profile
from nacdeploy.strategies.advance import Trained
from nacdeploy.strategies.cache import DiskMemory
from nacdeploy.strategies.state import CompressionState
from nacdeploy.task import Task


@pytest.fixture
def memory(tmp_path: Path, task: Task, profile: Profile) -> DiskMemory:
    return DiskMemory(tmp_path, task, profile)


@pytest.fixture(scope="module")
def state(baseline: CompressionState, task: Task, profile: Profile) -> CompressionState:
    return follow(baseline, "QPE", task, profile)


def trained(n_epochs: int = 3) -> Trained:
    return Trained({"weight": torch.arange(6.0).reshape(2, 3), "count": torch.tensor(4)}, n_epochs)


def test_recalled_state_equals_the_remembered_one(memory: DiskMemory, state: CompressionState) -> None:
    memory.remember(state)
    recalled = memory.recall("QPE", state.baseline)
    assert recalled is not None
    assert (recalled.key, recalled.steps, recalled.metrics) == (state.key, state.steps, state.metrics)
    values = content(recalled.network)
    assert all(torch.equal(tensor, values[name]) for name, tensor in content(state.network).items())


def test_recalled_state_continues_as_the_remembered_one(
    memory: DiskMemory, state: CompressionState, task: Task, profile: Profile
) -> None:
    memory.remember(state)
    recalled = memory.recall("QPE", state.baseline)
    assert recalled is not None
    assert follow(recalled, "PF", task, profile).key == follow(state, "PF", task, profile).key


def test_unknown_chain_is_not_recalled(memory: DiskMemory, state: CompressionState) -> None:
    memory.remember(state)
    assert memory.recall("QPEF", state.baseline) is None


def file(directory: Path, pattern: str) -> Path:
    (found,) = directory.glob(pattern)
    return found


def rewritten(path: Path, change: Any) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def other_link(link: str) -> Any:
    return lambda history: {**history, "steps": [{**history["steps"][0], "link": link}, *history["steps"][1:]]}


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: file(d, "state-*").write_bytes(file(d, "state-*").read_bytes()[:-100]),
        lambda d: file(d, "state-*").write_bytes(b""),
        lambda d: file(d, "state-*").unlink(),
        lambda d: file(d, "chain-*").write_text("{"),
        lambda d: file(d, "chain-*").write_text("[]"),
        lambda d: file(d, "chain-*").write_text("{}"),
        lambda d: rewritten(file(d, "chain-*"), lambda history: {**history, "steps": history["steps"][:1]}),
        lambda d: rewritten(file(d, "chain-*"), lambda history: {**history, "metrics": {}}),
        lambda d: rewritten(file(d, "chain-*"), other_link("X")),
        lambda d: rewritten(file(d, "chain-*"), other_link("")),
    ],
    ids=["cut", "empty", "gone", "half json", "list", "no keys", "step lost", "metrics", "letter", "no letter"],
)
def test_damaged_state_is_not_recalled(
    damage: Any, memory: DiskMemory, state: CompressionState, tmp_path: Path
) -> None:
    memory.remember(state)
    damage(tmp_path)
    assert memory.recall("QPE", state.baseline) is None


def test_flipped_bit_is_noticed(memory: DiskMemory, state: CompressionState, tmp_path: Path) -> None:
    memory.remember(state)
    path = file(tmp_path, "state-*")
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    assert memory.recall("QPE", state.baseline) is None


def test_training_is_run_once(memory: DiskMemory) -> None:
    runs: list[int] = []

    def run() -> Trained:
        runs.append(1)
        return trained()

    first, second = memory.training("k", run), memory.training("k", run)
    assert (len(runs), memory.n_trainings) == (1, 1)
    assert second.n_epochs == first.n_epochs == 3
    assert all(torch.equal(first.values[name], second.values[name]) for name in first.values)
    assert second.values["count"].dtype == first.values["count"].dtype


def test_other_key_is_another_training(memory: DiskMemory) -> None:
    memory.training("a", lambda: trained(1))
    assert memory.training("b", lambda: trained(2)).n_epochs == 2


@pytest.mark.parametrize("damage", [b"", b"garbage", None], ids=["empty", "garbage", "no metadata"])
def test_damaged_training_is_run_again(damage: bytes | None, memory: DiskMemory, tmp_path: Path) -> None:
    from safetensors.torch import save

    memory.training("k", lambda: trained(1))
    file(tmp_path, "training-k*").write_bytes(save({"a": torch.ones(1)}) if damage is None else damage)
    assert memory.training("k", lambda: trained(2)).n_epochs == 2
    assert memory.training("k", lambda: trained(3)).n_epochs == 2


def test_failed_training_is_not_remembered(memory: DiskMemory, tmp_path: Path) -> None:
    def failing() -> Trained:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        memory.training("k", failing)
    assert list(tmp_path.iterdir()) == []
    assert memory.training("k", trained).n_epochs == 3


def test_metrics_are_measured_once_and_again_when_damaged(
    memory: DiskMemory, state: CompressionState, tmp_path: Path
) -> None:
    assert memory.metrics("k", lambda: state.metrics) == state.metrics
    assert memory.metrics("k", lambda: state.baseline) == state.metrics
    file(tmp_path, "metrics-k*").write_text("{")
    assert memory.metrics("k", lambda: state.baseline) == state.baseline


def test_second_run_of_a_chain_trains_nothing(
    baseline: CompressionState, task: Task, profile: Profile, tmp_path: Path
) -> None:
    first = follow(baseline, "QFPF", task, profile, memory=DiskMemory(tmp_path, task, profile))
    memory = DiskMemory(tmp_path, task, profile)
    assert follow(baseline, "QFPF", task, profile, memory=memory).key == first.key
    assert memory.n_trainings == 0
