"""Law 15 of docs/architecture.md: the splits are disjoint, and nothing that decides, trains or settles sees test."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from conftest import follow
from torch import Tensor

from nacdeploy.data import ImageSet
from nacdeploy.profile import Profile
from nacdeploy.strategies.baseline import control, initial_state, plain_network, train_network
from nacdeploy.strategies.memory.cache import DiskMemory
from nacdeploy.strategies.state import CompressionState, measure
from nacdeploy.task import Task


class TestSplitTouchedError(Exception):
    """Somebody looked at the test split."""

    __test__ = False


@dataclass(frozen=True, eq=False)
class Poisoned(ImageSet):
    """A split whose images and labels cannot be touched."""

    def __getattribute__(self, name: str) -> object:
        if name in ("images", "labels", "subset", "__len__"):
            raise TestSplitTouchedError(name)
        return super().__getattribute__(name)

    def __len__(self) -> int:
        raise TestSplitTouchedError("len")


@pytest.fixture
def poisoned(task: Task) -> Task:
    """The task with an untouchable test split, its fingerprint (which covers all splits) taken before."""
    data = replace(task.data, test=Poisoned(task.data.test.images, task.data.test.labels))
    data.__dict__["fingerprint"] = task.data.fingerprint
    return replace(task, data=data)


def rows(images: Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


def test_poison_works(poisoned: Task, baseline: CompressionState) -> None:
    with pytest.raises(TestSplitTouchedError):
        measure(baseline.network, poisoned, "test")


@pytest.mark.parametrize("word", ["P", "Q", "E", "F", "PQEF", "EFQP"])
def test_letters_never_touch_test(
    word: str, poisoned: Task, task: Task, baseline: CompressionState, profile: Profile
) -> None:
    blind = follow(initial_state(baseline.network, poisoned), word, poisoned, profile)
    assert blind.key == follow(baseline, word, task, profile).key
    assert blind.metrics.split == "validation"


def test_training_and_control_never_touch_test(poisoned: Task, baseline: CompressionState, profile: Profile) -> None:
    network = plain_network(poisoned, profile)
    train_network(network, poisoned, profile.train.model_copy(update={"epochs": 1}), seed=0)
    assert control(baseline, 1, poisoned, profile).metrics.split == "validation"
    assert initial_state(network, poisoned).metrics.n_images == len(poisoned.data.validation)


def test_memory_never_touches_test(
    poisoned: Task, baseline: CompressionState, profile: Profile, tmp_path: Path
) -> None:
    memory = DiskMemory.open(tmp_path, poisoned, profile, baseline)
    state = follow(baseline, "QF", poisoned, profile, memory=memory)
    memory.remember(state)
    recalled = memory.recall("QF", baseline.metrics)
    assert recalled is not None
    assert recalled.key == state.key


def test_splits_share_no_image(task: Task) -> None:
    train, validation, test = (rows(split.images) for split in (task.data.train, task.data.validation, task.data.test))
    assert not train & validation
    assert not train & test
    assert not validation & test
