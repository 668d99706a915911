"""Sources: the data of a user's task as batches, whatever they are: loaders, datasets, tensors, lists of batches.

A loader over a dataset with an order is read by that order and the loader's own `collate_fn`, so that shuffling does
not matter. Whatever can only be walked through is walked through.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, default_collate

from nacdeploy.base.errors import UsageError

BATCH = 64
MOST_BATCHES = 10**6  # of one pass, where a loader says no length
_LABELS = ("labels", "label", "targets", "target", "y")
Unpack = Callable[[Any], tuple[Any, Any]]


@dataclass(frozen=True, eq=False)
class Source:
    """One split of a task's data, by its name.

    Attributes:
        given: the user's own object.
        unpack: from a batch to its inputs and targets.
        dataset: samples by index, if there is an order.
        indices: the samples of the dataset that belong to the split.
        collate: from samples to a batch.
    """

    name: str
    given: Any
    unpack: Unpack
    dataset: Any = None
    indices: Sequence[int] = ()
    collate: Callable[[list[Any]], Any] = default_collate

    def read(self, at: Sequence[int]) -> tuple[Any, Any]:
        """Return inputs and targets of the samples at places of the split, as one batch.

        Raises:
            UsageError: the user's code fails, or a batch is none.
        """
        where = f"{self.name}: sample {at[0]}"
        with_index = lambda: self.collate([self.dataset[self.indices[i]] for i in at])  # noqa: E731
        return self._unpacked(tried(with_index, where), where)

    def batches(self) -> Iterator[tuple[Any, Any]]:
        """Yield inputs and targets batch by batch, in order.

        Raises:
            UsageError: the user's code fails, there is no batch, or there is no end to them.
        """
        if self.dataset is not None:
            for start in range(0, len(self.indices), BATCH):
                yield self.read(range(start, min(start + BATCH, len(self.indices))))
        else:
            yield from self.walk()

    def walk(self, most: int | None = None) -> Iterator[tuple[Any, Any]]:
        """Yield inputs and targets of one pass through the user's object itself, `most` batches at most.

        Raises:
            UsageError: the user's code fails, there is no batch, or there is no end to them.
        """
        number, passing = 0, tried(lambda: iter(self.given), self.name)
        while most is None or number < most:
            where = f"{self.name}: batch {number + 1}"
            batch = tried(lambda: next(passing, None), where)
            if batch is None:
                break
            if number >= MOST_BATCHES:
                raise UsageError(f"{self.name} gives more than {MOST_BATCHES:,} batches in one pass; give it an end")
            yield self._unpacked(batch, where)
            number += 1
        if number == 0:
            raise UsageError(f"{self.name} gives no batch (walked through once and for all?); give a loader with data")

    def _unpacked(self, batch: Any, where: str) -> tuple[Any, Any]:
        pair = tried(lambda: self.unpack(batch), where)
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise UsageError(f"{where}: unpack returns {type(pair).__name__}; needed: (inputs, targets)")
        return pair


def source(name: str, given: Any, unpack: Unpack) -> Source:
    """Return a split's source.

    Raises:
        UsageError: the object is none of the known kinds, or is empty.
    """
    if callable(given) and not hasattr(given, "__getitem__") and not hasattr(given, "__iter__"):
        given = tried(given, name)
    if isinstance(given, tuple) and given and all(isinstance(each, Tensor | np.ndarray) for each in given):
        given = tried(lambda: TensorDataset(*map(torch.as_tensor, given)), name)
    if isinstance(given, DataLoader):
        return _of_loader(name, given, unpack)
    if isinstance(given, IterableDataset):
        return Source(name, DataLoader(given, batch_size=BATCH), unpack)
    is_ordered = hasattr(given, "__getitem__") and hasattr(given, "__len__")
    if is_ordered and not isinstance(given, list | tuple | dict | str):
        return _ordered(name, given, unpack, given, range(len(given)), default_collate)
    if isinstance(given, list | tuple) or (hasattr(given, "__iter__") and not isinstance(given, str | dict | Tensor)):
        if iter(given) is given:
            raise UsageError(f"{name} is {type(given).__name__}, gone after one pass; give a loader, a dataset, a list")
        return Source(name, given, unpack)
    raise UsageError(
        f"{name} is {type(given).__name__}; it takes a torch DataLoader or Dataset, a tuple of tensors, or batches"
    )


def _of_loader(name: str, loader: Any, unpack: Unpack) -> Source:
    if isinstance(loader.dataset, IterableDataset):
        return Source(name, loader, unpack)
    collate = (
        loader.collate_fn if loader.batch_size is not None or loader.batch_sampler is not None else default_collate
    )
    drawn = loader.sampler if loader.batch_sampler is None else getattr(loader.batch_sampler, "sampler", None)
    if drawn is None:
        drawn = [i for batch in loader.batch_sampler for i in batch]
    indices = sorted({int(i) for i in tried(lambda: list(drawn), name)})
    return _ordered(name, loader, unpack, loader.dataset, indices, collate)


def _ordered(
    name: str, given: Any, unpack: Unpack, dataset: Any, indices: Sequence[int], collate: Callable[[list[Any]], Any]
) -> Source:
    if len(indices) == 0:
        raise UsageError(f"{name} holds no sample; give a dataset with data")
    return Source(name, given, unpack, dataset, indices, collate)


def samples_of(train: Source | None) -> int | None:
    """Return the samples of an epoch of training data, or None where only a walk through them would tell."""
    if train is None:
        return None
    if train.dataset is None:
        return _of_list(train) if isinstance(train.given, list | tuple) else None
    drawn: Any = getattr(train.given, "sampler", None)
    return max(len(train.indices), len(drawn) if hasattr(drawn, "__len__") else 0)


def _of_list(train: Source) -> int | None:
    """Count the samples of a list of batches by the first tensor of each."""
    leaves = (tree_leaves(train._unpacked(batch, train.name)[0]) for batch in train.given)
    return sum(len(parts[0]) for parts in leaves) or None


def by_convention(names: Iterable[str]) -> Unpack:
    """Return the way from a batch to inputs and targets that trainers share.

    Of a tuple or list the last part holds targets, and several before it are several inputs. Of a dictionary the keys
    that `forward` takes (`names`) are inputs, without `labels` and its synonyms; the rest holds targets. A tensor alone
    has no targets.
    """
    taken = [name for name in names if name not in _LABELS]

    def unpack(batch: Any) -> tuple[Any, Any]:
        if isinstance(batch, Mapping):
            inputs = {key: each for key, each in batch.items() if key in taken}
            rest = {key: each for key, each in batch.items() if key not in inputs}
            if not inputs:
                raise UsageError(
                    f"no key of {sorted(batch)} is an argument of the network ({taken}); give Task(unpack=)"
                )
            return inputs, (next(iter(rest.values())) if len(rest) == 1 else rest) if rest else None
        if isinstance(batch, tuple | list):
            if len(batch) == 1:
                return batch[0], None
            return (batch[0] if len(batch) == 2 else tuple(batch[:-1])), batch[-1]
        return batch, None

    return unpack


def tried(call: Callable[..., Any], where: str, *given: Any) -> Any:
    """Run the user's code; every error of it is one line that begins with the place.

    Raises:
        UsageError: the code fails.
    """
    try:
        return call(*given)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        raise UsageError(f"{where} fails: {type(error).__name__}: {lines[0][:300]}") from error
