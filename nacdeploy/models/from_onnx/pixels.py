"""Operators of ONNX that move windows or sampling points over pixels, as functions of torch: pools, resizing, and
blocks of pixels as channels.

Where torch has the same function it computes; what it lacks is computed from parts (an average over what uneven padding
leaves, sampling points of other rules), or is not read.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from nacdeploy.models.from_onnx.values import Value, numbers

_SMOOTH = {3: "linear", 4: "bilinear", 5: "trilinear"}
_CUBIC = -0.75  # torch's only coefficient


def pads_of(
    x: Tensor, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], attributes: Any
) -> list[int]:
    """Return the padding before and after each axis, `[before, ..., after, ...]`, with `auto_pad` computed."""
    kind = attributes.get("auto_pad", b"NOTSET").decode()
    n = len(kernel)
    if kind in ("NOTSET", ""):
        return list(attributes.get("pads", [0] * 2 * n))
    if kind == "VALID":
        return [0] * 2 * n
    before, after = [], []
    for size, k, stride, dilation in zip(x.shape[-n:], kernel, strides, dilations, strict=True):
        total = max((-(-size // stride) - 1) * stride + dilation * (k - 1) + 1 - size, 0)
        first = total // 2 if kind == "SAME_UPPER" else total - total // 2
        before.append(first)
        after.append(total - first)
    return before + after


def _same_by_ceiling(
    x: Tensor, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], pads: Sequence[int]
) -> bool:
    """Tell whether padding by `before` on both sides, with sizes rounded up, has the windows of uneven padding."""
    n = len(kernel)
    for size, k, stride, dilation, before, after in zip(
        x.shape[-n:], kernel, strides, dilations, pads[:n], pads[n:], strict=True
    ):
        reach = dilation * (k - 1) + 1
        wanted = (size + before + after - reach) // stride + 1
        rounded = -(-(size + 2 * before - reach) // stride) + 1
        last_starts_inside = (rounded - 1) * stride < size + before
        if after < before or 2 * before > k or wanted != rounded or not last_starts_inside:
            return False
    return True


def _max_pool(x: Tensor, **attributes: Any) -> Tensor:
    """Return the largest of each window; uneven padding stands before it, as the edge's own value, which changes no
    maximum and is a number."""
    kernel, strides, dilations, pads = _windows(x, attributes)
    n, ceil = len(kernel), bool(attributes.get("ceil_mode", 0))
    pool = getattr(F, f"max_pool{n}d")
    if _is_even(kernel, pads):
        return pool(x, kernel, strides, pads[:n], dilations, ceil_mode=ceil)
    if not ceil and _same_by_ceiling(x, kernel, strides, dilations, pads):
        return pool(x, kernel, strides, pads[:n], dilations, ceil_mode=True)
    if ceil or any(d > 1 for d in dilations) or any(p >= k for p, k in zip(pads, (*kernel, *kernel), strict=True)):
        raise NotImplementedError("MaxPool with uneven padding and ceil_mode or dilations")
    return pool(F.pad(x, _flat(pads), mode="replicate"), kernel, strides)


def _average_pool(x: Tensor, **attributes: Any) -> Tensor:
    """Return the mean of each window. Where uneven padding does not count, it is the mean with zeros over the share of
    the window that is no padding."""
    kernel, strides, dilations, pads = _windows(x, attributes)
    if any(each != 1 for each in dilations):
        raise NotImplementedError("AveragePool with dilations")
    n, ceil = len(kernel), bool(attributes.get("ceil_mode", 0))
    pool, counted = getattr(F, f"avg_pool{n}d"), bool(attributes.get("count_include_pad", 0))
    if _is_even(kernel, pads):
        return pool(x, kernel, strides, pads[:n], ceil, counted)
    if ceil:
        raise NotImplementedError("AveragePool with uneven padding and ceil_mode")
    found = pool(F.pad(x, _flat(pads)), kernel, strides)
    if counted:
        return found
    ones = torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype, device=x.device)
    return found / pool(F.pad(ones, _flat(pads)), kernel, strides)


def _windows(x: Tensor, attributes: Any) -> tuple[list[int], list[int], list[int], list[int]]:
    kernel = list(attributes["kernel_shape"])
    strides, dilations = (list(attributes.get(key, [1] * len(kernel))) for key in ("strides", "dilations"))
    return kernel, strides, dilations, pads_of(x, kernel, strides, dilations, attributes)


def _is_even(kernel: Sequence[int], pads: Sequence[int]) -> bool:
    """Tell whether torch's own pools have such padding."""
    n = len(kernel)
    return pads[:n] == pads[n:] and all(2 * p <= k for p, k in zip(pads[:n], kernel, strict=True))


