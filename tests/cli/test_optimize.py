"""A bare ONNX file through the commands: no code, no labels, no training."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from command_line import TINY, lay_out, refused_line, run, succeed
from PIL import Image
from torch import nn

import nacdeploy
from nacdeploy.exporters.targets.ort.runner import OnnxRunner


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3),
        nn.ReLU(),
    ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 6)).eval()


class Pair(nn.Module):
    """Two inputs, one of them in integers, and two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.table, self.head = nn.Conv2d(1, 32, 3, padding=1), nn.Embedding(9, 32), nn.Linear(32, 4)

    def forward(self, image: torch.Tensor, kind: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.relu(self.body(image)) + self.table(kind)[:, :, None, None]
        return self.head(x.mean((2, 3))), x


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = lay_out(tmp_path_factory.mktemp("onnx"), TINY.replace("n_test = 60\ninput_size = 8", "n_test = 60"))
    draw = np.random.default_rng(0)
    (made / "photos").mkdir()
    for i in range(24):
        smooth = draw.integers(0, 255, (3, 3, 3), dtype=np.uint8)
        Image.fromarray(smooth).resize((20, 16 + 2 * (i % 3))).save(made / "photos" / f"{i}.png")
    torch.onnx.export(
        network(),
        (torch.rand(1, 3, 16, 16),),
        str(made / "net.onnx"),
        dynamo=False,
        input_names=["pixels"],
        output_names=["scores"],
    )
    torch.manual_seed(0)
    example = (torch.rand(1, 1, 8, 8), torch.zeros(1, dtype=torch.int64))
    names = {"input_names": ["image", "kind"], "output_names": ["scores", "map"]}
    axes = {name: {0: "n"} for each in names.values() for name in each}
    torch.onnx.export(Pair().eval(), example, str(made / "pair.onnx"), dynamo=False, dynamic_axes=axes, **names)
    np.savez(made / "pair.npz", image=draw.random((20, 1, 8, 8), dtype=np.float32), kind=draw.integers(0, 9, 20))
    return made


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


def test_file_becomes_an_artifact_that_answers_as_it(here: Path) -> None:
    before = Path("net.onnx").read_bytes()
    done = succeed("optimize", "net.onnx", "--data", "photos", "--min-snr", "20", "--out", "fast")
    assert "the network that was read answers as net.onnx in ONNX Runtime" in done.err
    assert "channels, height, width, rgb, values" in done.err and "file: fast/whole.onnx" in done.out
    assert Path("net.onnx").read_bytes() == before
    x = np.random.default_rng(1).random((1, 3, 16, 16), dtype=np.float32)
    (was,), (now,) = (OnnxRunner(Path(file)).run(x) for file in ("net.onnx", "fast/whole.onnx"))
    assert 10 * np.log10(np.square(was).sum() / np.square(was - now).sum()) > 15
    model = onnx.load("fast/model.onnx")
    assert (model.graph.input[0].name, model.graph.output[0].name) == ("pixels", "scores")
    assert any(node.op_type == "QuantizeLinear" for node in model.graph.node)


def test_several_inputs_come_from_arrays_by_name(here: Path) -> None:
    found = nacdeploy.optimize("pair.onnx", data="pair.npz", profile="tiny.toml", out="fast-pair", wandb=False)
    model = onnx.load(found.file)
    assert [each.name for each in model.graph.input] == ["image", "kind"]
    assert [each.name for each in model.graph.output] == ["scores", "map"]
    (row,) = [row for row in found.table.rows if row.chain]
    assert row.metric == "snr:higher:dB" and row.score > 20
    assert all("alone it would leave" in why or "measured" in why or "fewer" in why for why in found.in_float.values())


def test_channels_fall_and_answers_are_learned_back_without_a_label(here: Path) -> None:
    succeed(
        "transfer",
        "--model",
        "net.onnx",
        "--data",
        "folder:photos",
        "--strategy",
        "P(ratio=0.25)FQ",
        "--out",
        "runs/cut",
    )
    result = json.loads(Path("runs/cut/result.json").read_text())
    assert result["figures"]["macs_ratio"] > 1.1 and result["figures"]["metric"] == "snr:higher:dB"
    succeed("export", "--from", "runs/cut", "--target", "openvino", "--out", "runs/cut-openvino")


def test_strategy_of_ones_own_says_itself_what_answers_keep(here: Path) -> None:
    done = run("optimize", "net.onnx", "--data", "photos", "--strategy", "Q(bits=w4a8)", "--min-snr", "60")
    assert done.code == 2 and "Q(min_snr_db=60)" in refused_line(done)


def test_without_data_inputs_are_random_and_that_is_said(here: Path) -> None:
    done = succeed("transfer", "--model", "net.onnx", "--data", "random", "--strategy", "Q", "--out", "runs/random")
    assert "RANDOM inputs" in done.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("gone.onnx", "--data", "photos"), "gone.onnx is not there"),
        (("net.py", "--data", "photos"), "optimize takes an ONNX file"),
        (("pair.onnx", "--data", "photos"), "which are no images: give --data inputs:FILE.npz"),
        (("net.onnx", "--data", "pair.npz"), "has no array 'pixels'"),
        (("pair.onnx", "--data", "short.npz"), "takes (None, 1, 8, 8)"),
        (("net.onnx", "--data", "photos", "--input-size", "8"), "the network takes images of 16x16"),
    ],
)
def test_what_does_not_fit_is_one_line(here: Path, arguments: tuple[str, ...], said: str) -> None:
    np.savez("short.npz", image=np.zeros((5, 1, 4, 4), np.float32), kind=np.zeros(5, np.int64))
    line = refused_line(run("optimize", *arguments, "--out", "never"))
    assert said in line and not Path("never").exists()


def test_file_that_changed_is_not_taken_for_the_one_of_a_record(here: Path) -> None:
    Path("other.onnx").write_bytes(Path("net.onnx").read_bytes())
    succeed("transfer", "--model", "other.onnx", "--data", "folder:photos", "--strategy", "Q", "--out", "runs/other")
    model = onnx.load("other.onnx")
    model.producer_name = "somebody else"
    onnx.save(model, "other.onnx")
    assert "has changed since it was recorded" in refused_line(run("export", "--from", "runs/other", "--target", "ort"))
