"""The task of a bare ONNX file: its network, inputs of any kind, and the float network's own answers as targets.

Inputs come from a data set of images, or from `inputs:FILE.npz` with an array for each input by name. Without labels
that the network's outputs fit, the score is the signal to noise ratio of the answers against the float network's. Of a
file that is cut (`models/from_onnx/regions.py`) the network is the part that torch holds: its inputs are what the part
before it makes, its answers what crosses to the part behind.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import log10
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset as Samples

from nacdeploy import brought
from nacdeploy.data import Dataset
from nacdeploy.models import from_onnx
from nacdeploy.models.from_onnx import OnnxModule, Parts
from nacdeploy.models.from_onnx.graph import reading
from nacdeploy.models.from_onnx.module import Input
from nacdeploy.models.from_onnx.running import Part
from nacdeploy.profile import Profile
from nacdeploy.task.graph_inputs import INPUTS, RANDOM, Rows, Splits, given
from nacdeploy.task.graph_ranges import checked as checked_ranges
from nacdeploy.task.original import Original
from nacdeploy.task.own import of as open_task
from nacdeploy.task.task import Task

__all__ = ["INPUTS", "RANDOM", "opened", "signal_to_noise"]

_N_LOOKED_AT = 8  # inputs whose range is compared with the file's
MOST_DB = 150.0  # of answers that are equal
_OPENED: dict[Any, Task] = {}  # the last one: data are read once


@dataclass(frozen=True, eq=False)
class Answered(Samples[Any]):
    """Inputs by index, and the targets that belong to them."""

    get: Rows
    n: int
    target: Callable[[int, tuple[Tensor, ...]], Any]

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        row = self.get(index)
        return (*row, self.target(index, row))


def opened(model: str, data: str, profile: Profile) -> Task:
    """Open the task of an ONNX file on some inputs.

    Raises:
        UsageError: the file cannot be read, or the inputs do not fit it.
    """
    key = (from_onnx.digest(model), model, data, profile.images.model_dump_json(), profile.seed)
    if key not in _OPENED:
        _OPENED.clear()
        _OPENED[key] = _opened(model, data, profile)
    return _OPENED[key]


def _opened(model: str, data: str, profile: Profile) -> Task:
    name = from_onnx.parsed(model)
    found = given(from_onnx.inputs(name), data, profile)
    name = replace(name, fixed={**name.fixed, **found.fixed})
    takes = from_onnx.inputs(name)
    name = replace(name, shapes=_shapes(takes, found.splits))
    parts = from_onnx.parts(name)
    network = from_onnx.module(name)
    crossing = _Crossing(takes, parts, network)
    states = tuple(each.name for each in takes if not each.is_sample and each.dtype.startswith("float"))
    (rows, n_rows) = found.splits["test"]
    original = Original(name, parts, lambda i: crossing.call(rows(i)), n_rows, states)
    is_plain = not (parts.is_cut or name.exclude or name.fixed) and len(network.inputs) == len(takes)
    title = model if is_plain else str(name)
    splits: Splits = {split: (crossing.rows(get), n) for split, (get, n) in found.splits.items()}
    labels = None if parts.is_cut else found.labels
    classes = labels if labels is not None and _n_outputs(network, splits["validation"][0](0)) == labels.n else None
    target = _answers(network)

    def of(split: str) -> Callable[[int, tuple[Tensor, ...]], Any]:
        return (lambda i, _: classes.of(split, i)) if classes else (lambda _, row: target(row))

    sets = {split: Answered(get, n, of(split)) for split, (get, n) in splits.items()}
    task = brought.Task(
        network,
        train=sets["train"],
        validation=sets["validation"],
        test=sets["test"],
        metric=None if classes else brought.Measure(signal_to_noise, "snr", "dB"),
        class_names=classes.names if classes else (),
        name=title,
    )
    made = open_task(title, task, profile, data)
    looked_at = [crossing.call(found.splits["train"][0](i)) for i in range(min(_N_LOOKED_AT, found.splits["train"][1]))]
    ranges = checked_ranges(reading.as_written(name.path), [{**row, **name.fixed} for row in looked_at], str(name.path))
    by = "classes of the data" if classes else "the float network's own answers"
    scored = f"{name.path.name} on {data}: scored by {by}; {found.said}"
    notes = [scored, *_of_parts(parts), *_of_denormals(network), *ranges]
    return Task(made.spec, _noted(made.data, notes), made.metric, original)


def _shapes(takes: Sequence[Input], splits: Splits) -> dict[str, tuple[int, ...]]:
    row = splits["validation"][0](0)
    return {each.name: tuple(x.shape) for each, x in zip(takes, row, strict=True)}


def _of_parts(parts: Parts) -> list[str]:
    """Say what stays as it is."""
    n = len(parts.before | parts.behind)
    if not parts.is_cut and not parts.kept:
        return []
    named = [f"{node}: {why}" for node, why in parts.kept.items()]
    listed = "; ".join(named[:6]) + (f"; and {len(named) - 6} more" if len(named) > 6 else "")
    whole = f"{n} of the file's {len(parts.whole.graph.node)} nodes stay as they are" if n else "stay in float"
    return [f"{whole} ({listed or 'they make or read tensors that are no samples (N, ...)'})"]


def _of_denormals(network: OnnxModule) -> list[str]:
    if not network.n_denormal:
        return []
    return [
        f"{network.n_denormal:,} of its weights are denormal, below 1.2e-38: zeros stand for them, since processors "
        "multiply them many times slower in float; the file itself may be slower than the float network here"
    ]


@dataclass(frozen=True, eq=False)
class _Crossing:
    """The way from the inputs of a file to those of its network."""

    takes: Sequence[Input]
    parts: Parts
    network: OnnxModule

    def call(self, row: Sequence[Tensor]) -> dict[str, NDArray[Any]]:
        """Return what the file takes at a call, by name: one sample of inputs that have the batch first, as often as
        the file asks for."""
        n, named = self.parts.batch or 1, zip(self.takes, row, strict=True)
        arrays = {each.name: (torch.stack([x] * n) if each.is_sample else x).numpy() for each, x in named}
        return {name: np.ascontiguousarray(array) for name, array in arrays.items()}

    def rows(self, get: Rows) -> Rows:
        """Return what the network takes at a call."""
        names = self.network.input_names
        if self.parts.first is None:
            order = [[each.name for each in self.takes].index(name) for name in names]
            return lambda i: tuple(get(i)[at] for at in order)
        part = Part(self.parts.first, "the part before the network")

        def one(i: int) -> tuple[Tensor, ...]:
            call: Mapping[str, Any] = self.call(get(i))
            made = {**call, **part.run(call)}
            return tuple(torch.from_numpy(made[name][0]) for name in names)

        return one


def signal_to_noise(found: Any, wanted: Any) -> float:
    """Return the least ratio of signal to noise of any output, in decibels: `(N, ...)` against the float network's."""
    pairs = zip(_tensors(found), _tensors(wanted), strict=True)
    return min(_decibels(a.double(), b.double()) for a, b in pairs)