def _flat(pads: Sequence[int]) -> list[int]:
    n = len(pads) // 2
    return [p for pair in zip(pads[:n][::-1], pads[n:][::-1], strict=True) for p in pair]


def _resized(x: Tensor, *given: Value, mode: Any = b"nearest", opset: int = 11, **attributes: Any) -> Tensor:
    """Resize the axes of pixels. Before opset 11 the points were asymmetric and nothing said how they are rounded: ONNX
    Runtime rounds up where an axis shrinks, else down."""
    wanted, factors = _sizes(x, given, attributes)
    where = attributes.get("coordinate_transformation_mode", b"half_pixel").decode() if opset > 10 else "asymmetric"
    points = [_points(n, w, f, where) for n, w, f in zip(x.shape[2:], wanted, factors, strict=True)]
    kind = mode.decode()
    if kind == "nearest":
        rule = attributes.get("nearest_mode", b"round_prefer_floor").decode()
        return _nearest(x, points, [rule if opset > 10 else "ceil" if f < 1 else "floor" for f in factors])
    if attributes.get("antialias", 0):
        raise NotImplementedError("Resize with antialias")
    for corners in (False, True):
        usual = "align_corners" if corners else "half_pixel"
        same = [_points(n, w, w / n, usual) for n, w in zip(x.shape[2:], wanted, strict=True)]
        if all(_close(a, b) for a, b in zip(points, same, strict=True)):
            return _by_torch(x, wanted, kind, corners, attributes)
    if kind != "linear":
        raise NotImplementedError(f"Resize {kind} by {where}")
    for axis, at in enumerate(points, 2):
        x = _between(x, axis, at)
    return x


def _sizes(x: Tensor, given: Sequence[Value], attributes: Any) -> tuple[list[int], list[float]]:
    """Return the wanted size of each axis of pixels, and the factor that places the sampling points."""
    if attributes.get("keep_aspect_ratio_policy", b"stretch") != b"stretch":
        raise NotImplementedError("Resize that keeps the aspect ratio")
    axes = [axis % x.dim() for axis in attributes.get("axes", range(x.dim()))]
    scales = [each for each in given[1:2] if each is not None] or [each for each in given[:1] if len(given) == 1]
    sizes, now = (given[2] if len(given) > 2 else None), list(x.shape)
    if sizes is not None:
        wanted = dict(zip(axes, numbers(sizes), strict=True))
        factors = {axis: wanted[axis] / now[axis] for axis in axes if axis > 1}
        is_of_pixels = 1 not in axes or wanted[1] == now[1]
    else:
        factors = dict(zip(axes, numbers(scales[0]) if scales else attributes["scales"], strict=True))
        wanted = {axis: int(np.float32(now[axis]) * np.float32(factors[axis])) for axis in axes if axis > 1}
        is_of_pixels = all(factors[axis] == 1 for axis in axes if axis < 2)
    if not is_of_pixels:
        raise NotImplementedError("Resize of batch or channels")
    pixels = range(2, x.dim())
    return [wanted.get(axis, now[axis]) for axis in pixels], [factors.get(axis, 1.0) for axis in pixels]


def _points(size: int, wanted: int, factor: float, where: str) -> list[float]:
    """Return where the new pixels of an axis lie among the old ones, by a rule of ONNX's Resize."""
    at = range(wanted)
    if wanted == size and factor == 1 and where != "tf_crop_and_resize":
        return [float(i) for i in at]
    if where == "asymmetric":
        return [i / factor for i in at]
    if where == "align_corners" and abs(size * factor - wanted) > 1e-4:  # ONNX and ONNX Runtime differ on it
        raise NotImplementedError("Resize by align_corners to no whole size")
    if where == "align_corners":
        return [i * (size - 1) / (size * factor - 1) if size * factor != 1 else 0.0 for i in at]
    if where == "half_pixel" or (where == "pytorch_half_pixel" and wanted > 1):
        return [(i + 0.5) / factor - 0.5 for i in at]
    if where == "pytorch_half_pixel":
        return [0.0]
    if where == "half_pixel_symmetric":
        offset = size / 2 * (1 - wanted / (size * factor))
        return [offset + (i + 0.5) / factor - 0.5 for i in at]
    if where == "tf_half_pixel_for_nn":
        return [(i + 0.5) / factor for i in at]
    raise NotImplementedError(f"Resize by {where}")


