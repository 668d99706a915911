"""Nodes that stay as they are, in another version of ONNX's operators."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from nacdeploy.exporters.onnx_graph import splicing


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_old_resize_keeps_its_rule(mode: str) -> None:
    scales = numpy_helper.from_array(np.array([1, 1, 2.5, 1.5], np.float32), "scales")
    graph = helper.make_graph(
        [helper.make_node("Resize", ["x", "scales"], ["y"], mode=mode)],
        "old",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 4, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, 10, 9])],
        [scales],
    )
    old = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 10)], ir_version=8)
    x = np.random.default_rng(0).random((1, 2, 4, 6), np.float32)
    assert np.allclose(_answer(splicing._converted(old, 17), x), _answer(old, x), atol=1e-6)


def _answer(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])
