"""Sizes: what an ONNX graph computes about shapes, as Python numbers.

Exporters write `x.view(x.size(0), -1)` as nodes Shape, Gather, Unsqueeze, Concat and Reshape. Run on tensors, the shape
would be a value that no graph of fixed shapes can hold. Here these nodes compute with Python's integers, of which the
batch may be a symbol.
"""

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Sizes:
    """Numbers along one axis, or a single one (`is_scalar`), each an int, a float, a bool or a symbolic int.

    Between two reshapes they may have more axes (`shape`): exporters turn a network's pads around as a matrix.
    """

    def __init__(self, values: Sequence[Any], is_scalar: bool = False, shape: Sequence[int] | None = None) -> None:
        self.values, self.is_scalar = tuple(values), is_scalar
        self.shape = tuple(shape) if shape is not None else () if is_scalar else (len(self.values),)

    @staticmethod
    def of(array: NDArray[Any]) -> "Sizes":
        """Return the numbers of an array of objects."""
        return Sizes(array.reshape(-1).tolist(), array.ndim == 0, array.shape)

    @property
    def array(self) -> NDArray[Any]:
        """The numbers as an array of objects."""
        made = np.empty(len(self.values), dtype=object)
        made[:] = self.values
        return made.reshape(self.shape)

    def __iter__(self) -> Any:
        return iter(self.values)

    def __len__(self) -> int:
        return len(self.values)

    def tensor(self) -> Tensor:
        """Return the numbers as a tensor, `()` or `(n,)`."""
        kind = None if self.values else torch.int64  # none at all are sizes too
        return torch.tensor(self.values[0] if self.is_scalar else list(self.values), dtype=kind).reshape(self.shape)

    @property
    def one(self) -> Any:
        """The only number."""
        (value,) = self.values
        return value


def _elementwise(function: Callable[..., Any]) -> Callable[..., Sizes]:
    def compute(*given: Sizes) -> Sizes:
        rows = np.broadcast_arrays(*(each.array for each in given))
        made = np.empty(rows[0].shape, dtype=object)
        for at in np.ndindex(made.shape):
            made[at] = function(*(row[at] for row in rows))
        return Sizes.of(made)

    return compute


