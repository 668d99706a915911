"""Every kind of task of examples/kinds.py through search, transfer, export and bench, by its own metric; the networks
are as their users write them."""

import json
from functools import cache
from pathlib import Path

import onnx
import pytest
import torch
from command_line import TINY, Outcome, lay_out, succeed

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
