"""Reading: the splits of a user's task as sets of packed inputs and targets, checked sample by sample.

What fits into memory is kept there; what does not is read by index when it is needed. Nothing of the user's is changed.
"""

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nacdeploy.base.errors import UsageError
from nacdeploy.brought.sources import BATCH, Source
from nacdeploy.brought.targets import NOTHING, BatchTargets, Targets, apart, form_of, moved
from nacdeploy.data.sets import ImageSet
from nacdeploy.models.ports import Ports, tensors_of

MOST_SAMPLES = 8192  # of the training data, for calibration and for what looks at weights


@dataclass(frozen=True, eq=False)
class Drawn:
    """Samples of a source that are read on demand, with the interface of a tensor `(N, ...)` (`data.sets.Pictures`)."""

    source: Source
    ports: Ports
    places: Tensor
    digest: bytes

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self.places), *self.ports.input_shape))

    def __getitem__(self, at: slice) -> Tensor:
        return self._read(self.places[at])

    def split(self, size: int) -> Iterator[Tensor]:
        """Yield all samples in order, `size` at once."""
        return (self._read(part) for part in self.places.split(size))

    def at(self, indices: Tensor) -> "Drawn":
        """Return the samples at `indices`, int64 `(M,)`, not read."""
        return replace(self, places=self.places[indices])

    def decoded(self, indices: Tensor) -> Tensor:
        """Return the samples at `indices`, int64 `(M,)`."""
        return self._read(self.places[indices])

    def in_channels(self, n_channels: int) -> "Drawn":
        """Return the samples as they are: a task's own data have their own channels."""
        return self

    def content(self) -> Iterator[bytes]:
        """Yield the sha256 of all samples of the source, and which these are."""
        yield self.digest
        yield self.places.numpy().tobytes()

    def _read(self, places: Tensor) -> Tensor:
        parts = []
        for chunk in places.split(BATCH):
            given, _ = self.source.read(chunk.tolist())
            parts.append(packed(given, self.ports, self.source.name))
        return torch.cat(parts) if parts else torch.zeros(0, *self.ports.input_shape)


