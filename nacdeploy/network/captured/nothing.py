"""Nothing: a residual branch that was dropped, and the graph without it.

The modules of a dropped branch answer with zeros. In the graph, x + 0 is x, the nodes in front of the zeros are dead,
and a clamp of what the same clamp left is that value itself.
"""

from typing import Any

import torch
from torch import Tensor, fx, nn

from nacdeploy.network.captured.graph import operator_name

# Of a tensor of zeros these make zeros.
KEEP_ZEROS = {"relu", "mul", "dropout", "clone", "gelu", "silu", "identity"}
CLAMPS = {"relu", "relu6", "hardtanh"}


class Nothing(nn.Module):
    """Zeros of the shape of the input, in place of a module of a branch."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


def drop_nothing(graph: fx.Graph) -> None:
    """Read x in place of x + 0 for the zeros of `Nothing`, whose nodes are marked; dead nodes stay."""
    for node in list(graph.nodes):
        operands = node.all_input_nodes
        if operator_name(node.target) in KEEP_ZEROS and any(_is_zero(each) for each in operands[:1]):
            node.meta["is_zero"] = True
        elif operator_name(node.target) == "add" and len(operands) == 2 and any(map(_is_zero, operands)):
            _drop(node, next((each for each in operands if not _is_zero(each)), operands[0]))


def _drop(addition: fx.Node, x: fx.Node) -> None:
    readers = list(addition.users)
    addition.replace_all_uses_with(x)
    for reader in readers:
        if _is_same_clamp(reader, x):
            reader.replace_all_uses_with(x)


def _is_same_clamp(node: fx.Node, x: fx.Node) -> bool:
    is_clamp = operator_name(node.target) in CLAMPS and operator_name(x.target) in CLAMPS
    return is_clamp and _settings(node) == _settings(x)


def _settings(node: fx.Node) -> tuple[Any, ...]:
    return node.target, node.args[1:], node.kwargs


def _is_zero(node: fx.Node) -> bool:
    return bool(node.meta.get("is_zero", False))