def _divided(a: Any, b: Any) -> Any:
    """Divide; integers towards zero."""
    if isinstance(a, float) or isinstance(b, float):
        return a / b
    return -(-a // b) if isinstance(a, int) and isinstance(b, int) and (a < 0) != (b < 0) else a // b


def _rest(a: Sizes, b: Sizes, fmod: int = 0) -> Sizes:
    """Return the remainder, with the sign of b; with `fmod` that of a."""
    return _elementwise(_c_rest if fmod else operator.mod)(a, b)


def _c_rest(a: Any, b: Any) -> Any:
    return math.fmod(a, b) if isinstance(a, float) or isinstance(b, float) else a - b * _divided(a, b)


def _gathered(data: Sizes, indices: Sizes, axis: int = 0) -> Sizes:
    found = np.empty(indices.shape, dtype=int)
    found.reshape(-1)[:] = [int(i) for i in indices]
    return _made(np.take(data.array, found, axis))


def _made(found: Any) -> Sizes:
    """Return what numpy made of an array of objects, which may be one of them."""
    return Sizes.of(found) if isinstance(found, np.ndarray) else Sizes([found], is_scalar=True)


def _sliced(data: Sizes, *bounds: Sizes | None, **attributes: Any) -> Sizes:
    starts, ends, axes, steps = (*bounds, None, None, None, None)[:4]
    first = attributes["starts"] if starts is None else starts.values
    last = attributes["ends"] if ends is None else ends.values
    along = attributes.get("axes", range(len(first))) if axes is None else axes.values
    by = [1] * len(first) if steps is None else steps.values
    index: list[Any] = [slice(None)] * len(data.shape)
    for start, end, axis, step in zip(first, last, along, by, strict=True):
        size = data.shape[int(axis)]
        is_whole = step < 0 and end < -size  # back to the first one, which Python writes as None
        index[int(axis)] = slice(int(start), None if is_whole else int(end), int(step))
    return Sizes.of(data.array[tuple(index)])


def _reshaped(data: Sizes, shape: Sizes, allowzero: int = 0, **_: Any) -> Sizes:
    """Reshape; a file's batch, which is told too, is not in sizes."""
    if allowzero:
        raise NotImplementedError("Reshape of sizes to none")
    wanted = shape.values
    return Sizes.of(data.array.reshape([data.shape[i] if n == 0 else int(n) for i, n in enumerate(wanted)]))


def _transposed(data: Sizes, perm: Sequence[int] | None = None) -> Sizes:
    return Sizes.of(data.array.transpose(perm))


def _joined(*parts: Sizes, axis: int = 0) -> Sizes:
    return Sizes.of(np.concatenate([part.array for part in parts], axis))


def _cast(data: Sizes, to: int = 7, saturate: int = 1, round_mode: Any = None) -> Sizes:
    kind: Any = float if to in (1, 10, 11, 16) else bool if to == 9 else None
    if kind is None:
        return _each(data, lambda v: int(v) if isinstance(v, float | bool) else v)
    return _each(data, kind)


def _each(data: Sizes, function: Callable[[Any], Any]) -> Sizes:
    return Sizes([function(v) for v in data], data.is_scalar, data.shape)


def _range(start: Sizes, end: Sizes, step: Sizes) -> Sizes | Tensor:
    bounds = (start.one, end.one, step.one)
    if any(isinstance(each, torch.SymInt | float) for each in bounds):  # as many numbers as the batch has images
        return torch.arange(*bounds)
    return Sizes(range(*(int(each) for each in bounds)))


Axes = Sizes | Sequence[int] | None  # an input, or an attribute of older files


def _axes(axes: Axes) -> tuple[int, ...] | None:
    return None if axes is None else tuple(int(axis) for axis in axes)


def _unsqueezed(data: Sizes, axes: Axes = None) -> Sizes:
    return Sizes.of(np.expand_dims(data.array, _axes(axes) or ()))


def _squeezed(data: Sizes, axes: Axes = None) -> Sizes:
    return Sizes.of(np.squeeze(data.array, _axes(axes)))


def _product(data: Sizes, axes: Axes = None, keepdims: int = 1) -> Sizes:
    along = _axes(axes)
    if along is None and len(data.shape) == 1:
        along = (0,)
    if along not in ((0,), (-1,)) or len(data.shape) != 1:
        raise NotImplementedError("ReduceProd of a matrix of sizes")
    return Sizes([math.prod(data.values)], is_scalar=not keepdims)


ON_SIZES: dict[str, Callable[..., Any]] = {
    "Add": _elementwise(operator.add),
    "Sub": _elementwise(operator.sub),
    "Mul": _elementwise(operator.mul),
    "Div": _elementwise(_divided),
    "Mod": _rest,
    "Min": _elementwise(min),
    "Max": _elementwise(max),
    "Neg": _elementwise(operator.neg),
    "Floor": _elementwise(math.floor),
    "Ceil": _elementwise(math.ceil),
    "Equal": _elementwise(operator.eq),
    "Greater": _elementwise(operator.gt),
    "Less": _elementwise(operator.lt),
    "Not": _elementwise(operator.not_),
    "Where": _elementwise(lambda condition, a, b: a if condition else b),
    "Identity": lambda data: data,
    "Gather": _gathered,
    "Slice": _sliced,
    "Concat": _joined,
    "Cast": _cast,
    "Range": _range,
    "Unsqueeze": _unsqueezed,
    "Reshape": _reshaped,
    "Transpose": _transposed,
    "Squeeze": _squeezed,
    "ReduceProd": _product,
}
