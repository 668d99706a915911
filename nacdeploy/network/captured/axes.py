"""The axis of a tensor's channels: the first behind the batch where a convolution wrote it, the last of tokens."""

from collections.abc import Sequence
from typing import Any

from torch import fx, nn

from nacdeploy.network.captured.graph import CONVOLVING, carries_images, operator_name, weighted_consumer

_SWAPS = {"transpose", "swapaxes"}
_STOPS = {"matmul", "bmm", "scaled_dot_product_attention", "reshape", "view", "unflatten", "layer_norm"}


def channel_axis(node: fx.Node, backbone: nn.Module, n_axes: int) -> int:
    """Return the axis of the channels of a node's tensor (N, ...) of `n_axes` axes.

    Three axes are those of a signal (N, C, L) or of tokens (N, L, C): what wrote the tensor decides.
    """
    return 1 if n_axes != 3 or is_signal(node, backbone) else -1


def is_signal(node: fx.Node, backbone: nn.Module) -> bool:
    """Tell whether a tensor of three axes has the channels of a convolution at its first axis behind the batch."""
    passed: list[fx.Node] = []
    while (layer := weighted_consumer(node, backbone)) is None:
        sources = [each for each in node.all_input_nodes if carries_images(each)]
        if not sources or _name(node, backbone) in _STOPS:
            return False
        passed.append(node)
        node = sources[0]
    axis, n_axes = (1, 2 + len(layer.kernel_size)) if isinstance(layer, CONVOLVING) else (2, 3)
    for each in reversed(passed):
        axis, n_axes = _moved(_name(each, backbone), each.args[1:], axis, n_axes)
    return axis == 1


def _name(node: fx.Node, backbone: nn.Module) -> str:
    if node.op != "call_module":
        return operator_name(node.target)
    return "layer_norm" if isinstance(backbone.get_submodule(str(node.target)), nn.LayerNorm) else ""


def _moved(name: str, given: Sequence[Any], axis: int, n_axes: int) -> tuple[int, int]:
    """Return the place of an axis behind an operator, and the number of axes."""
    if name in _SWAPS:
        a, b = (each % n_axes for each in given[:2])
        return {a: b, b: a}.get(axis, axis), n_axes
    if name == "permute":
        return [each % n_axes for each in given[0]].index(axis), n_axes
    if name == "flatten":
        first, last = (each % n_axes for each in (*given, *(0, -1)[len(given) :]))
        return (axis if axis <= first else max(first, axis - (last - first))), n_axes - (last - first)
    return axis, n_axes
