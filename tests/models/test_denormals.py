"""Weights below the normal numbers, which processors multiply slowly, are zeros in what is read and what is written."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import make_profile
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from nacdeploy import task as tasks
from nacdeploy.base.precision import Grid
from nacdeploy.exporters.onnx_graph.trace import to_onnx
from nacdeploy.models.denormals import flushed, is_denormal
from nacdeploy.network.network import Network


def test_only_denormal_floats_become_zero() -> None:
    values = torch.tensor([[0.0, 1e-40, -1e-45, 1.2e-38, -3.0]])
    assert is_denormal(values).tolist() == [[False, True, True, False, False]]
    assert flushed(values).tolist() == [[0.0, 0.0, 0.0, values[0, 3].item(), -3.0]]
    assert flushed(torch.tensor([[0, 1, -1]])).tolist() == [[0, 1, -1]]


@pytest.mark.parametrize("kept", [torch.tensor([1e-40, 1.0]), torch.tensor(1e-40), torch.full((2, 2), 1e-5).half()])
def test_scales_and_half_precision_keep_them(kept: torch.Tensor) -> None:
    """A scale of zero, or a zero where a tiny number stood against it, would divide."""
    assert torch.equal(flushed(kept), kept) and bool((flushed(kept) != 0).all())


def test_file_is_read_without_them_and_says_how_many(tmp_path: Path) -> None:
    weight = np.full((4, 3, 1, 1), 0.5, np.float32)
    weight[2:] = 1e-41
    file = tmp_path / "net.onnx"
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", c, 8, 8]) for n, c in (("x", 3), ("y", 4)))
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="conv")
    graph = helper.make_graph([node], "g", [x], [y], [numpy_helper.from_array(weight, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), file)
    task = tasks.make(str(file), "random", make_profile(model=str(file), data="random"))
    assert any("6 of its weights are denormal" in note for note in task.data.notes)


def test_graph_is_written_without_them() -> None:
    layer = nn.Conv2d(3, 4, 1)
    with torch.no_grad():
        layer.weight[1:] = 1e-40
    graph = to_onnx(Network(nn.Sequential(layer, nn.Flatten()), Grid("ort", 8, ("conv",)), (3, 4, 4)), 20)
    tensors = [numpy_helper.to_array(each) for each in onnx.load_from_string(graph.model).graph.initializer]
    floats = [torch.from_numpy(each.copy()) for each in tensors if each.dtype == np.float32]
    assert floats and not any(is_denormal(each).any() for each in floats)