def _decibels(found: Tensor, wanted: Tensor) -> float:
    noise, signal = float((found - wanted).square().sum()), float(wanted.square().sum())
    if noise == 0:
        return MOST_DB
    return max(-MOST_DB, min(MOST_DB, 10 * log10(signal / noise))) if signal > 0 else -MOST_DB


def _tensors(answer: Any) -> list[Tensor]:
    if isinstance(answer, Tensor):
        return [answer]
    return list(answer.values() if isinstance(answer, dict) else answer)


def _answers(network: OnnxModule) -> Callable[[tuple[Tensor, ...]], Any]:
    def answer(row: tuple[Tensor, ...]) -> Any:
        with torch.no_grad():
            found = network(*(x[None] for x in row))
        return found[0] if isinstance(found, Tensor) else {name: each[0] for name, each in found.items()}

    return answer


def _n_outputs(network: OnnxModule, row: tuple[Tensor, ...]) -> int | None:
    """Return the number of classes that a network tells apart, or None if its answers are of another form."""
    with torch.no_grad():
        found = network(*(x[None] for x in row))
    return int(found.shape[1]) if isinstance(found, Tensor) and found.dim() == 2 else None


def _noted(data: Dataset, notes: Sequence[str]) -> Dataset:
    return replace(data, notes=(*data.notes, *notes))
