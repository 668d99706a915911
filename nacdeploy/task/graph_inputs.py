"""The inputs of an ONNX file, call by call: from arrays by name, images, or drawn at random."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nacdeploy import data as datasets
from nacdeploy.base.errors import UsageError
from nacdeploy.base.outside import doors
from nacdeploy.data import Dataset, ImageSet
from nacdeploy.metrics import ACCURACY, AGREEMENT
from nacdeploy.models.from_onnx.module import Input
from nacdeploy.models.from_onnx.naming import MOST_FIXED
from nacdeploy.profile import Profile
from nacdeploy.profile.tables.training import DataTable

INPUTS, RANDOM = "inputs", "random"
_N_RANDOM = 48
_SHARES = (0.5, 0.25, 0.25)  # of inputs that calibrate, decide and are scored at the end
Rows = Callable[[int], tuple[Tensor, ...]]
Splits = Mapping[str, tuple[Rows, int]]
"""By split: what each input takes at a call, by its number, and how many calls there are. An input that has the batch
first takes a sample without the batch, any other its whole tensor."""


@dataclass(frozen=True, eq=False)
class Labels:
    """Labels of the data, by split and number."""

    n: int
    names: tuple[str, ...]
    of: Callable[[str, int], Tensor]


@dataclass(frozen=True, eq=False)
class Given:
    """The inputs of a file.

    Attributes:
        said: a line about them.
        fixed: the inputs that are the same number at every call.
    """

    splits: Splits
    said: str
    labels: Labels | None = None
    fixed: Mapping[str, NDArray] = field(default_factory=dict)


def given(inputs: Sequence[Input], data: str, profile: Profile) -> Given:
    """Return the inputs that a data set's name leads to.

    Raises:
        UsageError: they are not there, or do not fit the file.
    """
    source, _, argument = data.partition(":")
    if source == INPUTS:
        return _of_arrays(inputs, Path(argument).expanduser())
    if source == RANDOM:
        return _drawn(inputs, profile.seed)
    return _of_images(inputs, data, profile.images)


def _of_arrays(inputs: Sequence[Input], path: Path) -> Given:
    arrays = _arrays(path)
    columns, fixed, notes = dict[str, Tensor](), dict[str, NDArray](), list[str]()
    for each in inputs:
        if each.name not in arrays and (each.is_sample or not each.dtype.startswith("float")):
            raise UsageError(f"{path} has no array '{each.name}', an input of the network; it has {', '.join(arrays)}")
        if each.is_sample:
            columns[each.name] = _fitted(each, arrays[each.name], path)
    n = len(next(iter(columns.values()))) if columns else 0
    for each in inputs:
        if each.is_sample:
            continue
        if each.name not in arrays:
            notes.append(f"'{each.name}' is zeros, since the file has no such array")
        column = _whole(each, arrays.get(each.name), n, path)
        if _is_fixed(column):
            fixed[each.name] = column[0].numpy()
            notes.append(f"'{each.name}' is {_shown(column[0])} at every call, and is fixed at that")
        else:
            columns[each.name] = column
    lengths = {len(column) for column in columns.values()}
    if len(lengths) != 1 or n < 3:
        found = {name: len(column) for name, column in columns.items()}
        raise UsageError(f"{path}: the arrays have {found} rows; needed: equally many, three at least")
    order = [each.name for each in inputs if each.name in columns]
    low, high = (float(getattr(torch, f"a{end}")(columns[order[0]].float())) for end in ("min", "max"))
    said = f"{n} inputs of {path.name}, values of '{order[0]}' {low:.3g} to {high:.3g}"
    rows = _parted(lambda i: tuple(columns[name][i] for name in order), n)
    return Given(rows, "; ".join([said, *notes]), None, fixed)


def _arrays(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UsageError(f"inputs:{path} is not there; give an .npz file with an array for each input by name")
    doors.check_file(path)
    try:
        with np.load(path, allow_pickle=False) as held:
            return {name: torch.from_numpy(np.array(held[name], order="C")) for name in held.files}
    except Exception as error:  # numpy's errors share no class
        raise UsageError(f"{path} is no .npz file of arrays ({' '.join(str(error).split())[:200]})") from error


def _fitted(wanted: Input, array: Tensor, path: Path) -> Tensor:
    fixed = [(a, b) for a, b in zip(wanted.shape[1:], array.shape[1:], strict=False) if a is not None]
    if array.dim() != len(wanted.shape) or any(a != b for a, b in fixed):
        raise UsageError(f"{path}: '{wanted.name}' has shape {tuple(array.shape)}; the network takes {wanted.shape}")
    return _typed(wanted, array, path)


def _typed(wanted: Input, array: Tensor, path: Path) -> Tensor:
    if array.is_complex() or (array.is_floating_point() and not wanted.dtype.startswith(("float", "double"))):
        raise UsageError(f"{path}: '{wanted.name}' holds {array.dtype}; the network takes {wanted.dtype}")
    if array.is_floating_point() and not bool(torch.isfinite(array).all()):
        raise UsageError(f"{path}: '{wanted.name}' holds values that are no numbers (nan, inf)")
    return array.to(getattr(torch, wanted.dtype))


def _whole(wanted: Input, array: Tensor | None, n: int, path: Path) -> Tensor:
    """Return what an input without the batch first takes at each of `n` calls: `(n, *shape)`."""
    shape = tuple(1 if size is None else size for size in wanted.shape)
    if array is None:
        return torch.zeros(n, *shape, dtype=getattr(torch, wanted.dtype))
    array = _typed(wanted, array, path)
    if array.dim() == len(shape) and _fits(wanted, array.shape):
        return array.expand(n, *array.shape)
    if array.dim() == len(shape) + 1 and len(array) == n and _fits(wanted, array.shape[1:]):
        return array
    by_row = f"{(n, *shape)}, a row for each call, or {shape}, the same at every call"
    raise UsageError(f"{path}: '{wanted.name}' has shape {tuple(array.shape)}; needed: {by_row}")


def _fits(wanted: Input, shape: Sequence[int]) -> bool:
    return all(a in (None, b) for a, b in zip(wanted.shape, shape, strict=True))


def _is_fixed(column: Tensor) -> bool:
    """Tell whether an input is a few integers, the same at every call."""
    is_small = len(column) > 0 and not column.is_floating_point() and column[0].numel() <= MOST_FIXED
    return is_small and bool((column == column[0]).all())


def _shown(value: Tensor) -> str:
    return str(value.item() if value.numel() == 1 else value.tolist())


def _drawn(inputs: Sequence[Input], seed: int) -> Given:
    if any(size is None for each in inputs for size in each.shape[each.is_sample :]):
        raise UsageError("the network leaves sizes of its inputs open: random inputs need them; give --data")
    if odd := [each.name for each in inputs if not each.is_sample and not each.dtype.startswith("float")]:
        raise UsageError(f"nothing says what the network's input '{odd[0]}' is; give --data, or --fix {odd[0]}=VALUE")
    draw = torch.Generator().manual_seed(seed)
    columns = [
        torch.rand(_N_RANDOM, *map(int, filter(None, each.shape[each.is_sample :])), generator=draw) for each in inputs
    ]
    columns = [c.to(getattr(torch, each.dtype)) for c, each in zip(columns, inputs, strict=True)]
    said = "RANDOM inputs between 0 and 1, since no data are given: ranges and scores say little of real inputs"
    return Given(_parted(lambda i: tuple(column[i] for column in columns), _N_RANDOM), said)


def _parted(get: Rows, n: int) -> Splits:
    """Part inputs by turns: what calibrates is neither what decides nor what is scored."""
    ends = [round(n * share) for share in (_SHARES[0], _SHARES[0] + _SHARES[1])]
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0)).tolist()
    ends = [max(1, min(ends[0], n - 2)), max(2, min(ends[1], n - 1))]
    parts = {"train": order[: ends[0]], "validation": order[ends[0] : ends[1]], "test": order[ends[1] :]}
    return {name: (_at(get, part), len(part)) for name, part in parts.items()}


def _at(get: Rows, part: Sequence[int]) -> Rows:
    return lambda i: get(part[i])


def _of_images(inputs: Sequence[Input], data: str, table: DataTable) -> Given:
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or not inputs[0].is_sample:
        shapes = ", ".join(f"'{each.name}' {each.shape}" for each in inputs)
        raise UsageError(
            f"the network takes {shapes}, which are no images: give --data inputs:FILE.npz with these arrays"
        )
    (_, a, b, c) = inputs[0].shape
    is_last = c in (1, 3) and a not in (1, 3)
    height, width = (a, b) if is_last else (b, c)
    found = _images(data, _sized(table, height, width))
    _check_size(found, height, width, data)

    def get(images: ImageSet) -> Rows:
        def one(i: int) -> tuple[Tensor, ...]:
            x = found.normalize(images.batch(torch.tensor([i])))[0]
            return (x.permute(1, 2, 0).contiguous() if is_last else x,)

        return one

    named = {"train": found.train, "validation": found.validation, "test": found.test}
    splits: Splits = {name: (get(images), len(images)) for name, images in named.items()}
    names, n = found.class_names, found.n_outputs
    labels = Labels(n, names, lambda name, i: named[name].labels[i]) if found.is_labelled else None
    low, high = _range(splits["train"])
    order = "height, width, channels" if is_last else "channels, height, width"
    said = (
        f"images as {order}, {found.channel_order}, values {low:.3g} to {high:.3g} (images.mean, images.std, "
        "images.value_range and images.channel_order change that: they must be those of the training)"
    )
    return Given(splits, said, labels)


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


def _range(split: tuple[Rows, int]) -> tuple[float, float]:
    get, n = split
    few = [get(i)[0] for i in range(min(n, 16))]
    return min(float(x.min()) for x in few), max(float(x.max()) for x in few)