def read(source: Source, ports: Ports, limit_mib: int, most: int | None = None) -> ImageSet:
    """Read a split, `most` samples at most, and check every batch.

    Raises:
        UsageError: the user's code fails, a batch does not fit the network or the first batch, values are not finite,
            or the split is larger than memory and has no order.
    """
    parts: list[Tensor] | None = []
    samples: list[Any] = []
    form, n, seen = None, 0, hashlib.sha256()
    most_here = min(most, max(BATCH, (limit_mib << 20) // (4 * max(1, _size(ports))))) if most is not None else None
    for number, (given, targets) in enumerate(source.batches(), start=1):
        where = f"{source.name}: batch {number}"
        x = packed(given, ports, where)
        form = form_of(targets, len(x)) if form is None else form
        samples += apart(targets, form, len(x), where)
        n += len(x)
        seen.update(x.numpy().tobytes())
        parts = _kept(parts, x, n, limit_mib, source, ports) if most_here is None else [*(parts or []), x]
        if most_here is not None and n >= most_here:
            break
    labels = Targets(samples, form)
    if parts is None:
        images: Any = Drawn(source, ports, torch.arange(n), seen.digest())
    else:
        images = torch.cat(parts)
    found = ImageSet(images, labels)
    return found if most is None else found.subset(torch.arange(min(n, most)))


def varies(source: Source, ports: Ports) -> bool:
    """Tell whether a source begins otherwise the second time: by its order or by random transforms."""
    first = []
    for seed in (1, 2):
        with seeded(seed):
            given, _ = next(source.batches())
            first.append(packed(given, ports, source.name))
    return first[0].shape != first[1].shape or not torch.equal(*first)


def check_fixed(source: Source, ports: Ports) -> None:
    """Check that a source begins the second time as it did: scores of other samples each time cannot be compared.

    Raises:
        UsageError: it does not.
    """
    if varies(source, ports):
        raise UsageError(
            f"{source.name} begins with another batch the second time: give it a fixed order (shuffle=False) and no "
            "random transforms"
        )


def _size(ports: Ports) -> int:
    return sum(port.size for port in ports.inputs)


def _kept(
    parts: list[Tensor] | None, x: Tensor, n: int, limit_mib: int, source: Source, ports: Ports
) -> list[Tensor] | None:
    """Return the parts in memory with another one, or None once they are too many and can be read again."""
    if parts is None:
        return None
    if 4 * n * _size(ports) <= limit_mib << 20:
        return [*parts, x]
    if source.dataset is None:
        raise UsageError(
            f"{source.name} has more than {limit_mib} MiB or no end, and no order to read it by: give a Dataset, "
            "or raise images.in_memory_mib"
        )
    return None


def packed(given: Any, ports: Ports, where: str) -> Tensor:
    """Return the inputs of a batch packed: float32 `(N, *input_shape)`.

    Raises:
        UsageError: they are not the inputs that the network takes, or hold values that are no finite numbers.
    """
    try:
        named = {name: moved(each, torch.device("cpu")) for name, each in tensors_of(given).items()}
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error
    if len(named) != len(ports.inputs):
        raise UsageError(f"{where} has {len(named)} inputs, the first batch had {len(ports.inputs)}")
    order = _in_order(named, ports, isinstance(given, Mapping), where)
    for port, each in zip(ports.inputs, order, strict=True):
        _check(port, each, len(order[0]), where)
    return ports.packed(order)


def _in_order(named: Mapping[str, Tensor], ports: Ports, has_names: bool, where: str) -> list[Tensor]:
    """Return inputs in the order of the ports: by name, or by place where neither side names them."""
    names = [port.name for port in ports.inputs]
    if set(named) == set(names):
        return [named[name] for name in names]
    if len(names) == 1 or not (has_names or ports.call == "named"):
        return list(named.values())
    given = f"has the inputs {', '.join(named)}" if has_names else "gives its inputs without names"
    raise UsageError(f"{where} {given}; the first batch of validation had {', '.join(names)}")


def _check(port: Any, x: Tensor, n: int, where: str) -> None:
    what = f"{where}: input '{port.name}'"
    if tuple(x.shape[1:]) != port.shape:
        raise UsageError(f"{what} has shape {tuple(x.shape[1:])}, the first batch had {port.shape}; one size is needed")
    if str(x.dtype).removeprefix("torch.") != port.dtype:
        raise UsageError(f"{what} is {str(x.dtype).removeprefix('torch.')}, the first batch was {port.dtype}")
    if len(x) != n or n == 0:
        raise UsageError(f"{what} has {len(x)} samples, another input of the batch {n}; needed: the same, at least one")
    if x.is_floating_point() and not bool(torch.isfinite(x).all()):
        raise UsageError(f"{what} holds values that are no finite numbers (NaN or infinity)")
    if port.n_values is not None and not (int(x.min()) >= 0 and int(x.max()) < port.n_values):
        raise UsageError(f"{what} holds {int(x.min())} to {int(x.max())}; the network takes 0 to {port.n_values - 1}")


@dataclass(frozen=True, eq=False)
class Epochs:
    """The training data of a task: each epoch is one pass through the user's own loader."""

    source: Source | None
    ports: Ports
    classes: int | None

    def __call__(self, batch_size: int, seed: int, epoch: int) -> Iterator[tuple[Tensor, Any]]:
        """Yield packed inputs and targets of an epoch. A dataset without a loader is shuffled by the seed.

        Raises:
            UsageError: there are no training data, or a batch does not fit the network.
        """
        if self.source is None:
            raise UsageError("the task has no training data, and F trains: give Task(train=)")
        with seeded(seed + epoch):
            walk = self._shuffled(batch_size, seed + epoch) if self._is_plain else self.source.walk()
            for number, (given, targets) in enumerate(walk, start=1):
                where = f"{self.source.name}: epoch {epoch}, batch {number}"
                x = packed(given, self.ports, where)
                yield x, self._labels(targets, len(x), where)

    @property
    def generators(self) -> list[torch.Generator]:
        """The random generators of the user's loader and its samplers, which go on from epoch to epoch."""
        loader: Any = None if self.source is None else self.source.given
        batches = getattr(loader, "batch_sampler", None)
        holders = (loader, getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None))
        found = (getattr(holder, "generator", None) for holder in holders)
        return list({id(each): each for each in found if isinstance(each, torch.Generator)}.values())

    def _labels(self, targets: Any, n: int, where: str) -> Any:
        """Return the targets of a batch; classes are checked against the outputs."""
        if self.classes is None:
            return BatchTargets(targets, n)
        return checked_classes(torch.as_tensor(targets), n, self.classes, where)

    @property
    def _is_plain(self) -> bool:
        assert self.source is not None
        return self.source.dataset is not None and self.source.given is self.source.dataset

    def _shuffled(self, batch_size: int, seed: int) -> Iterator[tuple[Any, Any]]:
        assert self.source is not None
        order = torch.randperm(len(self.source.indices), generator=torch.Generator().manual_seed(seed)).tolist()
        parts: list[Sequence[int]] = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
        if len(parts) > 1 and len(parts[-1]) == 1:  # batch norm needs two
            parts[-2:] = [[*parts[-2], *parts[-1]]]
        return (self.source.read(part) for part in parts)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the generators that loaders and augmentations draw from, those of torch, numpy and Python, and bring their
    former states back at the end."""
    theirs = torch.random.get_rng_state(), np.random.get_state(), random.getstate()
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
    try:
        yield
    finally:
        torch.random.set_rng_state(theirs[0])
        np.random.set_state(theirs[1])
        random.setstate(theirs[2])


def checked_classes(labels: Tensor, n: int, classes: int, where: str) -> Tensor:
    """Return labels of classes, int64 `(N,)`.

    Raises:
        UsageError: a class has no output, or the labels are not one per sample.
    """
    if labels.dim() != 1 or len(labels) != n or labels.is_floating_point():
        raise UsageError(f"{where}: {n} inputs, and labels of shape {tuple(labels.shape)} ({labels.dtype})")
    if n and not (int(labels.min()) >= 0 and int(labels.max()) < classes):
        raise UsageError(
            f"{where}: label {int(labels.min()) if int(labels.min()) < 0 else int(labels.max())} is none of the "
            f"network's {classes} outputs (0 to {classes - 1})"
        )
    return labels.detach().cpu().long()


def with_classes(found: ImageSet, classes: int, where: str) -> ImageSet:
    """Return a set whose targets are classes, int64 `(N,)`."""
    targets: Any = found.labels
    if targets.form == NOTHING:
        raise UsageError(f"{where} has no labels")
    return ImageSet(found.images, checked_classes(targets.batch(), len(targets), classes, where))
