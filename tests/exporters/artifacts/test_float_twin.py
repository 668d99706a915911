"""The float twin computes what the quantised file would compute without rounding its activations."""

import numpy as np
import onnx
import pytest
from explained import IMAGES, Attention, exported
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from small_networks import Concat, Depthwise, Grouped, Plain, Residual
from torch import nn

from nacdeploy.exporters.artifacts.float_twin import float_twin, is_quantized
from nacdeploy.exporters.targets.ort.runner import OnnxRunner

PAIR = {"QuantizeLinear", "DequantizeLinear"}


def run(model: onnx.ModelProto, images: NDArray[np.float32]) -> NDArray[np.float32]:
    return OnnxRunner(model.SerializeToString(), optimization="disabled").run(images)[0]


def tiny(*, axis: int = 0, ends_dequantized: bool = False) -> onnx.ModelProto:
    """x (1, 2) times a quantised weight, channel scales along `axis`."""
    constants = {
        "w_q": np.array([[2, -4], [6, 8]], np.int8),
        "w_scale": np.array([0.5, 0.25], np.float32),
        "w_zero": np.array([0, 2], np.int8),
        "s": np.array(0.1, np.float32),
        "z": np.array(3, np.uint8),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["x_q"], name="q"),
        helper.make_node("DequantizeLinear", ["x_q", "s", "z"], ["x_dq"], name="dq"),
        helper.make_node("DequantizeLinear", ["w_q", "w_scale", "w_zero"], ["w_dq"], name="wdq", axis=axis),
        helper.make_node("MatMul", ["x_dq", "w_dq"], ["y"], name="multiply"),
    ]
    if ends_dequantized:
        nodes += [
            helper.make_node("QuantizeLinear", ["y", "s", "z"], ["y_q"], name="q2"),
            helper.make_node("DequantizeLinear", ["y_q", "s", "z"], ["end"], name="dq2"),
        ]
    end = "end" if ends_dequantized else "y"
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in ("x", end)]
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize(("axis", "weight"), [(0, [[1, -2], [1, 1.5]]), (1, [[1, -1.5], [3, 1.5]])])
def test_float_twin_dequantises_weights_along_their_axis(axis: int, weight: list[list[float]]) -> None:
    images = np.array([[0.123, 0.456]], np.float32)
    twin = float_twin(tiny(axis=axis))
    np.testing.assert_allclose(run(twin, images), images @ np.array(weight, np.float32), rtol=1e-6)
    assert [node.name for node in twin.graph.node] == ["multiply"]
    assert [tensor.name for tensor in twin.graph.initializer] == ["w_dq"]


def test_float_twin_keeps_an_output_that_was_dequantised() -> None:
    twin = float_twin(tiny(ends_dequantized=True))
    images = np.array([[0.123, 0.456]], np.float32)
    np.testing.assert_allclose(run(twin, images), run(float_twin(tiny()), images))


@pytest.mark.parametrize("target", ["ort", "trt"])
@pytest.mark.parametrize("backbone", [Plain, Residual, Concat, Depthwise, Grouped, Attention])
def test_float_twin_of_an_exported_network_is_valid_and_close(backbone: type[nn.Module], target: str) -> None:
    _, model, _ = exported(backbone, target)
    before = model.SerializeToString()
    twin = float_twin(model)
    onnx.checker.check_model(twin)
    assert model.SerializeToString() == before
    assert is_quantized(model)
    assert not is_quantized(twin)
    assert {n.name for n in twin.graph.node} == {n.name for n in model.graph.node if n.op_type not in PAIR}
    assert np.isfinite(run(twin, IMAGES)).all()


def test_float_twin_answers_as_the_float_network_with_its_rounded_weights() -> None:
    made, model, _ = exported(Plain)
    _, plain, _ = exported(Plain, quantized=False)
    assert made.plan.weight_bits
    np.testing.assert_allclose(run(float_twin(model), IMAGES), run(plain, IMAGES), rtol=0.1, atol=0.15)


def test_float_twin_of_a_float_network_is_the_network() -> None:
    _, model, _ = exported(Plain, quantized=False)
    assert float_twin(model).SerializeToString() == model.SerializeToString()
