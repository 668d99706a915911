"""Targets: what a user's data say of each sample, in any form: tensors, dictionaries, lists of boxes.

A batch's targets are taken apart into samples, so that parts of a split can be scored in any order, and put together in
the same form for the user's own loss and metric.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nacdeploy.base.errors import UsageError

# The form of a batch's targets: what a list is cannot be told from every batch, so it is found on the first.
ROWS, SAMPLES, NOTHING = "rows", "samples", "nothing"
Form = Any


@dataclass(frozen=True, eq=False)
class Targets:
    """The targets of `N` samples, one by one, and the form in which a batch holds them."""

    samples: Sequence[Any]
    form: Form
    device: torch.device | None = None

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, at: Tensor | slice) -> "Targets":
        samples = self.samples[at] if isinstance(at, slice) else [self.samples[i] for i in at.tolist()]
        return replace(self, samples=samples)

    def to(self, device: torch.device | str) -> "Targets":
        """Return the targets for a device."""
        return replace(self, device=torch.device(device))

    def cpu(self) -> "Targets":
        """Return the targets for the CPU."""
        return self.to("cpu")

    def tensor_split(self, n_parts: int) -> tuple["Targets", ...]:
        """Return `n_parts` parts of nearly equal size, in order."""
        return tuple(self[part] for part in torch.arange(len(self)).tensor_split(n_parts))

    def batch(self) -> Any:
        """Return the targets as a batch of the user's data holds them."""
        return moved(together(self.samples, self.form), self.device)

    def content(self) -> Iterator[bytes]:
        """Yield the content, in pieces: targets with the same content are the same."""
        for sample in self.samples:
            yield digest(sample)


@dataclass(frozen=True, eq=False)
class BatchTargets:
    """The targets of one batch as the user's data give them, for training."""

    given: Any
    n: int

    def __len__(self) -> int:
        return self.n

    def to(self, device: torch.device | str) -> "BatchTargets":
        return replace(self, given=moved(self.given, torch.device(device)))

    def batch(self) -> Any:
        return self.given


def form_of(given: Any, n: int) -> Form:
    """Return the form of the targets of a batch of `n` samples."""
    if given is None:
        return NOTHING
    if isinstance(given, Tensor | np.ndarray):
        return ROWS
    if isinstance(given, Mapping):
        return {str(key): form_of(each, n) for key, each in given.items()}
    if isinstance(given, list) and (len(given) != n or not given):
        return [form_of(each, n) for each in given]
    return SAMPLES if isinstance(given, list) else tuple(form_of(each, n) for each in given)


def apart(given: Any, form: Form, n: int, where: str) -> list[Any]:
    """Return the targets of a batch one by one.

    Raises:
        UsageError: they are not those of `n` samples, or have another form than the first batch's.
    """
    try:
        found = _apart(given, form)
    except (TypeError, KeyError, ValueError, IndexError, AttributeError) as error:
        raise UsageError(f"{where}: targets have another form than those of the first batch ({error})") from error
    found = [None] * n if found is None else found
    if len(found) != n:
        raise UsageError(f"{where}: {n} inputs and {len(found)} targets")
    return found


def _apart(given: Any, form: Form) -> list[Any] | None:
    if form == NOTHING:
        return None
    if form == ROWS:
        rows = torch.as_tensor(given).detach().cpu()
        return list(rows) if rows.dim() else [rows]
    if form == SAMPLES:
        return [moved(each, torch.device("cpu")) for each in given]
    if isinstance(form, dict):
        columns = {key: _apart(given[key], each) for key, each in form.items()}
        n = _n_samples(columns.values())
        return [{key: column[i] if column is not None else None for key, column in columns.items()} for i in range(n)]
    parts = [_apart(each, inner) for each, inner in zip(given, form, strict=True)]
    n = _n_samples(parts)
    return [tuple(part[i] if part is not None else None for part in parts) for i in range(n)]


def _n_samples(columns: Any) -> int:
    (n,) = {len(column) for column in columns if column is not None} or {0}
    return int(n)


def together(samples: Sequence[Any], form: Form) -> Any:
    """Return the targets of samples in the form of a batch.

    Raises:
        UsageError: tensors of different shapes are to be rows of one.
    """
    if form == NOTHING:
        return None
    if form == ROWS:
        try:
            return torch.stack(list(samples)) if samples else torch.zeros(0)
        except RuntimeError as error:
            raise UsageError(f"targets of several shapes do not stand in one tensor ({error}); give a list") from error
    if form == SAMPLES:
        return list(samples)
    if isinstance(form, dict):
        return {key: together([each[key] for each in samples], inner) for key, inner in form.items()}
    parts = [together([each[i] for each in samples], inner) for i, inner in enumerate(form)]
    return parts if isinstance(form, list) else tuple(parts)


def moved(given: Any, device: torch.device | None) -> Any:
    """Return tensors within lists, tuples and dictionaries on a device."""
    if device is None:
        return given
    if isinstance(given, Tensor):
        return given.to(device)
    if isinstance(given, Mapping):
        return {key: moved(each, device) for key, each in given.items()}
    if isinstance(given, list | tuple):
        parts = [moved(each, device) for each in given]
        return parts if isinstance(given, list) else tuple(parts)
    return given


def digest(given: Any) -> bytes:
    """Return the sha256 of a value's content: of tensors and arrays their type, shape and bytes."""
    found = hashlib.sha256()
    _digest(given, found)
    return found.digest()


def _digest(given: Any, found: Any) -> None:
    if isinstance(given, Tensor):
        given = given.detach().cpu()
        found.update(f"{given.dtype}{tuple(given.shape)}".encode())
        found.update(given.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if given.numel() else b"")
    elif isinstance(given, np.ndarray):
        _digest(torch.as_tensor(given), found)
    elif isinstance(given, Mapping):
        for key, each in given.items():
            found.update(repr(key).encode())
            _digest(each, found)
    elif isinstance(given, list | tuple):
        found.update(f"[{len(given)}".encode())
        for each in given:
            _digest(each, found)
    else:
        found.update(repr(given).encode())
