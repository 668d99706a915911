"""Operators on integers (QLinearConv and its kind) as those on floats between Q and DQ, which are read as floats."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

_ALONE = {"QLinearGlobalAveragePool": "GlobalAveragePool", "QLinearSigmoid": "Sigmoid", "QLinearLeakyRelu": "LeakyRelu"}
_ALONE |= {"QLinearSoftmax": "Softmax", "QLinearAveragePool": "AveragePool"}
_PAIRS = {"QLinearAdd": "Add", "QLinearMul": "Mul", "QLinearMatMul": "MatMul"}


def unfused(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph whose operators on integers are such on floats, between Q and DQ."""
    if not any(node.op_type in _MAKERS for node in model.graph.node):
        return model
    made = onnx.ModelProto.FromString(model.SerializeToString())
    constants = {each.name: each for each in made.graph.initializer}
    nodes = list[NodeProto]()
    for node in made.graph.node:
        maker = _MAKERS.get(node.op_type)
        nodes += [node] if maker is None else [*maker(node, constants)]
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    known = {each.name for each in made.graph.initializer}
    made.graph.initializer.extend(each for name, each in constants.items() if name not in known)
    return made


Constants = dict[str, TensorProto]


def _pair(node: NodeProto, constants: Constants) -> Iterator[NodeProto]:
    a, a_scale, a_zero, b, b_scale, b_zero, scale, zero = (*node.input, "", "")[:8]
    yield _wide(node, "a", a, a_scale, a_zero)
    yield _wide(node, "b", b, b_scale, b_zero, _axis(b_scale, constants, -1))
    yield from _op(node, _PAIRS[node.op_type], [_name(node, "a"), _name(node, "b")], scale, zero)


def _alone(node: NodeProto, _: Constants) -> Iterator[NodeProto]:
    x, x_scale, x_zero, scale, zero = (*node.input, "")[:5]
    yield _wide(node, "x", x, x_scale, x_zero)
    yield from _op(node, _ALONE[node.op_type], [_name(node, "x")], scale, zero)


def _conv(node: NodeProto, constants: Constants) -> Iterator[NodeProto]:
    x, x_scale, x_zero, w, w_scale, w_zero, scale, zero, bias = (*node.input, "")[:9]
    yield _wide(node, "x", x, x_scale, x_zero)
    yield _wide(node, "w", w, w_scale, w_zero, _axis(w_scale, constants, 0))
    inputs = [_name(node, "x"), _name(node, "w")]
    if bias:
        inputs.append(_bias(node, bias, x_scale, w_scale, constants))
    yield from _op(node, "Conv", inputs, scale, zero)


def _gemm(node: NodeProto, constants: Constants) -> Iterator[NodeProto]:
    a, a_scale, a_zero, b, b_scale, b_zero, bias, scale, zero = (*node.input, "", "", "")[:9]
    is_turned = any(each.name == "transB" and each.i for each in node.attribute)
    yield _wide(node, "a", a, a_scale, a_zero)
    yield _wide(node, "b", b, b_scale, b_zero, _axis(b_scale, constants, 0 if is_turned else 1))
    inputs = [_name(node, "a"), _name(node, "b")]
    if bias:
        inputs.append(_bias(node, bias, a_scale, b_scale, constants))
    yield from _op(node, "Gemm", inputs, scale, zero)


def _concat(node: NodeProto, _: Constants) -> Iterator[NodeProto]:
    scale, zero, *parts = node.input
    triples = [parts[i : i + 3] for i in range(0, len(parts), 3)]
    for number, (x, x_scale, x_zero) in enumerate(triples):
        yield _wide(node, f"x{number}", x, x_scale, x_zero)
    yield from _op(node, "Concat", [_name(node, f"x{number}") for number in range(len(triples))], scale, zero)


def _name(node: NodeProto, part: str) -> str:
    return f"{node.output[0]}/{part}"


def _axis(scale: str, constants: Constants, axis: int) -> int | None:
    return axis if scale in constants and len(constants[scale].dims) == 1 and constants[scale].dims[0] > 1 else None


def _wide(node: NodeProto, part: str, x: str, scale: str, zero: str, axis: int | None = None) -> NodeProto:
    inputs = [name for name in (x, scale, zero) if name]
    made = helper.make_node("DequantizeLinear", inputs, [_name(node, part)], _name(node, part))
    if axis is not None:
        made.attribute.append(helper.make_attribute("axis", axis))
    return made


def _op(node: NodeProto, op: str, inputs: Sequence[str], scale: str, zero: str) -> Iterator[NodeProto]:
    kept = [each for each in node.attribute if each.name != "channels_last"]
    made = helper.make_node(op, list(inputs), [_name(node, "float") if scale else node.output[0]], node.name)
    made.attribute.extend(kept)
    yield made
    if scale:
        inputs = [name for name in (made.output[0], scale, zero) if name]
        yield helper.make_node("QuantizeLinear", inputs, [node.output[0]], f"{node.output[0]}/q")


def _bias(node: NodeProto, bias: str, x_scale: str, w_scale: str, constants: Constants) -> str:
    """Return the name of a bias in floats: its integers count in steps of both scales."""
    values, x, w = (numpy_helper.to_array(constants[name]) for name in (bias, x_scale, w_scale))
    name = _name(node, "bias")
    constants[name] = numpy_helper.from_array((values * (x * w)).astype(np.float32).reshape(values.shape), name)
    return name


_MAKERS: dict[str, Callable[[NodeProto, Constants], Iterator[NodeProto]]] = {
    **dict.fromkeys(_PAIRS, _pair),
    **dict.fromkeys(_ALONE, _alone),
    "QLinearConv": _conv,
    "QGemm": _gemm,
    "QLinearConcat": _concat,
}
