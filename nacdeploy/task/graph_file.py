"""The task of a bare ONNX file: its network, inputs of any kind, and the float network's own answers as targets.

Inputs come from a data set of images, or from `inputs:FILE.npz` with an array for each input by name. Without labels
that the network's outputs fit, the score is the signal to noise ratio of the answers against the float network's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import log10
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as Samples

from nacdeploy import brought
from nacdeploy import data as datasets
from nacdeploy.base.errors import UsageError
from nacdeploy.base.outside import doors
from nacdeploy.data import Dataset, ImageSet
from nacdeploy.metrics import ACCURACY, AGREEMENT
from nacdeploy.models import from_onnx
from nacdeploy.models.from_onnx import OnnxModule
from nacdeploy.models.from_onnx.module import Input
from nacdeploy.profile import Profile
from nacdeploy.profile.tables.training import DataTable
from nacdeploy.task.own import of as open_task
from nacdeploy.task.task import Task

INPUTS, RANDOM = "inputs", "random"
MOST_DB = 150.0  # of answers that are equal
_N_RANDOM = 48
_OPENED: dict[Any, Task] = {}  # the last one: data are read once
_SHARES = (0.5, 0.25, 0.25)  # of inputs that calibrate, decide and are scored at the end


@dataclass(frozen=True, eq=False)
class Rows(Samples[Any]):
    """Inputs by index, and the targets that belong to them."""

    get: Callable[[int], tuple[Tensor, ...]]
    n: int
    target: Callable[[int, tuple[Tensor, ...]], Any]

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        given = self.get(index)
        return (*given, self.target(index, given))


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
    path = from_onnx.path_of(model)
    whole = from_onnx.module(path)
    splits, said, labels = _inputs(whole, data, profile)
    shapes = {each.name: tuple(x.shape) for each, x in zip(whole.inputs, splits["validation"][0](0), strict=True)}
    network = from_onnx.module(path, shapes)
    classes = labels if labels is not None and _n_outputs(network, splits["validation"][0](0)) == labels.n else None
    target = _answers(network)

    def of(split: str) -> Callable[[int, tuple[Tensor, ...]], Any]:
        return (lambda i, _: classes.of(split, i)) if classes else (lambda _, given: target(given))

    sets = {split: Rows(get, n, of(split)) for split, (get, n) in splits.items()}
    task = brought.Task(
        network,
        train=sets["train"],
        validation=sets["validation"],
        test=sets["test"],
        metric=None if classes else brought.Measure(signal_to_noise, "snr", "dB"),
        class_names=classes.names if classes else (),
        name=model,
    )
    made = open_task(model, task, profile, data)
    by = "classes of the data" if classes else "the float network's own answers"
    note = f"{path.name} on {data}: scored by {by}; {said}"
    return Task(made.spec, _noted(made.data, note), made.metric)


def signal_to_noise(found: Any, wanted: Any) -> float:
    """Return the least ratio of signal to noise of any output, in decibels: `(N, ...)` against the float network's."""
    pairs = zip(_tensors(found), _tensors(wanted), strict=True)
    return min(_decibels(a.double(), b.double()) for a, b in pairs)


def _decibels(found: Tensor, wanted: Tensor) -> float:
    noise, signal = float((found - wanted).square().sum()), float(wanted.square().sum())
    if noise == 0:
        return MOST_DB
    return max(-MOST_DB, min(MOST_DB, 10 * log10(signal / noise))) if signal > 0 else -MOST_DB


def _tensors(given: Any) -> list[Tensor]:
    if isinstance(given, Tensor):
        return [given]
    return list(given.values() if isinstance(given, dict) else given)


@dataclass(frozen=True, eq=False)
class _Labels:
    n: int
    names: tuple[str, ...]
    of: Callable[[str, int], Tensor]


_Splits = dict[str, tuple[Callable[[int], tuple[Tensor, ...]], int]]


def _inputs(network: OnnxModule, data: str, profile: Profile) -> tuple[_Splits, str, _Labels | None]:
    """Return the inputs of three splits, a line about them, and their labels."""
    source, _, argument = data.partition(":")
    if source == INPUTS:
        return _of_arrays(network.inputs, Path(argument).expanduser())
    if source == RANDOM:
        return _drawn(network.inputs, profile.seed)
    return _of_images(network, data, profile.images)


def _of_arrays(inputs: Sequence[Input], path: Path) -> tuple[_Splits, str, None]:
    if not path.is_file():
        raise UsageError(f"inputs:{path} is not there; give an .npz file with an array for each input by name")
    doors.check_file(path)
    try:
        with np.load(path, allow_pickle=False) as held:
            arrays = {name: torch.from_numpy(np.ascontiguousarray(held[name])) for name in held.files}
    except Exception as error:  # numpy's errors share no class
        raise UsageError(f"{path} is no .npz file of arrays ({' '.join(str(error).split())[:200]})") from error
    if missing := [each.name for each in inputs if each.name not in arrays]:
        raise UsageError(f"{path} has no array '{missing[0]}', an input of the network; it has {', '.join(arrays)}")
    columns = [_fitted(each, arrays[each.name], path) for each in inputs]
    (n,) = {len(column) for column in columns} if len({len(column) for column in columns}) == 1 else (0,)
    if n < 3:
        raise UsageError(
            f"{path}: the arrays have {[len(c) for c in columns]} rows; needed: equally many, three at least"
        )
    return _parted(lambda i: tuple(column[i] for column in columns), n), f"{n} inputs of {path.name}", None


