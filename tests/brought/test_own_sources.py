"""Sources: the same samples from whatever a user has."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, SubsetRandomSampler, TensorDataset

from nacdeploy.base.errors import UsageError
from nacdeploy.brought import reading
from nacdeploy.brought.sources import by_convention, source
from nacdeploy.models import ports

X, Y = torch.rand(10, 1, 4, 4), torch.arange(10) % 3
MODEL = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).eval()
PORTS = ports.found(MODEL, X[:2], ["input"])


class Rows(Dataset[dict[str, torch.Tensor]]):
    def __len__(self) -> int:
        return 10

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        return {"input": X[i], "labels": Y[i]}


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return zip(X, Y, strict=True)


PAIRS = TensorDataset(X, Y)
KINDS: dict[str, Callable[[], Any]] = {
    "loader": lambda: DataLoader(PAIRS, batch_size=3),
    "shuffled loader": lambda: DataLoader(PAIRS, batch_size=3, shuffle=True),
    "loader with workers of a stream": lambda: DataLoader(Stream(), batch_size=4),
    "data set": lambda: PAIRS,
    "data set of rows by name": Rows,
    "subset": lambda: Subset(PAIRS, range(10)),
    "stream": Stream,
    "tensors": lambda: (X, Y),
    "arrays": lambda: (X.numpy(), Y.numpy()),
    "batches": lambda: [(X[:6], Y[:6]), (X[6:], Y[6:])],
    "function": lambda: lambda: DataLoader(PAIRS, batch_size=5),
}


def read(given: Any, limit_mib: int = 64) -> Any:
    return reading.read(source("validation", given, by_convention(["input"])), PORTS, limit_mib)


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_data_gives_the_same_samples_in_order(name: str) -> None:
    found = read(KINDS[name]())
    assert torch.equal(found.whole(), X) and torch.equal(found.labels.batch(), Y)


def test_sampler_decides_which_samples_belong_to_a_split() -> None:
    found = read(DataLoader(PAIRS, batch_size=3, sampler=SubsetRandomSampler([7, 2, 5])))
    assert torch.equal(found.whole(), X[[2, 5, 7]])


def test_data_larger_than_memory_are_read_by_index_and_have_the_same_content_each_time() -> None:
    big = read(PAIRS, limit_mib=0)
    assert isinstance(big.images, reading.Drawn)
    assert torch.equal(big.subset(torch.tensor([8, 1])).whole(), X[[8, 1]])
    assert [*big.content()] == [*read(PAIRS, limit_mib=0).content()]
    with pytest.raises(UsageError, match="no order to read it by"):
        read(Stream(), limit_mib=0)


def test_epochs_walk_through_the_users_own_loader_and_follow_from_the_seed() -> None:
    loader = source("train", DataLoader(PAIRS, batch_size=4, shuffle=True), by_convention(["input"]))
    epochs = reading.Epochs(loader, PORTS, 3)
    first, again, other = ([x for x, _ in epochs(99, seed, 1)] for seed in (0, 0, 1))
    assert [len(x) for x in first] == [4, 4, 2], "the loader's batch size, not the recipe's"
    assert torch.equal(torch.cat(first), torch.cat(again)) and not torch.equal(torch.cat(first), torch.cat(other))


def test_data_set_without_a_loader_is_shuffled_in_batches_of_the_recipe() -> None:
    epochs = reading.Epochs(source("train", PAIRS, by_convention(["input"])), PORTS, 3)
    one, two = ([x for x, _ in epochs(3, 0, epoch)] for epoch in (1, 2))
    assert [len(x) for x in one] == [3, 3, 4], "batch norm needs two"
    assert sorted(x.sum().item() for x in torch.cat(one)) == pytest.approx(sorted(x.sum().item() for x in X))
    assert not torch.equal(torch.cat(one), torch.cat(two))


def test_reading_leaves_the_generators_of_the_user_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    [*reading.Epochs(source("train", PAIRS, by_convention(["input"])), PORTS, 3)(3, 0, 1)]
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize(
    ("batch", "inputs", "targets"),
    [
        ((1, 2), 1, 2),
        ([1, 2, 3], (1, 2), 3),
        ({"input": 1, "labels": 2}, {"input": 1}, 2),
        ({"input": 1, "boxes": 2, "area": 3}, {"input": 1}, {"boxes": 2, "area": 3}),
        ([1], 1, None),
        (1, 1, None),
    ],
)
def test_batches_are_taken_apart_as_trainers_do(batch: Any, inputs: Any, targets: Any) -> None:
    assert by_convention(["input", "labels"])(batch) == (inputs, targets)


def test_inputs_without_names_stand_for_a_named_one_and_for_no_more() -> None:
    one = ports.found(MODEL, {"input": X[:2]}, ["input"])
    assert torch.equal(reading.packed(X, one, "train"), X)

    class Sum(nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return (a - b).flatten(1)

    named = ports.found(Sum(), {"a": X, "b": X}, ["a", "b"])
    with pytest.raises(UsageError, match=r"^train gives its inputs without names; the first .* had a, b$"):
        reading.packed((X, X), named, "train")
    by_place = ports.found(Sum(), (X, 2 * X), ["a", "b"])
    wanted = reading.packed((X, 2 * X), by_place, "train")
    assert torch.equal(reading.packed({"b": 2 * X, "a": X}, by_place, "train"), wanted)
    with pytest.raises(UsageError, match="train has the inputs b, c; the first batch of validation had a, b"):
        reading.packed({"b": X, "c": X}, by_place, "train")
