"""What a whole export writes: the values of the network that was settled for the target."""

import copy
from pathlib import Path

import onnx
import torch
from conftest import follow, make_profile
from onnx import numpy_helper
from torch import Tensor, nn

from nacdeploy import models
from nacdeploy import task as tasks
from nacdeploy.exporters import export as exporting
from nacdeploy.exporters.describe import Context
from nacdeploy.exporters.targets import grid_named, parse
from nacdeploy.strategies.baseline import initial_state, plain_network
from nacdeploy.strategies.settle import settle

FACTORY = """
from torch import nn

def preactivated(n_classes):
    norms = nn.BatchNorm2d(1), nn.BatchNorm2d(8)
    convs = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
    pool = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, n_classes)
    return nn.Sequential(norms[0], convs[0], nn.ReLU(), norms[1], convs[1], nn.ReLU(), *pool)
"""


def statistics(model: onnx.ModelProto) -> list[Tensor]:
    """The means of the batch norms that stand in a graph on their own."""
    values = {tensor.name: tensor for tensor in model.graph.initializer}
    norms = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    return [torch.from_numpy(numpy_helper.to_array(values[node.input[3]]).copy()) for node in norms]


def test_norms_that_cannot_be_folded_keep_their_statistics_on_every_target(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(FACTORY)
    profile = make_profile(
        width=None, export={"min_agreement": 0.0, "min_snr_db": -50.0, "compute_capabilities": ["SM86"]}
    )
    models.name_by_user(name := f"{tmp_path / 'nets.py'}:preactivated")
    task = tasks.make(name, "digits", profile)
    state = follow(initial_state(plain_network(task, profile), task), "Q", task, profile)
    context = Context()
    exporting.export(state, task, profile, parse("onnx"), tmp_path / "out", context)
    settled = copy.deepcopy(state.network)
    settled.set_grid(grid_named("onnx"))
    settle(settled, task, profile)
    expected = [m.running_mean for m in settled.backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    found = statistics(onnx.load_model(str(tmp_path / "out" / "model.onnx")))
    assert len(found) == 2
    for mean, (name, reference) in zip(found, enumerate(expected), strict=True):
        assert torch.equal(mean, reference), name  # type: ignore[arg-type]
    before = [m.running_mean for m in state.network.backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(torch.equal(a, b) for a, b in zip(before, expected, strict=True))  # type: ignore[arg-type]