def _fitted(wanted: Input, array: Tensor, path: Path) -> Tensor:
    fixed = [(a, b) for a, b in zip(wanted.shape[1:], array.shape[1:], strict=False) if a is not None]
    if array.dim() != len(wanted.shape) or any(a != b for a, b in fixed):
        raise UsageError(f"{path}: '{wanted.name}' has shape {tuple(array.shape)}; the network takes {wanted.shape}")
    return array.to(getattr(torch, wanted.dtype))


def _drawn(inputs: Sequence[Input], seed: int) -> tuple[_Splits, str, None]:
    if any(size is None for each in inputs for size in each.shape[1:]):
        raise UsageError("the network leaves sizes of its inputs open: random inputs need them; give --data")
    draw = torch.Generator().manual_seed(seed)
    columns = [torch.rand(_N_RANDOM, *map(int, filter(None, each.shape[1:])), generator=draw) for each in inputs]
    columns = [c.to(getattr(torch, each.dtype)) for c, each in zip(columns, inputs, strict=True)]
    said = "RANDOM inputs between 0 and 1, since no data are given: ranges and scores say little of real inputs"
    return _parted(lambda i: tuple(column[i] for column in columns), _N_RANDOM), said, None


def _parted(get: Callable[[int], tuple[Tensor, ...]], n: int) -> _Splits:
    """Part inputs by turns: what calibrates is neither what decides nor what is scored."""
    ends = [round(n * share) for share in (_SHARES[0], _SHARES[0] + _SHARES[1])]
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0)).tolist()
    ends = [max(1, min(ends[0], n - 2)), max(2, min(ends[1], n - 1))]
    parts = {"train": order[: ends[0]], "validation": order[ends[0] : ends[1]], "test": order[ends[1] :]}
    return {name: (_at(get, part), len(part)) for name, part in parts.items()}


def _at(get: Callable[[int], tuple[Tensor, ...]], part: Sequence[int]) -> Callable[[int], tuple[Tensor, ...]]:
    return lambda i: get(part[i])


def _of_images(network: OnnxModule, data: str, table: DataTable) -> tuple[_Splits, str, _Labels | None]:
    if len(network.inputs) != 1 or len(network.inputs[0].shape) != 4:
        shapes = ", ".join(f"'{each.name}' {each.shape}" for each in network.inputs)
        raise UsageError(
            f"the network takes {shapes}, which are no images: give --data inputs:FILE.npz with these arrays"
        )
    (_, a, b, c) = network.inputs[0].shape
    is_last = c in (1, 3) and a not in (1, 3)
    height, width = (a, b) if is_last else (b, c)
    found = _images(data, _sized(table, height, width))
    _check_size(found, height, width, data)

    def get(images: ImageSet) -> Callable[[int], tuple[Tensor, ...]]:
        def one(i: int) -> tuple[Tensor, ...]:
            x = found.normalize(images.batch(torch.tensor([i])))[0]
            return (x.permute(1, 2, 0).contiguous() if is_last else x,)

        return one

    named = {"train": found.train, "validation": found.validation, "test": found.test}
    splits: _Splits = {name: (get(images), len(images)) for name, images in named.items()}
    names, n = found.class_names, found.n_outputs
    labels = _Labels(n, names, lambda name, i: named[name].labels[i]) if found.is_labelled else None
    low, high = _range(splits["train"])
    order = "height, width, channels" if is_last else "channels, height, width"
    said = (
        f"images as {order}, {found.channel_order}, values {low:.3g} to {high:.3g} (images.mean, images.std, "
        "images.value_range and images.channel_order change that: they must be those of the training)"
    )
    return splits, said, labels


def _images(data: str, table: DataTable) -> Dataset:
    if datasets.has_labels(data):
        return datasets.load(data, table, ACCURACY)
    return datasets.load(data, table.model_copy(update={"n_classes": table.n_classes or 2}), AGREEMENT)


def _sized(table: DataTable, height: int | None, width: int | None) -> DataTable:
    """Return the table with the size that the file fixes, and without a normalisation that nobody asked for."""
    update: dict[str, Any] = {} if table.mean is not None else {"mean": 0.0, "std": 1.0}
    is_open = table.input_size is None and table.resize is None and table.crop is None
    if is_open and height is not None and height == width:
        update["input_size"] = height
    return table.model_copy(update=update)


def _check_size(found: Dataset, height: int | None, width: int | None, data: str) -> None:
    _, h, w = found.input_shape
    if (height or h, width or w) != (h, w):
        raise UsageError(
            f"the network takes images of {height}x{width}, and those of {data} are {h}x{w}; give --input-size"
        )


def _range(split: tuple[Callable[[int], tuple[Tensor, ...]], int]) -> tuple[float, float]:
    get, n = split
    few = [get(i)[0] for i in range(min(n, 16))]
    return min(float(x.min()) for x in few), max(float(x.max()) for x in few)


def _answers(network: OnnxModule) -> Callable[[tuple[Tensor, ...]], Any]:
    def answer(given: tuple[Tensor, ...]) -> Any:
        with torch.no_grad():
            found = network(*(x[None] for x in given))
        return found[0] if isinstance(found, Tensor) else {name: each[0] for name, each in found.items()}

    return answer


def _n_outputs(network: OnnxModule, given: tuple[Tensor, ...]) -> int | None:
    """Return the number of classes that a network tells apart, or None if its answers are of another form."""
    with torch.no_grad():
        found = network(*(x[None] for x in given))
    return int(found.shape[1]) if isinstance(found, Tensor) and found.dim() == 2 else None


def _noted(data: Dataset, note: str) -> Dataset:
    return replace(data, notes=(*data.notes, note))
