"""Q/DQ pairs of a graph as OpenVINO's own form of them, FakeQuantize.

An ONNX pair becomes FakeQuantize to integers, Convert, Convert, Subtract and Multiply. OpenVINO knows that form, but
moves strides of later convolutions through the Multiply, after which it computes these convolutions in float.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_FORMS = ("Convert", "Reshape")


def fuse_pairs(model: Any, openvino: Any) -> None:
    """Put one FakeQuantize, from floats to floats, in the place of each pair of a model; numbers differ by
    single precision's rounding alone."""
    for multiply in model.get_ordered_ops():
        if multiply.get_type_name() != "Multiply":
            continue
        scale, inner = _constant(multiply, 1), _source(multiply, 0)
        zero: NDArray[Any] | None = np.zeros(1, np.float32)
        if inner.get_type_name() == "Subtract":
            zero, inner = _constant(inner, 1), _source(inner, 0)
        quantize = _behind(inner, ("Convert",))
        if scale is None or zero is None or quantize is inner or quantize.get_type_name() != "FakeQuantize":
            continue
        low, high = _constant(quantize, 3), _constant(quantize, 4)
        if low is None or high is None:
            continue
        bounds = [openvino.opset13.constant(((each - zero) * scale).astype(np.float32)) for each in (low, high)]
        made = openvino.opset13.fake_quantize(
            *(quantize.input_value(i) for i in range(3)),
            *bounds,
            quantize.get_attributes()["levels"],
            name=multiply.get_friendly_name(),
        )
        for reader in multiply.output(0).get_target_inputs():
            reader.replace_source_output(made.output(0))


def _source(node: Any, at: int) -> Any:
    return node.input_value(at).get_node()


def _behind(node: Any, kinds: tuple[str, ...]) -> Any:
    """Return the nearest node in front that is none of these kinds."""
    while node.get_type_name() in kinds:
        node = _source(node, 0)
    return node


def _constant(node: Any, at: int) -> NDArray[Any] | None:
    """Return the number of an input that is a constant in some form, (1,), None for any other."""
    found = _behind(_source(node, at), _FORMS)
    if found.get_type_name() != "Constant" or np.size(found.data) != 1:
        return None
    return np.asarray(found.data, dtype=np.float32).reshape(1)
