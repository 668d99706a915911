"""The licence of the weights: from the profile, from timm of a given checkpoint, else unknown."""

from pathlib import Path

import pytest
import torch

import nacdeploy
from nacdeploy.exporters.artifacts import artifact
from nacdeploy.models.pretrained import license_of
from tests.command_line import change, lay_out, succeed


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return lay_out(tmp_path)


def test_a_profile_says_the_licence(home: Path) -> None:
    succeed("transfer", "--strategy", "Q")
    trained_here = nacdeploy.export(target="onnx", out="plain", wandb=False)
    assert artifact.load(trained_here)[0].license == ""
    assert "Licence of the weights: unknown." in (trained_here / "README.md").read_text()
    change("export", license="CC-BY-4.0")
    said = nacdeploy.export(target="onnx", out="said", profile="tiny.toml", wandb=False)
    assert artifact.load(said)[0].license == "CC-BY-4.0"
    assert "Licence of the weights: CC-BY-4.0." in (said / "README.md").read_text()
    assert "licence of the weights: CC-BY-4.0" in succeed("show", "said").out


def test_timm_says_the_licence_of_a_given_checkpoint(home: Path) -> None:
    timm = pytest.importorskip("timm")
    name = "timm:mobilenetv3_small_050"
    torch.manual_seed(0)
    network = timm.create_model(name.removeprefix("timm:"), num_classes=10)
    torch.save(network.state_dict(), "given.pt")
    change("images", input_size=32)
    change("export", min_agreement=0.0, min_snr_db=-100.0)
    settings = (home / "tiny.toml").read_text().replace("width = 8\n", "")
    (home / "tiny.toml").write_text(settings)
    succeed("transfer", "--strategy", "P", "--model", name, "--checkpoint", "given.pt", "--no-forecast")
    made = nacdeploy.export(target="onnx", out="made", wandb=False)
    assert artifact.load(made)[0].license == license_of(name) == "apache-2.0 (timm of its own weights)"


def test_torchvision_says_nothing() -> None:
    assert license_of("torchvision:resnet18") == "" == license_of("resnet8")
