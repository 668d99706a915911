"""The memory of a search: what was made is made once, by whoever; what is damaged or gone is made again."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import torch
import zstandard
from conftest import follow, make_profile

from nacdeploy.network.network import content
from nacdeploy.profile import Profile
from nacdeploy.strategies.baseline import initial_state, plain_network
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.memory.cache import DiskMemory
from nacdeploy.strategies.memory.difference import digest
from nacdeploy.strategies.memory.entries import entry_name
from nacdeploy.strategies.state import CompressionState
from nacdeploy.strategies.steps.advance import Trained, advance
from nacdeploy.task import Task

WORDS = ("PPF", "QF", "E", "QPE")


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def reopen(tmp_path: Path, task: Task, profile: Profile, baseline: CompressionState, said: list[str]) -> Any:
    """Open the memory anew, as another process does; by default in a folder of the test."""

    def opened(location: Path | str = tmp_path, **tables: Any) -> DiskMemory:
        return DiskMemory.open(location, task, make_profile(**tables) if tables else profile, baseline, said.append)

    return opened


@pytest.fixture
def memory(reopen: Any) -> DiskMemory:
    return reopen()


@pytest.fixture(scope="module")
def states(baseline: CompressionState, task: Task, profile: Profile) -> dict[str, CompressionState]:
    """The states along some chains, by word."""
    found = {"": baseline}
    for word in WORDS:
        for n in range(1, len(word) + 1):
            if word[:n] not in found:
                found[word[:n]] = follow(found[word[: n - 1]], word[n - 1], task, profile)
    return found


def remember_all(memory: DiskMemory, states: dict[str, CompressionState]) -> None:
    for word, state in states.items():
        if word:
            memory.remember(state)


def same_bits(a: CompressionState, b: CompressionState) -> bool:
    first, second = content(a.network), content(b.network)
    return first.keys() == second.keys() and all(
        (first[name].dtype, digest(first[name])) == (second[name].dtype, digest(second[name])) for name in first
    )


def trained(n_epochs: int = 3) -> Trained:
    return Trained({"weight": torch.arange(6.0).reshape(2, 3), "count": torch.tensor(4)}, n_epochs)


def n_bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def file(directory: Path, pattern: str) -> Path:
    (found,) = directory.glob(pattern)
    return found


def test_recalled_states_equal_the_remembered_ones_bit_by_bit(
    memory: DiskMemory, states: dict[str, CompressionState], reopen: Any, said: list[str]
) -> None:
    remember_all(memory, states)
    for word, state in states.items():
        if word:
            recalled = reopen().recall(word, state.baseline)
            assert recalled is not None
            assert (recalled.key, recalled.steps, recalled.metrics) == (state.key, state.steps, state.metrics)
            assert same_bits(recalled, state)
    assert said == []


@pytest.mark.parametrize("word", ["QPE", "PPF"])
def test_state_remembered_alone_is_recalled(
    word: str, memory: DiskMemory, states: dict[str, CompressionState], reopen: Any
) -> None:
    memory.remember(states[word])
    recalled = reopen().recall(word, states[word].baseline)
    assert recalled is not None
    assert same_bits(recalled, states[word])


def test_recalled_state_continues_as_the_remembered_one(
    memory: DiskMemory, states: dict[str, CompressionState], task: Task, profile: Profile
) -> None:
    memory.remember(states["QPE"])
    recalled = memory.recall("QPE", states["QPE"].baseline)
    assert recalled is not None
    assert follow(recalled, "PF", task, profile).key == follow(states["QPE"], "PF", task, profile).key


def test_unknown_chain_is_not_recalled(memory: DiskMemory, states: dict[str, CompressionState]) -> None:
    memory.remember(states["QPE"])
    assert memory.recall("QPEF", states["QPE"].baseline) is None


def test_memory_at_a_url_is_shared(states: dict[str, CompressionState], reopen: Any) -> None:
    url = f"memory://{uuid4()}/cache"
    remember_all(reopen(url), states)
    memory = reopen(url)
    for word, state in states.items():
        assert not word or same_bits(memory.recall(word, state.baseline), state)
    assert memory.location == url


@pytest.mark.parametrize("target", ["trt-rtx", "ort"])
def test_state_on_the_grid_that_the_profile_names_is_recalled(target: str, task: Task, tmp_path: Path) -> None:
    profile = make_profile(target=target, quantize={"grid": "ort-8bit"})
    baseline = initial_state(plain_network(task, profile), task)
    memory = DiskMemory.open(tmp_path, task, profile, baseline)
    memory.remember(follow(baseline, "Q", task, profile))
    assert memory.recall("Q", baseline.metrics) is not None


@pytest.mark.parametrize(
    ("tables", "is_shared"),
    [
        ({"search": {"budget": 3, "cache_gib": 2}}, True),
        ({"name": "other", "bench": {"threads": 2}, "export": {"opset": 21}}, True),
        ({"prune": {"ratio": 0.2}}, False),
        ({"quantize": {"percentile": 99.0}}, False),
        ({"seed": 1}, False),
        ({"finetune": {"epochs": 1}}, False),
    ],
    ids=str,
)
def test_chain_is_shared_between_runs_where_no_setting_of_its_letters_differs(
    tables: dict[str, Any], is_shared: bool, memory: DiskMemory, states: dict[str, CompressionState], reopen: Any
) -> None:
    memory.remember(states["PP"])
    assert (reopen(**tables).recall("PP", states["PP"].baseline) is not None) == is_shared


def test_chain_of_another_baseline_is_not_recalled(
    memory: DiskMemory, states: dict[str, CompressionState], task: Task, profile: Profile, tmp_path: Path
) -> None:
    memory.remember(states["PP"])
    other = initial_state(plain_network(task, make_profile(seed=7)), task)
    assert DiskMemory.open(tmp_path, task, profile, other).recall("PP", other.metrics) is None


def test_cache_takes_little_more_than_its_distinct_weights(
    memory: DiskMemory, baseline: CompressionState, task: Task, profile: Profile, tmp_path: Path
) -> None:
    weights = {digest(tensor): tensor.nbytes for tensor in content(baseline.network).values()}
    for word in WORDS:
        state = baseline
        for link in Chain.parse(word):
            state = advance(state, link, task, profile, memory)
            memory.remember(state)
            weights |= {digest(tensor): tensor.nbytes for tensor in content(state.network).values()}
            assert n_bytes(tmp_path) <= 1.25 * sum(weights.values())


def test_workers_that_evaluate_siblings_hold_the_common_weights_once(
    reopen: Any, states: dict[str, CompressionState], tmp_path: Path
) -> None:
    reopen().remember(states["Q"])
    before = n_bytes(tmp_path)
    reopen().remember(states["P"])
    reopen().remember(states["PP"])
    assert n_bytes(tmp_path) - before < 0.2 * sum(t.nbytes for t in content(states["PP"].network).values())


@pytest.mark.parametrize("tensor", [torch.tensor(float("nan")), torch.zeros(0, 3), torch.zeros(9, dtype=torch.bool)])
def test_odd_tensors_are_restored(tensor: torch.Tensor, memory: DiskMemory, reopen: Any) -> None:
    memory.training("k", lambda: Trained({"odd": tensor, "same": tensor}, 1))
    again = reopen().training("k", trained).values
    assert digest(again["odd"]) == digest(again["same"]) == digest(tensor)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) * 2 // 3] ^= 1
    path.write_bytes(data)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def other_entry(path: Path) -> None:
    """A well-formed entry of another key."""
    path.write_bytes(next(p for p in path.parent.glob("*.json.zst") if p != path).read_bytes())


def rewritten(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        data = json.loads(zstandard.ZstdDecompressor().decompress(path.read_bytes()))
        path.write_bytes(zstandard.ZstdCompressor().compress(json.dumps(change(data)).encode()))

    return write


DAMAGE = {
    "cut short": cut_short,
    "flipped": flipped,
    "emptied": emptied,
    "other entry": other_entry,
    "newer schema": rewritten(lambda entry: {**entry, "schema": 99}),
    "no schema": rewritten(lambda entry: {}),
    "list": rewritten(lambda entry: []),
    "changed": rewritten(lambda entry: {**entry, "data": {**entry["data"], "state_key": "0" * 64}}),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("kind", ["chain", "state"])
def test_damaged_entry_is_said_dropped_and_written_again(
    kind: str,
    damage: Callable[[Path], None],
    memory: DiskMemory,
    states: dict[str, CompressionState],
    reopen: Any,
    said: list[str],
    tmp_path: Path,
) -> None:
    memory.remember(states["QPE"])
    entry = file(tmp_path, f"{kind}-*")
    damage(entry)
    assert reopen().recall("QPE", states["QPE"].baseline) is None
    assert len(said) == 1
    assert entry.name in said[0]
    assert not entry.exists()
    reopen().remember(states["QPE"])
    assert same_bits(reopen().recall("QPE", states["QPE"].baseline), states["QPE"])
    assert len(said) == 1


@pytest.mark.parametrize("damage", [flipped, Path.unlink], ids=lambda damage: damage.__name__)
def test_damaged_file_of_weights_costs_the_states_that_need_it_and_no_other(
    damage: Callable[[Path], None],
    memory: DiskMemory,
    states: dict[str, CompressionState],
    reopen: Any,
    said: list[str],
    tmp_path: Path,
) -> None:
    states = {word: states[word] for word in ("", "P", "PP", "PPF", "Q")}
    remember_all(memory, states)
    for path in sorted(tmp_path.glob("*.safetensors")):
        damage(path)
        fresh = reopen()
        recalled = {word: fresh.recall(word, states[word].baseline) for word in states if word}
        assert all(state is None or same_bits(state, states[word]) for word, state in recalled.items())
        assert any(state is None for state in recalled.values())
        assert said
        fresh = reopen()
        remember_all(fresh, states)
        said.clear()
        assert all(same_bits(reopen().recall(word, states[word].baseline), states[word]) for word in states if word)
        assert said == []


def test_weights_that_vanish_under_a_running_memory_are_written_again(
    memory: DiskMemory, states: dict[str, CompressionState], reopen: Any, tmp_path: Path
) -> None:
    memory.remember(states["P"])
    for path in tmp_path.iterdir():
        path.unlink()
    remember_all(memory, states)
    assert all(same_bits(reopen().recall(word, states[word].baseline), states[word]) for word in states if word)


@pytest.mark.parametrize("budget_bytes", [100, 90_000])
def test_small_budget_changes_no_state(
    budget_bytes: int,
    states: dict[str, CompressionState],
    baseline: CompressionState,
    task: Task,
    profile: Profile,
    reopen: Any,
    tmp_path: Path,
) -> None:
    memory = reopen(search={"cache_gib": budget_bytes / 2**30})
    for _ in range(2):
        for word in ("PPF", "QP"):
            state = baseline
            for n, link in enumerate(Chain.parse(word), start=1):
                state = memory.recall(word[:n], baseline.metrics) or advance(state, link, task, profile, memory)
                memory.remember(state)
                assert n_bytes(tmp_path) <= budget_bytes
                assert same_bits(state, states[word[:n]])


def test_nothing_is_evicted_before_what_needs_it(
    states: dict[str, CompressionState], reopen: Any, tmp_path: Path, said: list[str]
) -> None:
    """Whatever the budget cuts off: an entry that is left has all that it needs."""
    states = {word: states[word] for word in ("", "P", "PP", "PPF", "Q")}
    remember_all(reopen(), states)
    reopen().recall("PP", states["PP"].baseline)
    while any(tmp_path.iterdir()):
        path = min(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        path.unlink()
        kept = {path: path.stat() for path in tmp_path.iterdir()}
        there = reopen()
        for word in states:
            is_there = (tmp_path / entry_name("chain", there._chain_key(Chain.parse(word)))).exists()
            assert not is_there or there.recall(word, states[word].baseline) is not None
        for path, stat in kept.items():
            os.utime(path, ns=(stat.st_mtime_ns, stat.st_mtime_ns))
    assert said == []


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


@pytest.mark.parametrize("damage", [cut_short, flipped, emptied], ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("pattern", ["training-*", "tensors-*"])
def test_damaged_training_is_run_again(
    pattern: str, damage: Callable[[Path], None], memory: DiskMemory, tmp_path: Path, said: list[str]
) -> None:
    memory.training("k", lambda: trained(1))
    damage(file(tmp_path, pattern))
    assert memory.training("k", lambda: trained(2)).n_epochs == 2
    assert memory.training("k", lambda: trained(3)).n_epochs == 2
    assert len(said) == 1


def test_failed_training_is_not_remembered(memory: DiskMemory, tmp_path: Path) -> None:
    def failing() -> Trained:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        memory.training("k", failing)
    assert list(tmp_path.iterdir()) == []
    assert memory.training("k", trained).n_epochs == 3


def test_training_is_held_as_a_difference_to_its_start(
    memory: DiskMemory, states: dict[str, CompressionState], reopen: Any, tmp_path: Path
) -> None:
    memory.remember(states["PP"])
    before = n_bytes(tmp_path)
    start = content(states["PP"].network)
    moved = {name: t * 1.001 if t.is_floating_point() else t for name, t in start.items()}
    memory.training("k", lambda: Trained(moved, 1, start))
    assert n_bytes(tmp_path) - before < 0.8 * sum(tensor.nbytes for tensor in moved.values())
    again = reopen().training("k", trained).values
    assert all(digest(again[name]) == digest(tensor) for name, tensor in moved.items())


def test_metrics_are_measured_once_and_again_when_damaged(
    memory: DiskMemory, states: dict[str, CompressionState], tmp_path: Path
) -> None:
    first, other = states["QPE"].metrics, replace(states["QPE"].metrics, score=0.125)
    assert memory.metrics("k", lambda: first) == first
    assert memory.metrics("k", lambda: other) == first
    flipped(file(tmp_path, "metrics-*"))
    assert memory.metrics("k", lambda: other) == other


def test_second_run_of_a_chain_trains_nothing(
    baseline: CompressionState, task: Task, profile: Profile, memory: DiskMemory, reopen: Any
) -> None:
    first = follow(baseline, "QFPF", task, profile, memory=memory)
    again = reopen()
    assert follow(baseline, "QFPF", task, profile, memory=again).key == first.key
    assert again.n_trainings == 0


WORKER = """
import sys
import torch
from conftest import follow, make_profile
from nacdeploy import task as tasks
from nacdeploy.strategies.baseline import initial_state, plain_network
from nacdeploy.strategies.memory.cache import DiskMemory
profile = make_profile(finetune={"epochs": 1})
task = tasks.make("resnet8", "digits", profile)
baseline = initial_state(plain_network(task, profile), task)
memory = DiskMemory.open(sys.argv[1], task, profile, baseline, lambda line: print(line, flush=True))
print("ready", flush=True)
sys.stdin.readline()
state = baseline
for letter in "PF":
    state = follow(state, letter, task, profile, memory=memory)
    memory.remember(state)
recalled = memory.recall("PF", baseline.metrics)
print(state.key, recalled.key)
"""


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[list[subprocess.Popen[str]]]:
    folder = Path(__file__).parents[2]
    command = [sys.executable, "-c", WORKER, str(tmp_path / "shared")]
    pipe = subprocess.PIPE
    started = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=folder) for _ in range(2)]
    yield started
    for worker in started:
        worker.kill()
        worker.communicate()


@pytest.mark.slow
def test_two_processes_that_make_the_same_states_at_once_agree(workers: list[subprocess.Popen[str]]) -> None:
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    outputs = [worker.communicate()[0] for worker in workers]
    assert outputs[0] == outputs[1]
    assert len(set(outputs[0].split())) == 1
