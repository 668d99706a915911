"""What ONNX Runtime runs and how long its nodes take; times are bounded by laws only, never by a clock."""

import numpy as np
import pytest
from explained import IMAGES, exported
from onnx import TensorProto, helper
from small_networks import Plain, Residual

from nacdeploy.base.errors import NacdeployError
from nacdeploy.exporters.artifacts.float_twin import float_twin
from nacdeploy.exporters.targets.ort.profiling import Profiles, node_shapes, profile


@pytest.fixture(scope="module")
def profiles() -> Profiles:
    _, model, _ = exported(Residual)
    models = {"own": model.SerializeToString(), "twin": float_twin(model).SerializeToString()}
    return profile(models, IMAGES, baseline="twin", threads=1, n_rounds=3)


def test_profile_times_the_nodes_of_the_optimised_graph(profiles: Profiles) -> None:
    for found in profiles.by_name.values():
        assert set(found.node_ms) == {node.name for node in found.graph.graph.node}
        assert all(rounds.shape == (3,) and (rounds >= 0).all() for rounds in found.node_ms.values())
    types = {name: {n.op_type for n in found.graph.graph.node} for name, found in profiles.by_name.items()}
    assert "QLinearConv" in types["own"]
    assert not {"QLinearConv", "QuantizeLinear", "DequantizeLinear"} & types["twin"]


def test_profile_takes_the_profilers_time_off_until_nodes_add_up_to_a_call(profiles: Profiles) -> None:
    for found in profiles.by_name.values():
        total_ms = sum(np.median(rounds) for rounds in found.node_ms.values())
        assert found.overhead_ms >= 0
        assert total_ms <= found.call_ms * 1.01
        if found.overhead_ms > 0:
            assert total_ms == pytest.approx(found.call_ms, rel=0.1)


def test_nodes_of_a_function_s_body_are_told_apart() -> None:
    """ONNX Runtime writes HardSwish out as two nodes without a name each."""
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 8, 8]) for name in ("images", "out")]
    nodes = [helper.make_node("HardSwish", [a], [b], name=b) for a, b in (("images", "half"), ("half", "out"))]
    graph = helper.make_graph(nodes, "twice", tensors[:1], tensors[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    found = profile({"own": model}, IMAGES[:1], baseline="own", threads=1, n_rounds=3).by_name["own"]
    names = [node.name for node in found.graph.graph.node]
    assert len(names) == 4 and len(set(names)) == 4
    assert set(found.node_ms) == set(names)


def test_profile_compares_with_the_baseline(profiles: Profiles) -> None:
    assert set(profiles.speed) == {"own", "twin"}
    assert profiles.speed["twin"].value == 1.0


def test_node_shapes_are_those_of_the_file() -> None:
    _, model, _ = exported(Plain, quantized=False)
    shapes = node_shapes(model.SerializeToString(), IMAGES)
    convs = [node.name for node in model.graph.node if node.op_type == "Conv"]
    assert [(shapes[name].input, shapes[name].output) for name in convs] == [
        ((1, 3, 8, 8), (1, 8, 8, 8)),
        ((1, 8, 8, 8), (1, 16, 8, 8)),
    ]


def test_profile_refuses_images_of_another_shape() -> None:
    _, model, _ = exported(Plain)
    with pytest.raises(NacdeployError, match="cannot run images of shape"):
        profile({"own": model.SerializeToString()}, IMAGES[:, :1], baseline="own", threads=1, n_rounds=3)
