"""F(distill=...): what the network of the start teaches, and what its trainings are remembered by."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import follow, make_profile
from torch import Tensor

from nacdeploy.base.errors import RefusedError
from nacdeploy.data import ImageSet
from nacdeploy.profile import Profile
from nacdeploy.strategies.baseline import initial_state, plain_network
from nacdeploy.strategies.memory.cache import DiskMemory
from nacdeploy.strategies.operators.finetune.settings import FinetuneTable
from nacdeploy.strategies.search.alphabet import parsed
from nacdeploy.strategies.state import CompressionState, Metrics
from nacdeploy.strategies.steps import checkpoint
from nacdeploy.strategies.steps.advance import NoMemory, Trained
from nacdeploy.task import Task
from nacdeploy.task import evaluate as evaluation

STRONG = "P(ratio=0.5)"
Labels = Callable[[ImageSet], Tensor]


class Noted(NoMemory):
    """A memory that notes the keys of trainings."""

    def __init__(self) -> None:
        self.keys: list[str] = []

    def training(self, key: str, make: Callable[[], Trained]) -> Trained:
        self.keys.append(key)
        return make()


def keys(state: CompressionState, word: str, task: Task, profile: Profile) -> list[str]:
    memory = Noted()
    follow(state, word, task, profile, memory=memory)
    return memory.keys


def unread(images: ImageSet) -> Tensor:
    raise AssertionError("a label was read")


def mislabelled(task: Task, labels: Labels | None = None) -> Task:
    """The task with wrong labels on its training images, or others."""
    train = ImageSet(task.data.train.images, labels or (task.data.train.labels + 3) % 10)
    data = replace(task.data, train=train)
    data.__dict__["fingerprint"] = task.data.fingerprint
    return replace(task, data=data)


def distance(state: CompressionState, teacher: CompressionState, task: Task) -> float:
    """The mean squared distance of the outputs of two networks on validation."""
    ours, theirs = (evaluation.predict(s.network, task.data, task.data.validation) for s in (state, teacher))
    return float((ours - theirs).square().mean())


@pytest.fixture(scope="module")
def pruned(baseline: CompressionState, task: Task) -> CompressionState:
    return follow(baseline, STRONG, task, make_profile())


@pytest.mark.parametrize("augment", ["none", "shift"])
@pytest.mark.parametrize("word", ["F", "QF"])
def test_teacher_alone_trains_without_any_label(
    word: str, augment: str, task: Task, baseline: CompressionState
) -> None:
    profile, seen = make_profile(finetune={"distill": 1.0}), replace(task, data=replace(task.data, augment=augment))
    start = follow(baseline, STRONG, task, profile)
    state, wrong, blind = (
        follow(start, word, each, profile) for each in (seen, mislabelled(seen), mislabelled(seen, unread))
    )
    assert state.steps[-1].n_epochs > 0
    assert state.key == wrong.key == blind.key


def test_heads_learn_from_the_end_of_their_network(task: Task, baseline: CompressionState) -> None:
    exits = follow(baseline, "E", task, make_profile())
    taught = follow(exits, "F(distill=1)", task, make_profile())
    assert taught.key == follow(exits, "F(distill=1)", mislabelled(task, unread), make_profile()).key
    assert taught.key != follow(exits, "F", task, make_profile()).key


def test_teacher_leads_to_its_answers(task: Task, baseline: CompressionState, pruned: CompressionState) -> None:
    profile = make_profile()
    plain, taught = (follow(pruned, word, task, profile) for word in ("F(epochs=4)", "F(epochs=4,distill=1)"))
    assert distance(taught, baseline, task) < distance(plain, baseline, task) < distance(pruned, baseline, task)
    assert taught.metrics.score > pruned.metrics.score


def test_images_are_augmented_before_the_teacher_sees_them(task: Task, pruned: CompressionState) -> None:
    shifted = replace(task, data=replace(task.data, augment="shift"))
    profile = make_profile(finetune={"epochs": 8, "early_stop_patience": None})
    still, moved = (follow(pruned, "F(distill=1)", each, profile) for each in (task, shifted))
    assert moved.metrics.score > pruned.metrics.score
    assert moved.key != still.key


def test_defaults_change_no_record_and_no_key(task: Task, baseline: CompressionState) -> None:
    assert not [key for key in FinetuneTable().model_dump() if "distill" in key]
    assert not [key for key in make_profile().model_dump(mode="json")["finetune"] if "distill" in key]
    profile = make_profile()
    assert keys(baseline, "PF", task, profile) == keys(baseline, "PF(distill=0)", task, profile)
    one, other = (follow(baseline, word, task, profile) for word in ("PF", "PF(distill=0)"))
    assert one.key == other.key


def test_settings_that_say_something_are_written() -> None:
    for said in ({"distill": 0.5, "distill_temperature": 4.0}, {"distill_temperature": 4.0}, {"distill": 0.5}):
        table = make_profile(finetune=said).of(FinetuneTable)
        assert FinetuneTable.model_validate(table.model_dump(mode="json")) == table
        assert "distill_temperature" in table.model_dump()


def test_key_depends_on_weight_temperature_and_teacher(task: Task, baseline: CompressionState) -> None:
    profile = make_profile(finetune={"epochs": 0})
    words = ("F", "F(distill=0.5)", "F(distill=1)", "F(distill=0.5,distill_temperature=4)")
    found = [keys(baseline, word, task, profile)[0] for word in words]
    other = replace(baseline, origin=plain_network(task, make_profile(seed=7)))
    found += [keys(other, "F(distill=0.5)", task, profile)[0]]
    assert len({*found}) == 5
    assert keys(other, "F", task, profile) == found[:1]  # who does not teach does not count


def test_teacher_is_the_network_of_the_start_all_along(task: Task, baseline: CompressionState) -> None:
    state = follow(baseline, "PQ", task, make_profile())
    assert state.origin is baseline.network
    assert baseline.origin is baseline.network


def test_recalled_state_has_its_teacher(task: Task, baseline: CompressionState, tmp_path: Path) -> None:
    profile = make_profile()
    memory = DiskMemory.open(tmp_path, task, profile, baseline)
    state = follow(baseline, STRONG + "F(distill=0.5)", task, profile, memory=memory)
    memory.remember(state)
    fresh = DiskMemory.open(tmp_path, task, profile, baseline)
    recalled = fresh.recall(str(state.chain), baseline.metrics)
    assert recalled is not None
    assert recalled.key == state.key
    after, same = (follow(s, "QF(distill=0.5)", task, profile, memory=fresh) for s in (recalled, state))
    assert after.key == same.key
    assert fresh.n_trainings == 1  # and the first is remembered


def test_checkpoint_replays_and_says_that_its_teacher_is_gone(
    task: Task, baseline: CompressionState, tmp_path: Path
) -> None:
    profile = make_profile()
    state = follow(baseline, "QF(distill=0.5)", task, profile)
    checkpoint.write(tmp_path, state, checkpoint.record_of(state, task, profile))
    loaded, record = checkpoint.load(tmp_path)
    assert loaded.key == state.key
    assert record.steps[-1]["decision"]["recipe"]["distill"] == 0.5
    with pytest.raises(RefusedError, match="not at hand; distill=0 would work"):
        follow(loaded, "F(distill=0.5)", task, profile)
    assert follow(loaded, "F", task, profile).chain.word == "QFF"


def test_alphabet_lists_shares_of_the_teacher() -> None:
    symbols = parsed("PF(distill=0.25|0.5)").symbols
    assert symbols == ("P", "F(distill=0.25)", "F(distill=0.5)")


def test_regression_distils_numbers(tmp_path: Path) -> None:
    from nacdeploy import task as tasks

    profile = make_profile(metric="mae")
    task = tasks.make("resnet8", "digits", profile)
    network = plain_network(task, profile)
    state = initial_state(network, task)
    taught = follow(state, "P(ratio=0.3)F(distill=1,epochs=1)", task, profile)
    assert isinstance(taught.metrics, Metrics)
    assert torch.isfinite(torch.tensor(taught.metrics.score))
