"""The original network with removed channels set to zero: the answer that a cut network must give.

Activations are zeroed, not weights, so that this holds for layers that compute their weights from parameters too: the
removed outputs of every cut layer, and the removed inputs of every layer that reads them. A norm over channels (layer
norm, group norm) takes its statistics from the kept channels, as removal means there.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.overrides import TorchFunctionMode

Kept = Mapping[str, Mapping[int, tuple[int, ...]]]  # the remaining indices of the axes of each cut tensor


@contextmanager
def zeroed(module: nn.Module, kept: Kept, *, norms_of_kept: bool = True) -> Iterator[None]:
    """Let `module` answer with the removed channels set to zero within the block."""
    with ExitStack() as stack:
        normed: dict[int, tuple[int, ...]] = {}
        for name, axes in kept.items():
            owner, _, kind = name.rpartition(".")
            layer = module.get_submodule(owner)
            tensor = layer._parameters.get(kind)
            if tensor is None:  # a buffer: a norm's statistics of a channel that is zero now
                continue
            for handle in _hooks(layer, tensor, axes):
                stack.callback(handle.remove)
            if _is_norm(layer) and kind == "weight" and 0 in axes:
                normed[id(tensor)] = axes[0]
            if not isinstance(layer, _ConvNd | nn.Linear) or _is_plain(layer):
                stack.enter_context(_zeros_in(tensor, axes))
        if norms_of_kept and normed:
            stack.enter_context(_NormsOfKept(normed))
        yield


def kept_by(slices: Iterable[Any]) -> dict[str, dict[int, tuple[int, ...]]]:
    """Return the slices of a cut by tensor of the backbone and axis."""
    found: dict[str, dict[int, tuple[int, ...]]] = {}
    for each in slices:
        if each.tensor.startswith("backbone."):
            found.setdefault(each.tensor.removeprefix("backbone."), {})[each.axis] = each.kept
    return found


def _is_norm(layer: nn.Module) -> bool:
    return "norm" in type(layer).__name__.lower()


def _is_plain(layer: nn.Module) -> bool:
    """Tell whether a layer's weight is a parameter itself."""
    return not hasattr(layer, "parametrizations") and type(layer) in (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def _removed(tensor: Tensor, axis: int, axes: Mapping[int, tuple[int, ...]]) -> Tensor:
    gone = torch.ones(tensor.shape[axis], dtype=torch.bool)
    gone[list(axes[axis])] = False
    return gone.nonzero().flatten()


@contextmanager
def _zeros_in(tensor: Tensor, axes: Mapping[int, tuple[int, ...]]) -> Iterator[None]:
    former = tensor.detach().clone()
    with torch.no_grad():
        for axis in axes:
            tensor.index_fill_(axis, _removed(tensor, axis, axes), 0.0)
    try:
        yield
    finally:
        with torch.no_grad():
            tensor.copy_(former)


def _hooks(layer: nn.Module, tensor: Tensor, axes: Mapping[int, tuple[int, ...]]) -> Iterator[Any]:
    """Set zeros at the removed outputs of a layer or norm, and at the removed inputs of a layer."""
    is_layer = isinstance(layer, _ConvNd | nn.Linear)
    output_axis = 1 if isinstance(layer, _ConvTransposeNd) and tensor.dim() > 1 else 0
    for axis in axes if is_layer or (tensor.dim() == 1 and _is_norm(layer)) else ():
        removed = _removed(tensor, axis, axes)
        if axis == output_axis:
            yield layer.register_forward_hook(_output_hook(layer, removed))
        elif axis in (0, 1):
            of_all_groups = [removed + group * tensor.shape[axis] for group in range(getattr(layer, "groups", 1))]
            yield layer.register_forward_pre_hook(_input_hook(layer, torch.cat(of_all_groups)))


def _output_hook(layer: nn.Module, removed: Tensor) -> Callable[..., Any]:
    def hook(module: nn.Module, given: Any, output: Any) -> Any:
        return output.index_fill(_axis(layer, output), removed, 0.0) if isinstance(output, Tensor) else None

    return hook


def _input_hook(layer: nn.Module, removed: Tensor) -> Callable[..., Any]:
    def hook(module: nn.Module, given: tuple[Any, ...]) -> Any:
        return (given[0].index_fill(_axis(layer, given[0]), removed, 0.0), *given[1:]) if given else None

    return hook


def _axis(layer: nn.Module, x: Tensor) -> int:
    """Return the axis of the channels: the last one of linear layers and of norms that are not made for maps."""
    if isinstance(layer, _ConvNd):
        return x.dim() - 1 - len(layer.kernel_size)
    kind = type(layer).__name__.lower()
    reads_last = isinstance(layer, nn.Linear | nn.LayerNorm) or "layernorm" in kind or "rmsnorm" in kind
    return -1 if reads_last and "2d" not in kind else 1


class _NormsOfKept(TorchFunctionMode):
    """Layer, group and RMS norms with the given weights (by identity), normalising only the kept channels."""

    def __init__(self, kept: Mapping[int, tuple[int, ...]]) -> None:
        super().__init__()
        self._kept = kept

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (functional.layer_norm, functional.rms_norm):
            bias = ("bias",) if func is functional.layer_norm else ()
            names = ("input", "normalized_shape", "weight", *bias, "eps")
            given = {**dict(zip(names, args, strict=False)), **kwargs}
            if len(given["normalized_shape"]) == 1 and id(given.get("weight")) in self._kept:
                return self._last(func, given)
        if func is functional.group_norm:
            given = {**dict(zip(("input", "num_groups", "weight", "bias", "eps"), args, strict=False)), **kwargs}
            if id(given.get("weight")) in self._kept:
                return self._grouped(given)
        return func(*args, **kwargs)

    def _last(self, func: Any, given: dict[str, Any]) -> Tensor:
        x, index = given["input"], torch.tensor(self._kept[id(given["weight"])])
        part = {key: given[key][index] for key in ("weight", "bias") if given.get(key) is not None}
        rest = {"eps": given["eps"]} if "eps" in given else {}
        answer = func(x[..., index], (len(index),), **part, **rest)
        return torch.zeros_like(x).index_copy(-1, index, answer)

    def _grouped(self, given: dict[str, Any]) -> Tensor:
        x, index = given["input"], torch.tensor(self._kept[id(given["weight"])])
        part = {key: given[key][index] for key in ("weight", "bias") if given.get(key) is not None}
        rest = {"eps": given["eps"]} if "eps" in given else {}
        answer = functional.group_norm(x[:, index], given["num_groups"], **part, **rest)
        return torch.zeros_like(x).index_copy(1, index, answer)
