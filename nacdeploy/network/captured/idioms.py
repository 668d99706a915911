"""Idioms: activations that a network spells out, as the one operator that they are.

A rule for tensors holds for operators. A GELU in five operators would be rounded four times, and no runtime would know
it again.
"""

import math
from typing import Any

import torch
from torch import Tensor, fx

from nacdeploy.network.captured.graph import carries_images, operator_name

_aten = torch.ops.aten


def name_gelus(graph: fx.Graph) -> None:
    """Write x * (1 + erf(x / sqrt 2)) / 2, in any order of its factors, as `gelu(x)`; dead nodes stay."""
    for node in list(graph.nodes):
        if operator_name(node.target) == "erf":
            _name_gelu(graph, node)


def _name_gelu(graph: fx.Graph, erf: fx.Node) -> None:
    x, factor = _scaled(erf.args[0])
    one_more = _only_reader(erf)
    if not math.isclose(factor, math.sqrt(0.5), rel_tol=1e-5) or one_more is None or _added(one_more, erf) != 1:
        return
    last, total, has_x = one_more, 1.0, False
    while (node := _only_reader(last)) is not None and operator_name(node.target) in ("mul", "div"):
        number = _factor(node, last)
        others = [each for each in node.all_input_nodes if each is not last and carries_images(each)]
        if number is None and not has_x and operator_name(node.target) == "mul" and len(others) == 1:
            source, number = _scaled(others[0])
            has_x = source is x
        if number is None or (len(others) == 1 and not has_x):
            break
        last, total = node, total * number
        if has_x and math.isclose(total, 0.5, rel_tol=1e-5):
            with graph.inserting_after(last):
                made = graph.create_node("call_function", _aten.gelu.default, (x,), name="gelu")
            made.meta.update(last.meta)
            last.replace_all_uses_with(made)
            return


def _scaled(node: Any) -> tuple[Any, float]:
    """Return the tensor that a node multiplies or divides by numbers, and the factor: the node itself and 1 if it does
    not."""
    factor = 1.0
    while isinstance(node, fx.Node) and operator_name(node.target) in ("mul", "div"):
        inputs = [each for each in node.all_input_nodes if carries_images(each)]
        number = _factor(node, inputs[0]) if len(inputs) == 1 else None
        if number is None:
            break
        node, factor = inputs[0], factor * number
    return node, factor


def _factor(node: fx.Node, tensor: fx.Node) -> float | None:
    """Return the number by which a node multiplies a tensor, if it is a multiplication or division by a number."""
    first, second = node.args[:2]
    number = _number(second if first is tensor else first)
    if number is None or (operator_name(node.target) == "div" and (first is not tensor or number == 0)):
        return None
    return number if operator_name(node.target) == "mul" else 1 / number


def _added(node: fx.Node, tensor: fx.Node) -> float | None:
    if operator_name(node.target) != "add":
        return None
    first, second = node.args[:2]
    return _number(second if first is tensor else first)


def _number(given: Any) -> float | None:
    """Return a number, or the one value of a constant of the graph."""
    if isinstance(given, fx.Node):
        given = given.meta.get("value")
    if isinstance(given, Tensor):
        return float(given) if given.numel() == 1 else None
    return float(given) if isinstance(given, int | float) else None


def _only_reader(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None