def _nearest(x: Tensor, points: Sequence[Sequence[float]], roundings: Sequence[str]) -> Tensor:
    """Return the nearest old pixels: by torch where its rule picks the same ones, else each axis's by number."""
    rules: dict[str, Callable[[float], float]] = {
        "floor": math.floor,
        "ceil": math.ceil,
        "round_prefer_floor": lambda p: math.ceil(p - 0.5),
        "round_prefer_ceil": lambda p: math.floor(p + 0.5),
    }
    picked = [
        [min(max(int(rules[rounding](round(p, 6))), 0), size - 1) for p in at]
        for size, at, rounding in zip(x.shape[2:], points, roundings, strict=True)
    ]
    wanted = [len(at) for at in picked]
    if all(at == [i * size // len(at) for i in range(len(at))] for size, at in zip(x.shape[2:], picked, strict=True)):
        return F.interpolate(x, tuple(wanted), mode="nearest")
    for axis, at in enumerate(picked, 2):
        x = x.index_select(axis, torch.tensor(at, device=x.device))
    return x


def _by_torch(x: Tensor, wanted: Sequence[int], kind: str, corners: bool, attributes: Any) -> Tensor:
    if kind == "linear":
        return F.interpolate(x, tuple(wanted), mode=_SMOOTH[x.dim()], align_corners=corners)
    coefficient = attributes.get("cubic_coeff_a", _CUBIC)
    if x.dim() != 4 or coefficient != _CUBIC or attributes.get("exclude_outside", 0):
        raise NotImplementedError(f"Resize {kind} of {x.dim()} axes with the coefficient {coefficient:g}")
    return F.interpolate(x, tuple(wanted), mode="bicubic", align_corners=corners)


def _between(x: Tensor, axis: int, points: Sequence[float]) -> Tensor:
    """Return an axis sampled at points between its pixels, linear; beyond the edges it is the edge."""
    last = x.shape[axis] - 1
    inside = [min(max(p, 0.0), float(last)) for p in points]
    low = [min(int(p), last) for p in inside]
    shape = [1] * x.dim()
    shape[axis] = -1
    share = torch.tensor([p - i for p, i in zip(inside, low, strict=True)], dtype=x.dtype, device=x.device)
    below, above = (
        x.index_select(axis, torch.tensor(at, device=x.device)) for at in (low, [min(i + 1, last) for i in low])
    )
    return below + (above - below) * share.reshape(shape)


def _close(a: Sequence[float], b: Sequence[float]) -> bool:
    return all(abs(p - q) < 1e-5 for p, q in zip(a, b, strict=True))


def _depth_to_space(x: Tensor, blocksize: int, mode: Any = b"DCR") -> Tensor:
    if mode == b"CRD":
        return F.pixel_shuffle(x, blocksize)
    n, c, h, w = x.shape
    parts = x.reshape(n, blocksize, blocksize, c // blocksize**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return parts.reshape(n, c // blocksize**2, h * blocksize, w * blocksize)


def _space_to_depth(x: Tensor, blocksize: int, mode: Any = b"DCR") -> Tensor:
    if mode == b"CRD":
        return F.pixel_unshuffle(x, blocksize)
    n, c, h, w = x.shape
    parts = x.reshape(n, c, h // blocksize, blocksize, w // blocksize, blocksize).permute(0, 3, 5, 1, 2, 4)
    return parts.reshape(n, c * blocksize**2, h // blocksize, w // blocksize)


ON_PIXELS: dict[str, Callable[..., Tensor]] = {
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": lambda x: x.mean(tuple(range(2, x.dim())), keepdim=True),
    "GlobalMaxPool": lambda x: x.amax(tuple(range(2, x.dim())), keepdim=True),
    "Resize": _resized,
    "Upsample": lambda x, *given, **attributes: _resized(x, *given, opset=9, **attributes),
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
}
