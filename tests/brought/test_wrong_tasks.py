"""A task that is wrong somewhere: one line that names the place, whatever is wrong."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import make_profile
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import nacdeploy
from nacdeploy.base import live
from nacdeploy.base.errors import UsageError
from nacdeploy.task import own

X, Y = torch.rand(12, 1, 4, 4), torch.arange(12) % 3


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).flatten(1))


class Rows(Dataset[Any]):
    """Samples that are spoilt at one place."""

    def __init__(self, spoil: Callable[[int], Any]) -> None:
        self.spoil = spoil

    def __len__(self) -> int:
        return 80

    def __getitem__(self, i: int) -> Any:
        return self.spoil(i)


class Endless:
    def __iter__(self) -> Any:
        return itertools.repeat((X, Y))


class Varying:
    def __iter__(self) -> Any:
        return iter([(torch.rand(4, 1, 4, 4), Y[:4])])


def late(value: Any, target: Any = 0) -> Rows:
    return Rows(lambda i: (value, target) if i == 70 else (X[0], 0))


def raising(*_: Any) -> Any:
    raise KeyError("no such thing")


GOOD: dict[str, Any] = {"train": (X[:4], Y[:4]), "validation": (X[4:8], Y[4:8]), "test": (X[8:], Y[8:])}
CASES: dict[str, tuple[dict[str, Any], str]] = {
    "no samples": ({"validation": TensorDataset(X[:0], Y[:0])}, "validation holds no sample"),
    "no batches": ({"validation": []}, "validation gives no batch"),
    "endless": ({"validation": Endless()}, "validation has more than 1 MiB or no end"),
    "gone after one pass": ({"validation": iter([(X, Y)])}, "gone after one pass"),
    "no data": ({"validation": 3}, "validation is int"),
    "not a number": ({"validation": late(X[0] * torch.nan)}, "validation: batch 2: input 'images' holds values"),
    "another type later": ({"validation": Rows(lambda i: (X[0].double() if i > 63 else X[0], 0))}, "batch 2: input 'i"),
    "another shape later": (
        {"validation": Rows(lambda i: (X[0, :, : 4 - i // 64], 0))},
        "shape (1, 3, 4), the first",
    ),
    "shapes within a batch": ({"validation": Rows(lambda i: (X[0, :, : 4 - i % 2], 0))}, "validation: sample 0 fails"),
    "a class without an output": (
        {"validation": late(X[0], 7)},
        "validation: label 7 is none of the net",
    ),
    "a class below zero in training": ({"train": late(X[0], -1)}, "train: label -1 is none of the network's 3 outputs"),
    "targets of another length": ({"validation": [(X[:4], Y[:3])]}, "4 inputs and 3 targets"),
    "order that changes": ({"validation": Varying()}, "begins with another batch the second time"),
    "one object for two splits": ({"test": GOOD["validation"]}, "validation and test are the same object"),
    "data that raise": ({"test": Rows(raising)}, "test: sample 0 fails: KeyError"),
    "another network": ({"model": nn.Linear(3, 2)}, "the network fails on a batch of validation"),
    "no metric for such targets": ({"validation": (X[4:8], X[4:8])}, "Task(metric=) is missing"),
    "no labels": ({"validation": [X[:4]]}, "Task(metric=) is missing"),
    "class names of another number": ({"class_names": ("a", "b")}, "class_names=) has 2 names, and the network 3"),
    "deployable that raises": ({"deployable": raising}, "Task(deployable=) fails: KeyError"),
    "deployable of no module": ({"deployable": lambda model: 3}, "Task(deployable=) returns int"),
    "unpack of something else": ({"unpack": lambda batch: 3}, "validation: sample 0: unpack returns int"),
}


def opened(**given: Any) -> Any:
    parts = {"model": Net(), **GOOD, **given}
    profile = make_profile(images={"in_memory_mib": 1})
    return own.opened(live.register(nacdeploy.Task(**parts)), profile)


@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong_with_a_task_is_one_line_with_its_place(name: str) -> None:
    given, said = CASES[name]
    with pytest.raises(UsageError) as caught:
        opened(**given)
    assert said in str(caught.value) and "\n" not in str(caught.value)


METRICS: dict[str, tuple[Any, str]] = {
    "not a number": (lambda found, wanted: float("nan"), "metric 'lambda' gives nan"),
    "many numbers": (lambda found, wanted: found, "gives a tensor of shape (4, 3); needed: one number"),
    "several by name": (lambda found, wanted: {"a": 1.0}, "gives several numbers (a); pick one: Measure(..., key='a')"),
    "text": (lambda found, wanted: "good", "gives str; needed: one number"),
    "an error": (raising, "metric 'raising' fails: KeyError"),
}


@pytest.mark.parametrize("name", METRICS)
def test_metric_that_gives_no_number_is_refused(name: str) -> None:
    function, said = METRICS[name]
    task = opened(metric=function)
    with pytest.raises(UsageError) as caught:
        task.metric.score(torch.rand(4, 3), task.data.validation.labels)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (lambda found, wanted: found, "Task(loss=) returns a tensor of shape (4, 3)"),
        (lambda found, wanted: 0.5, "Task(loss=) returns float"),
        (raising, "Task(loss=) fails: KeyError"),
    ],
)
def test_loss_that_is_no_scalar_is_refused(loss: Any, said: str) -> None:
    task = opened(loss=loss)
    with pytest.raises(UsageError) as caught:
        task.metric.loss(torch.rand(4, 3), task.data.validation.labels)
    assert said in str(caught.value)


def test_metric_that_reads_the_test_data_is_refused_and_leaves_them_readable() -> None:
    test = DataLoader(TensorDataset(X[8:], Y[8:]), batch_size=2)

    def peeking(found: Any, wanted: Any) -> float:
        return float(len([*test]))

    task = opened(metric=peeking, test=test)
    with pytest.raises(UsageError, match="metric 'peeking': it reads the test data"):
        task.metric.score(torch.rand(4, 3), task.data.validation.labels)
    assert len([*test]) == 2 and type(test) is DataLoader


def test_metric_in_the_wrong_direction_is_found_out(tmp_path: Any) -> None:
    error = nacdeploy.Measure(lambda found, wanted: (found - wanted).abs().mean(), "error")
    net = nn.Sequential(nn.Conv2d(1, 16, 1), nn.Flatten(), nn.Linear(256, 1)).eval()
    with torch.no_grad():
        target = net(X)
    task = nacdeploy.Task(net, train=(X, target), validation=(X[:6], target[:6]), metric=error)
    with pytest.raises(UsageError, match=r"worse than answers that are zero everywhere.*lower is better"):
        nacdeploy.transfer(strategy="Q", task=task, runs=tmp_path / "runs", wandb=False)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"model": 3}, "takes a torch.nn.Module, not int"),
        ({"validation": None}, "Task(validation=) is missing"),
        ({"train": None}, "Task(train=) or Task(calibration=) is missing"),
        ({"loss": 3}, "Task(loss=) takes a function, not int"),
        ({"metric": 3}, "Task(metric=) takes a Measure"),
        ({"metric": nacdeploy.Measure(len, "No Name")}, "a name has small letters"),
    ],
)
def test_task_of_wrong_parts_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        opened(**given)
    assert said in str(caught.value)
