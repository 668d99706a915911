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
        return torch.tensor(self.values[0] if self.is_scalar else list(self.values)).reshape(self.shape)

    @property
    def one(self) -> Any:
        """The only number."""
        (value,) = self.values
        return value


def _elementwise(function: Callable[..., Any]) -> Callable[..., Sizes]:
    def compute(*given: Sizes, **_: Any) -> Sizes:
        n = max(len(each) for each in given)
        rows = [each.values * n if len(each) == 1 else each.values for each in given]
        return Sizes([function(*row) for row in zip(*rows, strict=True)], all(each.is_scalar for each in given))

    return compute


def _divided(a: Any, b: Any) -> Any:
    return a / b if isinstance(a, float) or isinstance(b, float) else a // b


def _gathered(data: Sizes, indices: Sizes, **_: Any) -> Sizes:
    return Sizes([data.values[int(i)] for i in indices], indices.is_scalar)


def _sliced(data: Sizes, *bounds: Sizes | None, **attributes: Any) -> Sizes:
    starts, ends, axes, steps = (*bounds, None, None, None, None)[:4]
    first = starts.values if starts else attributes["starts"]
    last = ends.values if ends else attributes["ends"]
    along = axes.values if axes else attributes.get("axes", range(len(first)))
    by = steps.values if steps else [1] * len(first)
    index: list[Any] = [slice(None)] * len(data.shape)
    for start, end, axis, step in zip(first, last, along, by, strict=True):
        index[int(axis)] = slice(int(start), int(end), int(step))
    return Sizes.of(data.array[tuple(index)])


def _reshaped(data: Sizes, shape: Sizes | None = None, **attributes: Any) -> Sizes:
    wanted = list(attributes["shape"] if shape is None else shape.values)
    return Sizes.of(data.array.reshape([data.shape[i] if n == 0 else int(n) for i, n in enumerate(wanted)]))


def _transposed(data: Sizes, perm: Sequence[int] | None = None, **_: Any) -> Sizes:
    return Sizes.of(data.array.transpose(perm))


def _joined(*parts: Sizes, **_: Any) -> Sizes:
    return Sizes([value for part in parts for value in part])


def _cast(data: Sizes, to: int = 7, **_: Any) -> Sizes:
    kind: Any = float if to in (1, 10, 11, 16) else bool if to == 9 else None
    if kind is None:
        return Sizes([int(v) if isinstance(v, float | bool) else v for v in data], data.is_scalar)
    return Sizes([kind(v) for v in data], data.is_scalar)


def _range(start: Sizes, end: Sizes, step: Sizes, **_: Any) -> Sizes | Tensor:
    if any(
        isinstance(each.one, torch.SymInt) for each in (start, end, step)
    ):  # as many numbers as the batch has images
        return torch.arange(start.one, end.one, step.one)
    return Sizes(range(int(start.one), int(end.one), int(step.one)))


def _as_list(data: Sizes, *_: Any, **__: Any) -> Sizes:
    return Sizes(data.values)


def _as_one(data: Sizes, *_: Any, **__: Any) -> Sizes:
    return Sizes(data.values, is_scalar=len(data) == 1)


ON_SIZES: dict[str, Callable[..., Any]] = {
    "Add": _elementwise(operator.add),
    "Sub": _elementwise(operator.sub),
    "Mul": _elementwise(operator.mul),
    "Div": _elementwise(_divided),
    "Mod": _elementwise(operator.mod),
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
    "Identity": lambda data, **_: data,
    "Gather": _gathered,
    "Slice": _sliced,
    "Concat": _joined,
    "Cast": _cast,
    "Range": _range,
    "Unsqueeze": _as_list,
    "Reshape": _reshaped,
    "Transpose": _transposed,
    "Squeeze": _as_one,
    "ReduceProd": lambda data, *_, **__: Sizes([math.prod(data.values)], is_scalar=True),
}
