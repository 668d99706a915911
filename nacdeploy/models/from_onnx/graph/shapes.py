"""The shapes that a graph's tensors have in the batch that the file was written for."""

from math import prod

import onnx
from onnx import helper

_MOST_NUMBERS = 64  # of an initializer that may hold sizes; larger ones tell their shape alone


def written(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a graph's tensors by name, as far as ONNX's shape inference finds whole numbers."""
    outline = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    outline.graph.name = "outline"
    outline.graph.node.extend(model.graph.node)
    outline.graph.input.extend(model.graph.input)
    outline.graph.output.extend(model.graph.output)
    given = {each.name for each in model.graph.input}
    for each in model.graph.initializer:
        if prod(each.dims) <= _MOST_NUMBERS:
            outline.graph.initializer.append(each)
        elif each.name not in given:
            outline.graph.input.append(helper.make_tensor_value_info(each.name, each.data_type, list(each.dims)))
    try:
        found = onnx.shape_inference.infer_shapes(outline, data_prop=True).graph
    except Exception:  # its errors share no class; what is not known is guessed
        return {}
    values = [*found.value_info, *found.input, *found.output]
    return {value.name: shape for value in values if (shape := _whole(value)) is not None}


def _whole(value: onnx.ValueInfoProto) -> tuple[int, ...] | None:
    kind = value.type.tensor_type
    if not kind.HasField("shape") or any(not each.HasField("dim_value") for each in kind.shape.dim):
        return None
    return tuple(each.dim_value for each in kind.shape.dim)
