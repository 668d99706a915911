"""Operators of ONNX without weights as functions of torch: one entry each, those on pixels in `pixels.py`. Attributes
come as keywords.

What is not in the table, and no layer (`layers.py`), is not read: `FUNCTIONS` is the list of what is covered. Domains
other than ONNX's own, control flow (If, Loop, Scan), recurrent operators, random numbers and operators whose output
shapes depend on values (NonMaxSuppression, NonZero) are not.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor
from torch.nn import functional as F

from nacdeploy.models.from_onnx.pixels import ON_PIXELS
from nacdeploy.models.from_onnx.sizes import Sizes
from nacdeploy.models.from_onnx.values import Value, numbers, tensor


def _binary(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def compute(*given: Value) -> Tensor:
        like = next(each for each in given if isinstance(each, Tensor))
        found = tensor(given[0], like)
        for each in given[1:]:
            found = function(found, tensor(each, like))
        return found

    return compute


def _unary(function: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda x: function(tensor(x))


def _divided(a: Tensor, b: Tensor) -> Tensor:
    is_integer = not (a.is_floating_point() or b.is_floating_point())
    return torch.div(a, b, rounding_mode="trunc") if is_integer else a / b


def _cast(x: Tensor, to: int, saturate: int = 1, round_mode: Any = None) -> Tensor:
    """Return another type. What saturates and how it is rounded is told for types of less than 16 bits alone."""
    kind = onnx.helper.tensor_dtype_to_np_dtype(to)
    return x.to(torch.float32 if kind == np.float16 else torch.from_numpy(np.zeros(0, kind)).dtype)


def _clip(
    x: Tensor, low: Value = None, high: Value = None, min: float | None = None, max: float | None = None
) -> Tensor:
    kind = float if x.is_floating_point() else int
    bounds = [min if low is None else kind(tensor(low)), max if high is None else kind(tensor(high))]
    if bounds == [None, None]:
        return x
    if bounds == [0.0, 6.0]:
        return F.relu6(x)
    return F.relu(x) if bounds == [0.0, None] else torch.clamp(x, *bounds)


def _reshape(
    x: Tensor,
    shape: Value,
    allowzero: int = 0,
    batch: int | None = None,
    was: tuple[int, ...] | None = None,
    became: tuple[int, ...] | None = None,
) -> Tensor:
    """Reshape; in a file for one batch (`batch`, in which x `was` of a shape and `became` another) with any batch."""
    wanted = numbers(shape)
    if not allowzero:
        wanted = [
            x.shape[i] if not isinstance(size, torch.SymInt) and size == 0 else size for i, size in enumerate(wanted)
        ]
    if batch is not None and all(isinstance(size, int) for size in wanted):
        if became is not None and any(size not in (-1, then) for size, then in zip(wanted, became, strict=True)):
            return x.reshape(wanted)  # computed from this batch
        return x.reshape(_of_first(x, wanted, batch) if was is None else _of_any(x, wanted, batch, was))
    return x.reshape(wanted)


def _of_first(x: Tensor, wanted: list[int], batch: int) -> list[int]:
    """Return a shape whose first size is that of the batch, where nothing more is known than that x has it first."""
    return [x.shape[0], *wanted[1:]] if wanted[:1] == [batch] and x.dim() else wanted


def _of_any(x: Tensor, wanted: list[int], batch: int, was: Sequence[int]) -> list[int]:
    """Return a shape that was written for one batch, with another one. The axis of x that differs from what it was has
    the batch, alone or with something else (windows of all images)."""
    moved = [i for i, (now, then) in enumerate(zip(x.shape, was, strict=True)) if _differs(now, then)]
    sizes = [prod(was) // -prod(wanted) if size == -1 else size for size in wanted]
    if not moved or prod(sizes) != prod(was):  # the file's batch, or sizes that were computed from this one
        return wanted
    if len(moved) > 1:
        raise NotImplementedError("Reshape that takes the batch apart")
    at = _place_of_batch(sizes, batch, prod(was[: moved[0]]), was[moved[0]])
    return [*sizes[:at], -1, *sizes[at + 1 :]]


def _place_of_batch(sizes: Sequence[int], batch: int, begin: int, size: int) -> int:
    """Return the axis of a shape that has the batch behind, where it begins after `begin` numbers in an axis of `size`:
    the batch alone, there or further on in that axis; else what begins there, but for the last axis, which layers read,
    and in front of which it belongs."""
    starts = [prod(sizes[:j]) for j in range(len(sizes))]
    alone = [j for j, start in enumerate(starts) if sizes[j] == batch and begin <= start <= begin * size]
    if alone:
        return alone[0]
    if begin not in starts:
        raise NotImplementedError("Reshape that takes the batch apart")
    at = len(starts) - 1 - starts[::-1].index(begin)
    return at - 1 if at and at == len(sizes) - 1 else at


def _differs(now: int | torch.SymInt, then: int) -> bool:
    return isinstance(now, torch.SymInt) or now != then


def _flatten(x: Tensor, axis: int = 1) -> Tensor:
    axis = axis % x.dim() if axis < 0 else axis
    return x.reshape(prod(x.shape[:axis]), -1) if axis != 1 or x.dim() == 1 else x.flatten(1)


def _squeeze(x: Tensor, axes: Value = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(tuple(int(axis) for axis in numbers(axes)))


def _unsqueeze(x: Value, axes: Value) -> Tensor:
    given, found = numbers(axes), tensor(x)
    for axis in sorted(int(axis) % (found.dim() + len(given)) for axis in given):
        found = found.unsqueeze(axis)
    return found


def _concat(*parts: Value, axis: int) -> Tensor:
    like = next(each for each in parts if isinstance(each, Tensor))
    tensors = [tensor(each, like) for each in parts]
    n = next((each.shape[0] for each in tensors if each.dim() and _differs(each.shape[0], 1)), 1)
    if axis % like.dim() and _differs(n, 1):  # a constant of a file for one image is the same for all
        tensors = [each.expand(n, *each.shape[1:]) if not _differs(each.shape[0], 1) else each for each in tensors]
    return torch.cat(tensors, axis)


def _split(
    x: Tensor, sizes: Value = None, axis: int = 0, num_outputs: int | None = None, n: int = 1, split: Any = None
) -> Any:
    given = split if sizes is None else numbers(sizes)
    if given is None:
        given = -(-x.shape[axis] // (num_outputs or n))
    return x.split(given, axis)


def _slice(x: Tensor, *bounds: Value, **attributes: Any) -> Tensor:
    starts, ends, axes, steps = (*bounds, None, None, None, None)[:4]
    first = numbers(starts) if starts is not None else attributes["starts"]
    last = numbers(ends) if ends is not None else attributes["ends"]
    along = numbers(axes) if axes is not None else attributes.get("axes", range(len(first)))
    by = numbers(steps) if steps is not None else [1] * len(first)
    for start, end, axis, step in zip(first, last, along, by, strict=True):
        if step < 0:
            x, start, end, step = x.flip(int(axis)), -1 - start, -1 - end, -step
        index: list[Any] = [slice(None)] * x.dim()
        index[int(axis)] = slice(start, end if not isinstance(end, int) or end < 2**31 else None, step)
        x = x[tuple(index)]
    return x


def _gather(x: Value, indices: Value, axis: int = 0) -> Tensor:
    found = tensor(x, indices if isinstance(indices, Tensor) else None)
    if isinstance(indices, Sizes) and indices.is_scalar:
        return found.select(axis, indices.one)
    at = tensor(indices, found).long()
    at = torch.where(at < 0, at + found.shape[axis], at)
    picked = found.index_select(axis, at.reshape(-1))
    axis = axis % found.dim()
    return picked.reshape(*found.shape[:axis], *at.shape, *found.shape[axis + 1 :])


def _gathered_elements(x: Value, indices: Value, axis: int = 0) -> Tensor:
    found = tensor(x)
    at = tensor(indices, found).long()
    return torch.gather(found, axis, torch.where(at < 0, at + found.shape[axis], at))


def _pad(x: Tensor, pads: Value, value: Value = None, axes: Value = None, mode: Any = b"constant") -> Tensor:
    given = numbers(pads)
    along = [int(axis) % x.dim() for axis in numbers(axes)] if axes is not None else list(range(x.dim()))
    half = len(along)
    by_axis = {axis: (given[i], given[half + i]) for i, axis in enumerate(along)}
    flat = [int(n) for axis in reversed(range(x.dim())) for n in by_axis.get(axis, (0, 0))]
    while len(flat) > 2 and flat[-2:] == [0, 0]:
        flat = flat[:-2]
    kind = mode.decode()
    fill = 0.0 if value is None else float(tensor(value))
    return (
        F.pad(x, flat, value=fill) if kind == "constant" else F.pad(x, flat, mode={"edge": "replicate"}.get(kind, kind))
    )


def _reduced(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def compute(x: Tensor, axes: Value = None, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
        given = None if axes is None else numbers(axes)
        if not given and noop_with_empty_axes:
            return x
        along = tuple(int(axis) for axis in given) if given else tuple(range(x.dim()))
        return function(x, along, keepdim=bool(keepdims))

    return compute


def _product(x: Tensor, along: Sequence[int], keepdim: bool) -> Tensor:
    for axis in sorted((axis % x.dim() for axis in along), reverse=True):
        x = x.prod(axis, keepdim=keepdim)
    return x


def _softmax(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def compute(x: Tensor, axis: int | None = None, opset: int = 13) -> Tensor:
        if opset >= 13:
            return function(x, -1 if axis is None else axis)
        axis = 1 if axis is None else axis % x.dim()
        if axis == x.dim() - 1:
            return function(x, -1)
        return function(x.flatten(axis), -1).reshape(x.shape)

    return compute


def _expanded(x: Value, shape: Value) -> Tensor:
    found, wanted = tensor(x), numbers(shape)
    lead = [1] * (len(wanted) - found.dim()) + list(found.shape)
    lead = lead[len(lead) - max(len(wanted), found.dim()) :]
    wanted = [1] * (len(lead) - len(wanted)) + wanted
    sizes = [have if isinstance(w, int) and w == 1 else w for have, w in zip(lead, wanted, strict=True)]
    return found.expand(sizes)


def _filled(shape: Value, value: Any = None) -> Tensor:
    fill = onnx.numpy_helper.to_array(value).item() if value is not None else 0.0
    return torch.full(numbers(shape), fill)


def _arg(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def compute(x: Tensor, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
        if select_last_index:
            return x.shape[axis] - 1 - function(x.flip(axis), axis, keepdim=bool(keepdims))
        return function(x, axis, keepdim=bool(keepdims))

    return compute


def _top(x: Tensor, k: Value, axis: int = -1, largest: int = 1, sorted: int = 1) -> Any:
    n = k if isinstance(k, int) else int(numbers(k)[0])  # an attribute, or an input
    return tuple(torch.topk(x, n, axis, bool(largest), bool(sorted)))


def _summed(x: Tensor, axis: Value, exclusive: int = 0, reverse: int = 0) -> Tensor:
    along = int(numbers(axis)[0])
    x = x.flip(along) if reverse else x
    found = torch.cumsum(x, along) - (x if exclusive else 0)
    return found.flip(along) if reverse else found


def _mean(*given: Value) -> Tensor:
    return _binary(torch.add)(*given) / len(given)


def _triangle(x: Tensor, k: Value = None, upper: int = 1) -> Tensor:
    at = 0 if k is None else int(numbers(k)[0])
    return torch.triu(x, at) if upper else torch.tril(x, at)


def _group_norm(
    x: Tensor, scale: Tensor, bias: Tensor, num_groups: int, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    """Normalise groups of channels; before opset 21 scale and bias are those of groups."""
    each = x.shape[1] // len(scale)
    scale, bias = (v.repeat_interleave(each) if each > 1 else v for v in (scale, bias))
    return F.group_norm(x, num_groups, scale, bias, epsilon)


def _prelu(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x > 0, x, x * slope)


def _selu(x: Tensor, alpha: float | None = None, gamma: float | None = None) -> Tensor:
    if alpha is None and gamma is None:
        return F.selu(x)
    return (1.0507009873554805 if gamma is None else gamma) * F.elu(x, 1.6732632423543772 if alpha is None else alpha)


def _gelu(x: Tensor, approximate: Any = b"none") -> Tensor:
    return F.gelu(x, approximate=approximate.decode())


def _instance_norm(x: Tensor, scale: Tensor, bias: Tensor, epsilon: float = 1e-5) -> Tensor:
    return F.instance_norm(x, weight=scale, bias=bias, eps=epsilon)


def _layer_norm(
    x: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> Tensor:
    """Normalise; sums are taken in single precision, which is what `stash_type` says too."""
    shape = x.shape[axis:]
    return F.layer_norm(x, shape, scale.expand(shape), None if bias is None else bias.expand(shape), epsilon)


def _lrn(x: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0) -> Tensor:
    return F.local_response_norm(x, size, alpha, beta, bias)


def _normalised(x: Tensor, axis: int = -1, p: int = 2) -> Tensor:
    return F.normalize(x, p, axis)


_TRIGONOMETRIC = ("Sin", "Cos", "Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Asinh", "Acosh", "Atanh")

FUNCTIONS: dict[str, Callable[..., Any]] = {
    **ON_PIXELS,
    "Add": _binary(torch.add),
    "Sub": _binary(torch.sub),
    "Mul": _binary(torch.mul),
    "Div": _binary(_divided),
    "Pow": _binary(torch.pow),
    "Min": _binary(torch.minimum),
    "Max": _binary(torch.maximum),
    "Mod": lambda a, b, fmod=0: _binary(torch.fmod if fmod else torch.remainder)(a, b),
    "Sum": _binary(torch.add),
    "Equal": _binary(torch.eq),
    "Greater": _binary(torch.gt),
    "GreaterOrEqual": _binary(torch.ge),
    "Less": _binary(torch.lt),
    "LessOrEqual": _binary(torch.le),
    "And": _binary(torch.logical_and),
    "Or": _binary(torch.logical_or),
    "MatMul": _binary(torch.matmul),
    "Where": lambda c, a, b: torch.where(c, tensor(a, c), tensor(b, c)),
    "Xor": _binary(torch.logical_xor),
    "Mean": _mean,
    "Not": _unary(torch.logical_not),
    "IsNaN": _unary(torch.isnan),
    "Trilu": _triangle,
    "Abs": _unary(torch.abs),
    "Neg": _unary(torch.neg),
    "Exp": _unary(torch.exp),
    "Log": _unary(torch.log),
    "Sqrt": _unary(torch.sqrt),
    "Reciprocal": _unary(torch.reciprocal),
    "Floor": _unary(torch.floor),
    "Ceil": _unary(torch.ceil),
    "Round": _unary(torch.round),
    "Sign": _unary(torch.sign),
    **{name: _unary(getattr(torch, name.lower())) for name in _TRIGONOMETRIC},
    "Erf": _unary(torch.erf),
    "Tanh": _unary(torch.tanh),
    "Sigmoid": _unary(torch.sigmoid),
    "Relu": _unary(F.relu),
    "Softplus": _unary(F.softplus),
    "Softsign": _unary(F.softsign),
    "HardSwish": _unary(F.hardswish),
    "Mish": _unary(F.mish),
    "Identity": _unary(lambda x: x),
    "Dropout": lambda x, *_, **__: x,
    "LeakyRelu": lambda x, alpha=0.01: F.leaky_relu(x, alpha),
    "Elu": lambda x, alpha=1.0: F.elu(x, alpha),
    "Selu": _selu,
    "Celu": lambda x, alpha=1.0: F.celu(x, alpha),
    "Swish": lambda x, alpha=1.0: x * torch.sigmoid(alpha * x),
    "ThresholdedRelu": lambda x, alpha=1.0: torch.where(x > alpha, x, 0.0),
    "HardSigmoid": lambda x, alpha=0.2, beta=0.5: torch.clamp(alpha * x + beta, 0.0, 1.0),
    "Gelu": _gelu,
    "PRelu": _prelu,
    "Clip": _clip,
    "Cast": _cast,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Transpose": lambda x, perm=None: x.permute(perm or tuple(reversed(range(x.dim())))),
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "GatherElements": _gathered_elements,
    "Expand": _expanded,
    "Tile": lambda x, repeats: x.repeat(*numbers(repeats)),
    "Pad": _pad,
    "ConstantOfShape": _filled,
    "ReduceMean": _reduced(torch.mean),
    "ReduceSum": _reduced(torch.sum),
    "ReduceMax": _reduced(torch.amax),
    "ReduceMin": _reduced(torch.amin),
    "ReduceProd": _reduced(_product),
    "ReduceL2": _reduced(lambda x, axes, keepdim: x.square().sum(axes, keepdim=keepdim).sqrt()),
    "ReduceL1": _reduced(lambda x, axes, keepdim: x.abs().sum(axes, keepdim=keepdim)),
    "ReduceLogSum": _reduced(lambda x, axes, keepdim: x.sum(axes, keepdim=keepdim).log()),
    "ReduceLogSumExp": _reduced(torch.logsumexp),
    "ReduceSumSquare": _reduced(lambda x, axes, keepdim: x.square().sum(axes, keepdim=keepdim)),
    "ArgMax": _arg(torch.argmax),
    "ArgMin": _arg(torch.argmin),
    "TopK": _top,
    "Softmax": _softmax(torch.softmax),
    "LogSoftmax": _softmax(torch.log_softmax),
    "CumSum": _summed,
    "Einsum": lambda *given, equation: torch.einsum(equation.decode(), *given),
    "InstanceNormalization": _instance_norm,
    "LRN": _lrn,
    "LayerNormalization": _layer_norm,
    "GroupNormalization": _group_norm,
    "LpNormalization": _normalised,
}
BY_OPSET = {"Softmax", "LogSoftmax", "Resize"}  # they mean something else in old files
# Their inputs behind the first are settings: numbers, which no graph of fixed shapes may compute.
SET_BY_NUMBERS = {"Resize", "Upsample", "Pad", "Slice", "Clip", "Tile", "Expand", "Reshape", "Squeeze", "Unsqueeze"}
SET_BY_NUMBERS |= {"TopK", "Split", "CumSum", "Trilu", *(name for name in FUNCTIONS if name.startswith("Reduce"))}
