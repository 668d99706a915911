"""What libraries say of a network's pretrained weights."""

import pytest

from nacdeploy.base.errors import UsageError
from nacdeploy.data.normalization import IMAGENET
from nacdeploy.models import pretrained
from nacdeploy.profile.tables.training import DataTable

HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    ("name", "scale"),
    [
        ("timm:test_efficientnet", IMAGENET),
        ("timm:test_vit", HALF),
        ("torchvision:resnet18", IMAGENET),
        ("torchvision:googlenet", HALF),  # its weights expect it behind a layer that ours are built without
    ],
)
def test_pretraining_is_what_the_library_says(name, scale):
    known = pretrained.pretraining(name)
    assert known is not None
    assert ((known.mean, known.std), known.n_classes) == (scale, 1000)


def test_ported_weights_of_torchvision_expect_what_its_own_layer_makes_of_imagenet():
    import torch
    from torchvision import models

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = models.inception_v3(weights=None, init_weights=False, transform_input=True)
    pixels = torch.rand(2, 3, 8, 8)
    mean, std = (torch.tensor(scale).view(3, 1, 1) for scale in IMAGENET)
    assert torch.allclose(network._transform_input((pixels - mean) / std), (pixels - 0.5) / 0.5, atol=1e-5)
    known = pretrained.pretraining("torchvision:inception_v3")
    assert known is not None
    assert (known.mean, known.std) == HALF


def test_pretraining_is_none_when_nobody_says_anything():
    assert pretrained.pretraining("resnet8") is None
    assert pretrained.pretraining("net.py:make") is None


def test_settled_takes_the_networks_word_for_what_is_asked_of_it():
    asked = DataTable(mean="model", std=0.3, classes="index")
    settled = pretrained.settled("timm:test_vit", asked)
    assert (settled.mean, settled.std, settled.n_classes) == (HALF[0], 0.3, 1000)


def test_settled_leaves_alone_what_asks_nothing():
    table = DataTable(mean="imagenet", std="data", classes="index", n_classes=12)
    assert pretrained.settled("net.py:make", table) is table


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (DataTable(mean="model", std="model"), r"nothing says how model 'resnet8' was trained; set images\.mean"),
        (DataTable(classes="index"), r"set images\.n_classes to numbers"),
    ],
)
def test_settled_fails_when_nobody_knows(table, message):
    with pytest.raises(UsageError, match=message):
        pretrained.settled("resnet8", table)


def test_settled_fails_when_the_pretrained_weights_have_no_classifier():
    with pytest.raises(UsageError, match=r"set images\.n_classes to numbers"):
        pretrained.settled("timm:eva02_small_patch14_224", DataTable(mean="model", std="model", classes="index"))


def test_settled_names_the_nearest_model_when_unknown():
    with pytest.raises(UsageError, match="unknown timm model 'test_efficientnat'; did you mean 'test_efficientnet"):
        pretrained.settled("timm:test_efficientnat", DataTable(mean="model", std="model"))
