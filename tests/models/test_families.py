"""Smaller relatives of a network: by width and depth, a library's siblings, what a user's factory takes."""

from pathlib import Path

import pytest

from nacdeploy import models
from nacdeploy.models import ModelSpec, families

FACTORY = """
from torch import nn

def channels(n_classes, width=12):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.Linear(width, n_classes))

def factor(n_classes, width_mult=0.25, depth=4, bias=True):
    return nn.Sequential(nn.Flatten(), *(nn.Linear(64, 64) for _ in range(depth)), nn.Linear(64, n_classes))

def fixed(n_classes, scale=2):
    return nn.Linear(64, n_classes)
"""


def spec(name: str, width: float | None = None) -> ModelSpec:
    return ModelSpec(name, 10, 1, (8, 8), width)


def said(line: families.Line) -> list[str]:
    return [families.said(each) for each in line]


@pytest.mark.parametrize(
    ("name", "width", "first", "n"),
    [("resnet8", 48.0, 44.0, 11), ("resnet8", None, 12.0, 3), ("mobilenet_v2", 1.0, 0.9375, 15)],
)
def test_line_of_a_built_in_network_is_its_smaller_widths(name: str, width: float | None, first: float, n: int) -> None:
    widths = [each.width or 0.0 for each in families.lines(spec(name, width))[0]]
    assert len(widths) == n
    assert widths == sorted(widths, reverse=True)
    assert widths[0] == first


def test_resnets_have_a_second_depth_of_as_many_stages() -> None:
    assert [line[0].name for line in families.lines(spec("resnet8"))] == ["resnet8", "resnet20"]
    assert [line[0].name for line in families.lines(spec("resnet34"))] == ["resnet34"]


def test_network_without_relatives_has_no_line() -> None:
    for name in ("deit_tiny", "net.onnx", "timm:efficientnet_b0", "torchvision:squeezenet1_0"):
        assert families.lines(spec(name)) == ()


def test_siblings_of_a_library_differ_in_the_last_number() -> None:
    (line,) = families.lines(spec("torchvision:resnet50"))
    assert said(line) == ["torchvision:resnet34", "torchvision:resnet18"]
    (line,) = families.lines(spec("timm:mobilenetv2_100"))
    assert said(line)[:2] == ["timm:mobilenetv2_075", "timm:mobilenetv2_050"]
    (line,) = families.lines(spec("timm:vgg16.tv_in1k"))
    assert said(line) == ["timm:vgg13", "timm:vgg11"]


def of_file(folder: Path, function: str) -> tuple[families.Line, ...]:
    (folder / "net.py").write_text(FACTORY)
    name = f"{folder / 'net.py'}:{function}"
    models.name_by_user(name)
    return families.lines(models.resolve(name, n_classes=10, channels=1, input_size=(8, 8)))


def test_factory_with_a_width_has_smaller_ones(tmp_path: Path) -> None:
    (line,) = of_file(tmp_path, "channels")
    assert [each.name.rpartition(":")[2] for each in line] == ["channels?width=8", "channels?width=4"]
    assert line[0].build()(models.torch.zeros(1, 1, 8, 8)).shape == (1, 10)
    (narrower,) = of_file(tmp_path, "channels?width=6")
    assert [each.name.rpartition("=")[2] for each in narrower] == ["5", "4", "3", "2", "1"]


def test_factory_with_a_depth_has_half_of_it_too(tmp_path: Path) -> None:
    own, half = of_file(tmp_path, "factor")
    assert [each.name.rpartition("?")[2] for each in own] == [f"width_mult={k / 16!r}" for k in (3, 2, 1)]
    assert [each.name.rpartition("?")[2] for each in half[:2]] == [
        "width_mult=0.25&depth=2",
        "width_mult=0.1875&depth=2",
    ]
    assert len(list(half[0].build().children())) == len(list(own[0].build().children())) - 2


def test_factory_without_a_width_has_no_line(tmp_path: Path) -> None:
    assert of_file(tmp_path, "fixed") == ()
