"""The float twin of a quantised ONNX model: the same network without its Q/DQ pairs, to time INT8 against."""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

_PAIR = frozenset({"QuantizeLinear", "DequantizeLinear"})


def float_twin(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without Q/DQ nodes: constants dequantised into float initializers, activations passed by.

    Names of nodes and of all tensors that stay are kept. A model without Q/DQ nodes is copied as it is. Branches of
    control flow are not looked into.
    """
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    graph = twin.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    instead: dict[str, str] = {}
    kept = []
    for node in graph.node:
        if node.op_type not in _PAIR:
            node.input[:] = [instead.get(name, name) for name in node.input]
            kept.append(node)
        elif node.input[0] in constants:
            constants[node.output[0]] = _converted(node, constants)
        else:
            instead[node.output[0]] = instead.get(node.input[0], node.input[0])
    outputs = [helper.make_node("Identity", [instead[o.name]], [o.name]) for o in graph.output if o.name in instead]
    kept += outputs
    used = {name for node in kept for name in node.input}
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(kept)
    graph.initializer.extend(tensor for name, tensor in constants.items() if name in used)
    return twin


def is_quantized(model: onnx.ModelProto) -> bool:
    """Whether the graph has Q/DQ nodes, and so a float twin that differs from it."""
    return any(node.op_type in _PAIR for node in model.graph.node)


def _converted(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> onnx.TensorProto:
    """What a Q/DQ node makes of a constant, as its output's initializer."""
    value, scale, *rest = (numpy_helper.to_array(constants[name]) for name in node.input if name)
    zero_point = rest[0] if rest else np.zeros((), np.uint8 if node.op_type == "QuantizeLinear" else value.dtype)
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
    if node.op_type == "DequantizeLinear":
        exact = value.astype(np.int64) - _along(zero_point.astype(np.int64), value, axis)
        return numpy_helper.from_array((exact * _along(scale, value, axis)).astype(scale.dtype), node.output[0])
    limits = np.iinfo(zero_point.dtype)
    rounded = np.round(value / _along(scale, value, axis)) + _along(zero_point, value, axis)
    return numpy_helper.from_array(np.clip(rounded, limits.min, limits.max).astype(zero_point.dtype), node.output[0])


def _along(parameter: NDArray[Any], value: NDArray[Any], axis: int) -> NDArray[Any]:
    """A scale or zero point (C,) shaped so that it broadcasts along `axis` of `value`."""
    if parameter.ndim == 0:
        return parameter
    return parameter.reshape([-1 if i == axis % value.ndim else 1 for i in range(value.ndim)])
