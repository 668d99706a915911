"""The images of pretrained networks, against the transforms of the libraries that trained them."""

import numpy as np
import pytest
import torch
from PIL import Image

from nacdeploy import data
from nacdeploy.base.errors import UsageError
from nacdeploy.models.presets import Preset, preset
from nacdeploy.profile.tables.training import DataTable

RESNET50 = "torchvision:ResNet50_Weights.IMAGENET1K_V2"


def test_torchvision_weights_say_how_their_images_are_made():
    found = preset(RESNET50, "resnet8")
    assert (found.resize, found.crop, found.interpolation) == (232, 224, "bilinear")
    assert found.mean == (0.485, 0.456, 0.406)
    assert preset("torchvision", "torchvision:resnet50") == found


def test_timm_says_how_the_images_of_a_model_are_made():
    pytest.importorskip("timm")
    found = preset("timm", "timm:resnet18")
    assert (found.resize, found.crop, found.interpolation) == (235, 224, "bicubic")
    assert preset("timm:resnet18", "resnet8") == found


def test_another_side_keeps_the_margin_in_proportion():
    half = Preset(256, 224, "bilinear", (0.5,), (0.5,)).at(112)
    assert (half.resize, half.crop) == (128, 112)
    assert Preset(None, 224, "bilinear", (0.5,), (0.5,)).at(112).resize is None


@pytest.mark.parametrize(
    ("spec", "model", "message"),
    [
        ("pil", "resnet8", "'pil' is none of 'timm', 'timm:NAME'"),
        ("timm:", "resnet8", "'timm:' is none of"),
        ("torchvision", "resnet8", "takes the model's own, and 'resnet8' is not of torchvision"),
        ("torchvision:ResNet50_Weights.IMAGENET1K_V3", "resnet8", r"did you mean 'ResNet50_Weights\.IMAGENET1K_V2'"),
        ("torchvision:resnet50", "resnet8", "unknown torchvision weights 'resnet50'"),
        ("torchvision", "torchvision:resnet51", "unknown torchvision model"),
    ],
)
def test_unknown_preset_is_refused(spec, model, message):
    with pytest.raises(UsageError, match=message):
        preset(spec, model)


def _folder(root):
    """Photograph-like images of several sizes in two classes, six of each."""
    generator = np.random.default_rng(0)
    for number in range(12):
        coarse = generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((300 + 10 * number, 280), Image.Resampling.BICUBIC)
        (root / "ab"[number % 2]).mkdir(exist_ok=True)
        picture.save(root / "ab"[number % 2] / f"{number}.png")


def _loaded(root, found, **more):
    keys = {"resize": found.resize, "crop": found.crop, "interpolation": found.interpolation}
    table = DataTable(mean=found.mean, std=found.std, n_train=2, **keys, **more)
    return data.load(f"folder:{root}", table)


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_images_are_as_the_library_makes_them(tmp_path, library):
    if library == "timm":
        timm = pytest.importorskip("timm")
        config = timm.data.resolve_data_config({}, pretrained_cfg=timm.get_pretrained_cfg("resnet18").to_dict())
        transform, found = timm.data.create_transform(**config), preset("timm:resnet18", "")
    else:
        from torchvision.models import ResNet50_Weights

        transform, found = ResNet50_Weights.IMAGENET1K_V2.transforms(), preset(RESNET50, "")
    _folder(tmp_path)
    loaded = _loaded(tmp_path, found)
    theirs = [transform(Image.open(path)) for path in sorted(tmp_path.glob("*/*.png"))]
    for split in (loaded.train, loaded.validation, loaded.test):
        for ours in loaded.normalize(split.whole()):
            distance = min(float((ours - other).abs().mean()) for other in theirs)
            assert distance < 0.01  # less than a level of 255


def test_order_and_range_are_those_of_the_network(tmp_path):
    """Blue first, up to 255, less Caffe's mean: the same numbers as by hand."""
    _folder(tmp_path)
    mean, std = (103.939, 116.779, 123.68), (1.0, 1.0, 1.0)
    keys = {"resize": 40, "crop": 32, "n_train": 2, "mean": mean, "std": std}
    loaded = data.load(f"folder:{tmp_path}", DataTable(channel_order="bgr", value_range="0..255", **keys))
    pixels = loaded.train.whole()
    expected = pixels[:, [2, 1, 0]].float() - torch.tensor(mean)[:, None, None]
    assert torch.allclose(loaded.normalize(pixels), expected)
    assert loaded.as_taken == {"channel_order": "bgr", "value_range": "0..255"}


@pytest.mark.parametrize("name", ["imagenet", "data"])
def test_known_statistics_follow_order_and_range(tmp_path, name):
    """What is known of red, green and blue in [0, 1] normalises alike, however the network takes its pixels."""
    _folder(tmp_path)
    keys = {"resize": 40, "crop": 32, "n_train": 2, "mean": name, "std": name}
    usual, caffe = (
        data.load(f"folder:{tmp_path}", DataTable(**keys, **more))
        for more in ({}, {"channel_order": "bgr", "value_range": "0..255"})
    )
    pixels = usual.train.whole()
    assert torch.allclose(usual.normalize(pixels).flip(1), caffe.normalize(pixels), atol=1e-5)
    assert usual.as_taken == {}


def test_squashed_images_take_the_interpolation(tmp_path):
    _folder(tmp_path)
    smooth, sharp = (
        data.load(f"folder:{tmp_path}", DataTable(input_size=16, n_train=2, interpolation=how)).train.whole()
        for how in ("bilinear", "nearest")
    )
    assert smooth.shape == sharp.shape == (2, 3, 16, 16)
    assert not torch.equal(smooth, sharp)
