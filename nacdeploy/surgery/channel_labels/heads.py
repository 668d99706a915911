"""The heads of attention: the reshapes that split channels into heads, and the attributes that count the heads.

A reshape of (N, L, H * D) into (N, L, H, D) has channels along two axes, and labels run along one of them. Where the
result is read by attention, whole heads go: the width of a head, on which the scale of scores rests, stays.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from nacdeploy.network.captured.graph import (
    Captured,
    Interpreter,
    carries_images,
    operator_name,
    stack,
    weighted_consumer,
)

_SPLITS = {"reshape", "view", "_unsafe_view", "unflatten"}
_SOFTMAX, _PRODUCTS, _FUSED = {"softmax", "_softmax"}, {"matmul", "bmm"}, "scaled_dot_product_attention"
_NO_COUNT = ("dim", "size", "width", "channel")


@dataclass(frozen=True)
class Split:
    """A node that splits channels into heads.

    Attributes:
        node: the name of the node.
        axis: the axis of the heads in the node's tensor.
        n_heads: the number of heads.
        width: the channels of a head (those of queries, keys and values together where one layer writes them).
        owner: the module that runs the node.
        has_widths: whether the owner's attributes that are the width of all heads together follow a cut.
    """

    node: str
    axis: int
    n_heads: int
    width: int
    owner: str
    has_widths: bool = True


def splits(backbone: nn.Module, captured: Captured, example: Tensor) -> dict[str, Split]:
    """Return the splits into heads of a captured network by node; none if nothing in it attends."""
    nodes = captured.graph.nodes if captured.graph is not None else ()
    if not any(operator_name(node.target) in _SOFTMAX | {_FUSED} for node in nodes):
        return {}
    shapes = _Shapes(backbone, captured)
    shapes.run(example)
    found = {}
    for operand, like in [pair for node in nodes for pair in _operands(node)]:
        shape = shapes.seen.get(like, ())
        for node in _splitting(operand, backbone, shapes.seen) if len(shape) == 4 else ():
            made = _split(node, shapes.seen, shape[1], shape[3])
            if made is not None:
                found[node.name] = made
    return found


def counted(split: Split, module: nn.Module, n_left: int) -> Iterator[tuple[str, int]]:
    """Yield the attributes of a split's owner that count its heads, or their width together, with their new values."""
    for name, value in vars(module).items():
        if type(value) is not int or name.startswith("_"):
            continue
        is_count = "head" in name.lower() and not any(word in name.lower() for word in _NO_COUNT)
        if is_count and value == split.n_heads:
            yield name, n_left
        elif split.has_widths and value == split.n_heads * split.width:
            yield name, n_left * split.width


class _Shapes(Interpreter):
    """Runs a graph and notes the shapes of its tensors."""

    def __init__(self, backbone: nn.Module, captured: Captured) -> None:
        super().__init__(backbone, captured)
        self.seen: dict[fx.Node, tuple[int, ...]] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.seen[n] = tuple(value.shape)
        return value


def _operands(node: fx.Node) -> list[tuple[fx.Node, fx.Node]]:
    """Return the queries, keys and values of attention, fused or spelt out around a softmax, each with the one that
    has its shape (N, H, L, D): keys are transposed where they are multiplied."""
    name = operator_name(node.target)
    if name == _FUSED:
        return [(each, each) for each in node.args[:3] if isinstance(each, fx.Node)]
    scores, mixed = (_product_before(node), _product_behind(node)) if name in _SOFTMAX else (None, None)
    if scores is None or mixed is None:
        return []
    (queries, keys), values = _factors(scores), _factors(mixed)[1]
    return [(queries, queries), (keys, queries), (values, values)]


def _factors(product: fx.Node) -> tuple[fx.Node, fx.Node]:
    first, second = product.args[:2]
    assert isinstance(first, fx.Node) and isinstance(second, fx.Node)
    return first, second


def _product_before(node: fx.Node) -> fx.Node | None:
    while node.all_input_nodes and operator_name(node.target) not in _PRODUCTS:
        node = node.all_input_nodes[0]
    return node if operator_name(node.target) in _PRODUCTS else None


def _product_behind(node: fx.Node) -> fx.Node | None:
    while len(node.users) == 1 and operator_name(node.target) not in _PRODUCTS:
        node = next(iter(node.users))
    return node if operator_name(node.target) in _PRODUCTS else None


def _splitting(operand: fx.Node, backbone: nn.Module, shapes: Mapping[fx.Node, tuple[int, ...]]) -> list[fx.Node]:
    """Return the nodes before an operand that split an axis, as far back as the layers that wrote it."""
    found, waiting, seen = [], [operand], {operand}
    while waiting:
        node = waiting.pop()
        name = operator_name(node.target)
        if weighted_consumer(node, backbone) is not None or name in _PRODUCTS | _SOFTMAX | {_FUSED}:
            continue
        sources = [each for each in node.all_input_nodes if carries_images(each)]
        if name in _SPLITS and sources and len(shapes.get(node, ())) > len(shapes.get(sources[0], ())):
            found.append(node)
            continue
        waiting += [each for each in sources if each not in seen]
        seen.update(sources)
    return found


def _split(node: fx.Node, shapes: Mapping[fx.Node, tuple[int, ...]], n_heads: int, width: int) -> Split | None:
    """Return the split at a node whose last axis became several, or None if none of them has that many places."""
    before, now = shapes[node.all_input_nodes[0]], shapes[node]
    axes = range(len(before) - 1, len(now) - 1)
    axis = next((axis for axis in reversed(axes) if now[axis] == n_heads), None)
    if axis is None or n_heads < 2 or before[:-1] != now[: len(before) - 1]:
        return None
    return Split(node.name, axis, n_heads, width, (stack(node) or [""])[-1])
