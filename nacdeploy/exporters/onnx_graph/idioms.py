"""Idioms of torch's exporter, written as the operators that runtimes have kernels for.

Each changes a traced graph in place and no answer: means over height and width, and paddings in front of convolutions.
"""

import math
from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

Constants = Mapping[str, np.ndarray]


def simplify(graph: onnx.GraphProto) -> None:
    """Rewrite the idioms of a graph; nodes that nobody reads any more go."""
    constants = dict(_constants(graph))
    _name_average_pools(graph, constants)
    _pad_in_convolutions(graph, constants)
    _drop_unread(graph)


def _constants(graph: onnx.GraphProto) -> Iterator[tuple[str, np.ndarray]]:
    for tensor in graph.initializer:
        if math.prod(tensor.dims) <= 16:
            yield tensor.name, numpy_helper.to_array(tensor)
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            yield node.output[0], numpy_helper.to_array(node.attribute[0].t)


def _name_average_pools(graph: onnx.GraphProto, constants: Constants) -> None:
    """Write means over height and width of (N, C, H, W) as GlobalAveragePool.

    Runtimes have a kernel on integers only for that name.
    """
    n_axes = {value.name: len(value.type.tensor_type.shape.dim) for value in graph.value_info}
    for node in graph.node:
        if node.op_type != "ReduceMean" or len(node.input) < 2 or n_axes.get(node.input[0]) != 4:
            continue
        keeps = all(a.i == 1 for a in node.attribute if a.name == "keepdims")
        axes = constants.get(node.input[1])
        if keeps and axes is not None and sorted(axes.flatten().tolist()) in ([2, 3], [-2, -1]):
            node.op_type = "GlobalAveragePool"
            del node.input[1:], node.attribute[:]


def _pad_in_convolutions(graph: onnx.GraphProto, constants: Constants) -> None:
    """Let a convolution pad by itself where zeros are padded in front of it, behind a marker or not."""
    makers = {name: node for node in graph.node for name in node.output}
    readers: dict[str, int] = {}
    for node in graph.node:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1
    for node in graph.node:
        if node.op_type != "Conv":
            continue
        reader = node
        while (maker := makers.get(reader.input[0])) is not None and maker.op_type == "Edge":
            reader = maker
        if maker is None or maker.op_type != "Pad" or (reader is not node and readers[reader.output[0]] > 1):
            continue
        if (pads := _zeros_padded(maker, constants)) is not None:
            own = next((list(a.ints) for a in node.attribute if a.name == "pads"), [0] * len(pads))
            kept = [a for a in node.attribute if a.name not in ("pads", "auto_pad")]
            del node.attribute[:]
            summed = [a + b for a, b in zip(own, pads, strict=True)]
            node.attribute.extend([*kept, helper.make_attribute("pads", summed)])
            reader.input[0] = maker.input[0]


def _zeros_padded(pad: onnx.NodeProto, constants: Constants) -> list[int] | None:
    """Return the pads of height and width (begins, then ends) of a node that pads zeros there and nowhere else."""
    mode = next((a.s for a in pad.attribute if a.name == "mode"), b"constant")
    pads = constants.get(pad.input[1])
    value = constants.get(pad.input[2], np.ones(1)) if len(pad.input) > 2 and pad.input[2] else np.zeros(1)
    if mode != b"constant" or pads is None or value.any() or len(pad.input) > 3:
        return None
    n = len(pads) // 2
    outer = (*pads[:2], *pads[n : n + 2])
    inner = [int(each) for each in (*pads[2:n], *pads[n + 2 :])]
    return inner if not any(outer) and min(inner, default=0) >= 0 else None


def _drop_unread(graph: onnx.GraphProto) -> None:
    """Remove the nodes whose outputs nobody reads."""
    wanted = {each.name for each in graph.output}
    kept = []
    for node in reversed(graph.node):
        if any(name in wanted for name in node.output):
            kept.append(node)
            wanted.update(node.input)
    del graph.node[:]
    graph.node.extend(reversed(kept))
