"""Every kind of task of examples/kinds.py through search, transfer, export and bench, by its own metric; the networks
are as their users write them."""

import json
import runpy
from functools import cache
from pathlib import Path

import onnx
import pytest
import torch
from command_line import TINY, Outcome, lay_out, succeed
from torch import nn

import nacdeploy

ROOT = Path(__file__).parent.parent.parent
EXAMPLE = ROOT / "examples" / "kinds.py"
PROFILE = TINY.replace("learning_rate = 0.01\n", 'learning_rate = 0.002\noptimizer = "adamw"\n')
# By kind: the metric, its value that has to be reached on the test split (above, or below with a minus), the layers in
# float by name, and the operator that shows that integers are multiplied.
KINDS = {
    "multilabel": ("f1", 0.85, set(), "QLinearConv"),
    "regression": ("mae", -60.0, set(), "QGemm"),
    "segmentation": ("miou", 0.7, set(), "QLinearConv"),
    "tones": ("accuracy", 0.9, set(), "QLinearConv"),
    "tokens": ("accuracy", 0.9, {"words"}, "MatMulIntegerToFloat"),
    "recurrent": ("accuracy", 0.9, {"words", "reader"}, "QGemm"),
    "pairs": ("all_right", 0.6, set(), "QLinearConv"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = lay_out(tmp_path_factory.mktemp("kinds"), PROFILE)
    (made / "kinds.py").write_text(EXAMPLE.read_text())
    return made


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


@cache
def deployed(kind: str) -> Outcome:
    """What `transfer` says of a kind, with an artifact of it beside."""
    done = succeed("transfer", "--task", f"kinds.py:{kind}", "--strategy", "P(ratio=0.25)QF", "--out", f"runs/{kind}")
    succeed("export", "--from", f"runs/{kind}", "--target", "ort", "--out", f"artifact-{kind}")
    return done


@pytest.mark.parametrize("kind", KINDS)
def test_kind_of_task_is_deployed_and_scored_by_its_own_metric(here: Path, kind: str) -> None:
    metric, reached, left_out, _ = KINDS[kind]
    said = deployed(kind).err
    assert all(f"{name} (" in said for name in left_out) and ("float:" in said) == bool(left_out)
    table = succeed("bench", f"artifact-{kind}", "--json").json
    row = next(each for each in table["rows"] if each["artifact"] == f"artifact-{kind}")
    scores = json.loads(Path(f"runs/{kind}/result.json").read_text())["scores"]
    score = row[metric]
    assert score == pytest.approx(scores["compressed"], rel=0.02)
    assert score > reached if reached > 0 else score < -reached


@pytest.mark.parametrize("kind", KINDS)
def test_kind_of_task_runs_on_integer_kernels(here: Path, kind: str) -> None:
    deployed(kind)
    found = succeed("explain", f"artifact-{kind}", "--rounds", "3", "--json").json["rows"]
    assert any(KINDS[kind][3] in kernel for row in found for kernel in row["facts"]["kernels"])


def test_search_of_a_segmentation_holds_its_budget_in_points_of_its_metric(here: Path) -> None:
    succeed("search", "--task", "kinds.py:segmentation", "--budget", "2", "--max-drop", "0.2", "--out", "runs/found")
    figures = json.loads(Path("runs/found/result.json").read_text())["figures"]
    assert figures["baseline_miou"] - figures["miou"] <= 0.2


def test_inputs_and_outputs_are_those_of_the_network(here: Path) -> None:
    deployed("tokens"), deployed("pairs"), deployed("segmentation")
    graphs = {kind: onnx.load(f"artifact-{kind}/model.onnx").graph for kind in ("tokens", "pairs", "segmentation")}
    kinds = {(i.name, i.type.tensor_type.elem_type) for i in graphs["tokens"].input}
    assert kinds == {("tokens", onnx.TensorProto.INT64)}
    assert [i.name for i in graphs["pairs"].input] == ["first", "second"] and len(graphs["pairs"].output) == 3
    assert [o.name for o in graphs["segmentation"].output] == ["out"]


def test_whole_heads_go_and_a_loaded_result_has_as_many(here: Path) -> None:
    word = "P(ratio=0.4,scope=uniform)F"
    done = succeed("transfer", "--task", "kinds.py:tokens", "--strategy", word, "--out", "runs/heads")
    assert "blocks.0.attention.qkv 24" in done.err
    network = nacdeploy.load("runs/heads")
    counts = [each.heads for each in network.modules() if type(each).__name__ == "Attention"]
    assert counts == [3, 3] and network(torch.zeros(5, 12, dtype=torch.long)).shape == (5, 2)


def test_pitch_is_read_from_outputs_around_the_largest() -> None:
    pitch = runpy.run_path(str(ROOT / "examples" / "pitch.py"))
    cents = torch.tensor([3111.0, 4567.8, 7900.0])
    outputs = torch.exp(-((pitch["CENTS"] - cents[:, None]) ** 2) / (2 * 25**2))
    found = pitch["found"](outputs)
    assert pitch["within_10_cents"](found, cents) == 1 and pitch["within_10_cents"](found + 15, cents) == 0
    assert pitch["loss"](outputs, cents) < pitch["loss"](outputs, cents + 100)
    sound, truth = pitch["tones"](4, 0).tensors
    crossings = (sound.sign().diff(dim=1) != 0).sum(1)
    assert sound.shape == (4, 1024) and bool((crossings >= 2 * 0.064 * 10 * 2 ** (truth / 1200) - 3).all())


def test_segmentation_of_real_size_has_an_answer_and_a_metric() -> None:
    """Its canvases need Fashion-MNIST; network, loss and metric do not."""
    part = runpy.run_path(str(ROOT / "examples" / "segmentation.py"))
    classes = torch.randint(0, 11, (2, 96, 96), generator=torch.Generator().manual_seed(0))
    exact = {"out": 9.0 * nn.functional.one_hot(classes, 11).permute(0, 3, 1, 2).float()}
    assert part["mean_iou"](exact, classes) == 1 and part["loss"](exact, classes) < 0.01
    assert part["mean_iou"]({"out": exact["out"].roll(1, 1)}, classes) == 0
    made = part["segmentation"].lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=11).eval()
    with torch.no_grad():
        assert made(torch.zeros(1, 3, 96, 96))["out"].shape == (1, 11, 96, 96)
