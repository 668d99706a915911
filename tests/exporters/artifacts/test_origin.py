"""Which torch layer made an ONNX node, on graphs that torch exported."""

import onnx
import pytest
from small_networks import Residual, network

from nacdeploy.base.precision import Precision
from nacdeploy.exporters.artifacts.origin import torch_layer
from nacdeploy.exporters.onnx_graph.trace import to_onnx
from nacdeploy.network.attachments.fake_quant import Rule


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    made = network(Residual(), "trt")
    made.quantize(Rule(Precision(8, 8)))
    return onnx.load_model_from_string(to_onnx(made, 20).model)


@pytest.mark.parametrize(
    ("operator", "expected"),
    [
        ("Conv", "made by torch layer 'stem.0'"),
        ("Relu", "made by the torch model's forward behind torch layer 'stem.0'"),
        ("Add", "made by the torch model's forward behind torch layer"),
    ],
)
def test_node_is_traced_to_its_torch_layer(model: onnx.ModelProto, operator: str, expected: str) -> None:
    node = next(node for node in model.graph.node if node.op_type == operator)
    assert torch_layer(model, node).startswith(expected)


def test_node_without_metadata_comes_from_the_forward(model: onnx.ModelProto) -> None:
    assert (
        torch_layer(model, onnx.helper.make_node("Strange", ["images"], ["y"])) == "made by the torch model's forward"
    )
