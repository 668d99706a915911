"""E with bags of features: heads of codewords are trained, cut, counted, kept and exported like linear ones."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import follow, make_profile
from torch import nn

from nacdeploy.exporters import export as exporting
from nacdeploy.exporters import targets
from nacdeploy.exporters.describe import Context
from nacdeploy.exporters.targets.ort.runner import OnnxRunner
from nacdeploy.network.attachments.early_exit import BagOfFeatures, ExitHead
from nacdeploy.strategies.state import CompressionState
from nacdeploy.strategies.steps import checkpoint
from nacdeploy.task import Task
from nacdeploy.task import evaluate as evaluation

PROFILE = make_profile(exits={"head": "bag", "recipe": {"epochs": 8}}, prune={"ratio": 0.5, "multiple": 1})


@pytest.fixture(scope="module")
def bagged(baseline: CompressionState, task: Task) -> CompressionState:
    return follow(baseline, "EQ", task, PROFILE)


def scores(state: CompressionState, task: Task) -> list[float]:
    """The score of every exit alone, the network's own end last."""
    with torch.no_grad():
        x = task.data.normalize(task.data.validation.images)
        outputs = state.network.eval().forward_exits(x)
    return [task.metric.score(each, task.data.validation.labels) for each in outputs]


def test_heads_learn(bagged: CompressionState, task: Task) -> None:
    *exits, own = scores(bagged, task)
    assert min(exits) > 0.5 * own > 2 * task.metric.chance(task.data.validation.labels)


def test_multiplications_are_those_of_the_layers() -> None:
    head = ExitHead("end", "end", (1, 12, 8, 8), 10, 8, kind="bag")
    assert head.macs == 12 * 64 * 8 * 8 + 64 * 4 * 64 + 64 * 10
    assert head(torch.randn(3, 12, 8, 8)).shape == (3, 10)


@pytest.mark.parametrize("shape", [(1, 12, 40), (1, 12, 8, 8), (1, 12, 4, 4, 4)])
def test_head_reads_signals_images_and_volumes(shape: tuple[int, ...]) -> None:
    head = ExitHead("end", "end", shape, 10, 4, is_tokens=False, kind="bag")
    assert head(torch.randn(2, *shape[1:])).shape == (2, 10)


def test_tokens_are_read_by_a_linear_layer() -> None:
    head = ExitHead("end", "end", (1, 5, 12), 10, 8, is_tokens=True, kind="bag")
    assert isinstance(head.classifier, nn.Linear) and head.kind == "linear"


def test_cells_are_told_by_shares_of_codewords() -> None:
    """However large a cell's values are, its shares sum to 1, and cells of a part of the map are averaged."""
    bag = BagOfFeatures(3, (4, 4), 5)
    for factor in (1.0, 50.0):
        near = (torch.tanh(bag.codebook(factor * torch.randn(2, 3, 4, 4))) + 1) / 2
        pooled = bag.pool(near / near.sum(1, keepdim=True))
        assert pooled.shape == (2, 64, 2, 2) and torch.allclose(pooled.sum(1), torch.ones(2, 2, 2), atol=1e-5)


def test_heads_are_cut_with_the_channels_that_they_read(bagged: CompressionState, task: Task) -> None:
    cut = follow(bagged, "P", task, PROFILE)
    before, after = (
        [head.bag.codebook.in_channels for head in state.network.heads.values()] for state in (bagged, cut)
    )
    assert sum(after) < sum(before)
    assert all(
        head.bag.codebook.weight.shape[1] == n for head, n in zip(cut.network.heads.values(), after, strict=True)
    )
    assert len(scores(cut, task)) == 3


def test_network_survives_its_checkpoint(bagged: CompressionState, task: Task, tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    checkpoint.write(tmp_path / "checkpoint", bagged, checkpoint.record_of(bagged, task, PROFILE))
    loaded, _ = checkpoint.load(tmp_path / "checkpoint")
    assert evaluation.evaluate(loaded.network, task, task.data.test) == evaluation.evaluate(
        bagged.network, task, task.data.test
    )


def test_key_tells_heads_apart(baseline: CompressionState, bagged: CompressionState, task: Task) -> None:
    linear = follow(baseline, "EQ", task, make_profile(exits={"recipe": {"epochs": 8}}))
    assert linear.key != bagged.key


def test_exported_exits_answer_as_the_network(bagged: CompressionState, task: Task, tmp_path: Path) -> None:
    folder = exporting.export(bagged, task, PROFILE, targets.parse("ort"), tmp_path / "out", Context())
    images = task.data.normalize(task.data.test.images)
    runner = OnnxRunner(folder / "model.onnx")
    found = dict(zip(runner.output_names, runner.run(images.numpy()), strict=True))
    with torch.no_grad():
        wanted = bagged.network.eval().forward_exits(images)
    for name, one in zip(("exit_1", "exit_2", "logits"), wanted, strict=True):
        assert np.mean(found[name].argmax(1) == one.numpy().argmax(1)) > 0.95
