"""`--preprocess` from the option to the artifact: recorded, shown, and taken by whatever goes on from a result."""

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import change, files, refused_line, run, succeed
from PIL import Image

RESNET50 = "torchvision:ResNet50_Weights.IMAGENET1K_V2"


def pictures(folder: str) -> str:
    """Colour images of two kinds and several sizes."""
    generator = np.random.default_rng(0)
    for number in range(60):
        place = Path(folder, ("dark", "light")[number % 2])
        place.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 100, (20 + number % 3, 24, 3)) + 120 * (number % 2)
        Image.fromarray(pixels.astype("uint8")).save(place / f"{number}.png")
    return f"folder:{folder}"


@pytest.fixture
def asked(home: Path) -> tuple[str, ...]:
    text = Path("tiny.toml").read_text().replace("input_size = 8", 'augment = "none"').replace("n_train = 200\n", "")
    Path("tiny.toml").write_text(text.replace("n_validation = 100\nn_test = 60\n", ""))
    return ("--data", pictures("pictures"), "--preprocess", RESNET50, "--input-size", "16")


def images_of(checkpoint: Path) -> dict[str, object]:
    return dict(json.loads((checkpoint / "checkpoint.json").read_text())["profile"]["images"])


def test_preset_reaches_checkpoint_manifest_and_bench(asked: tuple[str, ...]) -> None:
    done = succeed("transfer", "--strategy", "QF", *asked, "--out", "made")
    assert f"as images.preprocess = '{RESNET50}' says" in done.err
    images = images_of(Path("made/checkpoint"))
    assert (images["preprocess"], images["resize"], images["crop"], images["input_size"]) == (RESNET50, 17, 16, None)
    assert images["mean"] == [0.485, 0.456, 0.406]
    succeed("finetune", "--from", "made", "--epochs", 1, "--out", "longer")
    succeed("export", "--from", "longer", "--target", "ort", "--out", "artifact")
    taken = json.loads(Path("artifact/manifest.json").read_text())["preprocessing"]
    assert (taken["resize"], taken["crop"], taken["mean"][0], taken["channel_order"]) == (17, 16, 0.485, "rgb")
    _, int8 = json.loads(succeed("bench", "artifact", "--json").out)["rows"]
    assert int8["accuracy"] > 0.9


def test_key_that_is_given_stands_over_the_preset(asked: tuple[str, ...]) -> None:
    succeed("train", *asked, "--normalize", "0.5/0.25", "--out", "made")
    images = images_of(Path("made"))
    assert (images["mean"], images["resize"]) == (0.5, 17)


def test_order_and_range_reach_checkpoint_manifest_and_bench(asked: tuple[str, ...]) -> None:
    change("images", channel_order="bgr", value_range="0..255", mean=[100.0, 110.0, 120.0], std=60.0, input_size=16)
    succeed("transfer", "--strategy", "QF", *asked[:2], "--out", "made")
    record = json.loads(Path("made/checkpoint/checkpoint.json").read_text())
    assert (record["data"]["channel_order"], record["data"]["value_range"]) == ("bgr", "0..255")
    succeed("export", "--from", "made", "--target", "ort", "--out", "artifact")
    taken = json.loads(Path("artifact/manifest.json").read_text())["preprocessing"]
    assert (taken["scale"], taken["channel_order"], taken["mean"]) == (1.0, "bgr", [100.0, 110.0, 120.0])
    _, int8 = json.loads(succeed("bench", "artifact", "--json").out)["rows"]
    assert int8["accuracy"] > 0.9
    assert "blue, green, red" in succeed("show", "artifact").out


def test_checkpoint_brings_its_order_and_range_to_other_data(asked: tuple[str, ...]) -> None:
    change("images", channel_order="bgr", value_range="0..255", mean=[100.0, 110.0, 120.0], std=60.0, input_size=16)
    succeed("transfer", "--strategy", "Q", *asked[:2], "--out", "made")
    (baseline,) = {json.loads(Path("made/result.json").read_text())["baseline_checkpoint"]}
    text = Path("tiny.toml").read_text()
    lines = [x for x in text.splitlines() if not x.startswith(("mean", "std", "channel_order", "value_range"))]
    Path("tiny.toml").write_text("\n".join(lines) + "\n")
    other = pictures("others")
    succeed("transfer", "--strategy", "Q", "--checkpoint", baseline, "--data", other, "--out", "again")
    images = images_of(Path("again/checkpoint"))
    assert (images["channel_order"], images["value_range"], images["mean"]) == ("bgr", "0..255", [100.0, 110.0, 120.0])


def test_preset_stands_over_what_a_checkpoint_was_made_with(asked: tuple[str, ...]) -> None:
    change("images", input_size=16, mean=0.4, std=0.3)
    succeed("train", *asked[:2], "--out", "made")
    change("images", augment="none")
    lines = [x for x in Path("tiny.toml").read_text().splitlines() if not x.startswith(("mean", "std", "input_size"))]
    Path("tiny.toml").write_text("\n".join(lines) + "\n")
    succeed("transfer", "--strategy", "Q", "--checkpoint", "made", *asked[2:], "--out", "again")
    images = images_of(Path("again/checkpoint"))
    assert (images["preprocess"], images["resize"], images["crop"], images["input_size"]) == (RESNET50, 17, 16, None)
    assert images["mean"] == [0.485, 0.456, 0.406]


def test_unknown_preset_is_one_line_before_any_work(asked: tuple[str, ...]) -> None:
    before = files()
    done = run("transfer", "--strategy", "Q", *asked[:2], "--preprocess", "torchvision:ResNet51_Weights.V1")
    assert done.code == 2
    assert "unknown torchvision weights 'ResNet51_Weights.V1'" in refused_line(done)
    assert files() == before
