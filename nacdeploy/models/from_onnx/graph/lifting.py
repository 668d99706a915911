"""Convolutions along one axis as convolutions of images of height one, which every letter and every runtime knows.

An axis is added before each and taken away behind it. Between two of them the axis stays: it moves through what
computes each value alone.
"""

from collections.abc import Mapping

import onnx
from onnx import AttributeProto, NodeProto, TensorProto, helper, numpy_helper

_AXES = "height_axis"
_ALONE = {"Relu", "LeakyRelu", "Sigmoid", "Tanh", "Elu", "Selu", "HardSigmoid", "HardSwish", "Softplus", "Erf", "Gelu"}
_ALONE |= {"Clip", "Identity", "Sqrt", "Exp", "Abs", "Neg", "BatchNormalization", "Mish", "Softsign", "Dropout"}
_PAIRS = {"Add", "Sub", "Mul", "Div"}


def lifted(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph whose convolutions along one axis are such of images."""
    shapes = {each.name: list(each.dims) for each in model.graph.initializer}
    flat = [node for node in model.graph.node if node.op_type == "Conv" and len(shapes.get(node.input[1], ())) == 3]
    if not flat:
        return model
    made = onnx.ModelProto.FromString(model.SerializeToString())
    opset = max(each.version for each in made.opset_import if each.domain in ("", "ai.onnx"))
    weights = {node.input[1] for node in flat}
    for tensor in made.graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[:, :, None], tensor.name))
    made.graph.initializer.append(helper.make_tensor(_AXES, TensorProto.INT64, [1], [2]))
    names = {node.output[0] for node in flat}
    nodes = list[NodeProto]()
    for node in made.graph.node:
        nodes += _around(node, opset) if node.output[0] in names else [node]
    kept = {each.name for each in made.graph.output}
    nodes = _moved(nodes, kept, opset)
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    return made


def _around(node: NodeProto, opset: int) -> list[NodeProto]:
    """Return a convolution between the nodes that add and take away an axis."""
    x, y = node.input[0], node.output[0]
    attributes = {each.name: each for each in node.attribute}
    for name in ("kernel_shape", "strides", "dilations"):
        if name in attributes:
            attributes[name].ints[:] = [1, *attributes[name].ints]
    if "pads" in attributes:
        (before, after) = attributes["pads"].ints
        attributes["pads"].ints[:] = [0, before, 0, after]
    node.input[0], node.output[0] = f"{y}/image", f"{y}/answer"
    return [_axis("Unsqueeze", x, node.input[0], opset), node, _axis("Squeeze", node.output[0], y, opset)]


def _axis(op: str, x: str, y: str, opset: int) -> NodeProto:
    if opset >= 13:
        return helper.make_node(op, [x, _AXES], [y], f"{y}/{op}")
    return helper.make_node(op, [x], [y], f"{y}/{op}", axes=[2])


def _is_axis(node: NodeProto | None, op: str) -> bool:
    return node is not None and node.op_type == op and node.name == f"{node.output[0]}/{op}"


def _moved(nodes: list[NodeProto], kept: set[str], opset: int) -> list[NodeProto]:
    """Take the axis away as late as can be, and not where it is added again."""
    images, made = dict[str, str](), list[NodeProto]()  # by name of a tensor: that of the same with the axis
    for node in nodes:
        if _is_axis(node, "Squeeze"):
            images[node.output[0]] = node.input[0]
        elif _is_axis(node, "Unsqueeze") and node.input[0] in images:
            images[node.output[0]] = images[node.input[0]]  # the same tensor, by another name
        elif _goes_through(node, images):
            own = NodeProto.FromString(node.SerializeToString())
            own.input[:] = [images.get(name, name) for name in node.input]
            own.output[0] = f"{node.output[0]}/image"
            images[node.output[0]] = own.output[0]
            made.append(own)
        else:
            made += _with_inputs(node, images, made, opset)
    flat = _flat_names(made)
    made += [_axis("Squeeze", images[name], name, opset) for name in sorted(kept & images.keys() - flat)]
    return made


def _goes_through(node: NodeProto, images: Mapping[str, str]) -> bool:
    if node.op_type in _ALONE and node.input[0] in images:
        return not any(each.type == AttributeProto.GRAPH for each in node.attribute)
    return node.op_type in _PAIRS and all(name in images for name in node.input)


def _flat_names(nodes: list[NodeProto]) -> set[str]:
    return {name for node in nodes for name in node.output}


def _with_inputs(node: NodeProto, images: dict[str, str], made: list[NodeProto], opset: int) -> list[NodeProto]:
    """Return a node that reads tensors without the axis, behind the nodes that take it away."""
    if node.op_type == "Conv" and node.input[0] in images:
        node.input[0] = images[node.input[0]]
        return [node]
    there = _flat_names(made)
    flat = [name for name in dict.fromkeys(node.input) if name in images and name not in there]
    return [*(_axis("Squeeze", images[name], name, opset) for name in flat), node]
