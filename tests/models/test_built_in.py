"""The built-in networks: shapes, sizes, and what the surgery of this project relies on."""

import copy

import pytest
import torch
from torch import fx, nn

from nacdeploy import models
from nacdeploy.base.errors import UsageError
from nacdeploy.models import deit, mobilenet

WIDTHS = {"resnet34": 8, "mobilenet_v2": 0.25, "deit_tiny": 24, "deit_small": 24, "deit_base": 24}


def _build(name: str, channels: int = 1, input_size: tuple[int, int] = (16, 16), width: float | None = None):
    spec = models.resolve(name, n_classes=7, channels=channels, input_size=input_size, width=width)
    torch.manual_seed(0)
    return spec.build().eval()


def _narrow(name: str, channels: int = 1, input_size: tuple[int, int] = (16, 16)):
    return _build(name, channels, input_size, WIDTHS.get(name))


@pytest.mark.parametrize(("channels", "input_size"), [(1, (16, 16)), (3, (32, 28))])
@pytest.mark.parametrize("name", models.BUILT_IN)
def test_trace_gives_the_same_logits(name, channels, input_size):
    model = _narrow(name, channels, input_size)
    images = torch.randn(2, channels, *input_size)
    traced = fx.symbolic_trace(model)
    assert model(images).shape == (2, 7)
    assert torch.equal(traced(images), model(images))


@pytest.mark.parametrize("name", models.BUILT_IN)
def test_trace_runs_on_any_batch_size(name):
    traced = fx.symbolic_trace(_narrow(name))
    assert [traced(torch.randn(n, 1, 16, 16)).shape[0] for n in (1, 5)] == [1, 5]


@pytest.mark.parametrize("name", models.BUILT_IN)
def test_logits_do_not_depend_on_the_other_images_of_a_batch(name):
    model, images = _narrow(name), torch.randn(3, 1, 16, 16)
    assert torch.allclose(model(images)[1], model(images[1:2])[0], atol=1e-5)


@pytest.mark.parametrize("name", models.BUILT_IN)
def test_each_activation_is_an_instance_of_its_own(name):
    graph = fx.symbolic_trace(_narrow(name)).graph
    called = [node.target for node in graph.nodes if node.op == "call_module"]
    assert len(called) == len(set(called))


@pytest.mark.parametrize("name", models.BUILT_IN)
def test_blocks_sit_in_stages(name):
    model = _narrow(name)
    assert all(isinstance(stage, nn.Sequential) for stage in model.stages)
    assert "stages.0.0" in dict(model.named_modules())


@pytest.mark.parametrize("name", models.BUILT_IN)
def test_build_is_deterministic_when_seeded(name):
    first, second = _narrow(name).state_dict(), _narrow(name).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", models.BUILT_IN)
def test_every_parameter_gets_a_gradient(name):
    model = _narrow(name).train()
    model(torch.randn(4, 1, 16, 16)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "n_parameters"),
    # He et al., 2016, table 6 gives 0.27 M for resnet20; Touvron et al., 2021, table 1 gives 5 M and 22 M.
    [("resnet8", 77_754), ("resnet20", 272_186), ("mobilenet_v2", 2_236_106), ("deit_tiny", 5_354_314)],
)
def test_parameter_count_is_the_papers(name, n_parameters):
    model = models.ModelSpec(name, n_classes=10, channels=1, input_size=(16, 16)).build()
    assert sum(parameter.numel() for parameter in model.parameters()) == n_parameters


def test_resnet34_has_the_papers_convolutions():
    convolutions = [m for m in _narrow("resnet34").modules() if isinstance(m, nn.Conv2d)]
    assert sum(conv.kernel_size == (3, 3) for conv in convolutions) == 33
    assert sum(conv.kernel_size == (1, 1) for conv in convolutions) == 3


def test_resnet_adds_its_shortcuts_in_the_graph():
    graph = fx.symbolic_trace(_build("resnet8")).graph
    assert sum(node.target is torch.add or "add" in node.name for node in graph.nodes) == 3


def test_width_sets_the_channels_of_the_first_stage():
    model = _build("resnet8", width=6)
    assert (model.stem[0].out_channels, model.classifier.in_features) == (6, 24)


def test_width_multiplies_the_channels_of_mobilenet():
    channels = {m.out_channels for m in _build("mobilenet_v2", width=0.3).modules() if isinstance(m, nn.Conv2d)}
    assert all(n % 8 == 0 for n in channels)


def test_mobilenet_keeps_the_image_size_in_its_first_stages():
    model = _build("mobilenet_v2", width=0.25)
    x = model.stages[1](model.stages[0](model.stem(torch.randn(1, 1, 20, 20))))
    assert x.shape[2:] == (20, 20)


@pytest.mark.parametrize(("channels", "expected"), [(1, 8), (12, 16), (18, 24), (24, 24), (1280, 1280)])
def test_rounded_gives_a_multiple_of_eight_that_is_not_much_smaller(channels, expected):
    assert mobilenet.rounded(channels) == expected


@pytest.mark.parametrize(("side", "patch"), [(8, 2), (23, 2), (24, 4), (95, 4), (96, 16), (224, 16)])
def test_patch_size_follows_the_smaller_side(side, patch):
    assert deit.patch_size((side, 300)) == patch


def test_deit_attention_is_the_textbooks():
    attention = deit.Attention(12, 3).eval()
    tokens = torch.randn(2, 5, 12)
    q, k, v = (part.unflatten(-1, (3, 4)).transpose(1, 2) for part in attention.qkv(tokens).chunk(3, dim=-1))
    expected = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(2, 5, 12)
    assert torch.allclose(attention(tokens), attention.projection(expected), atol=1e-6)


def test_deit_attention_runs_when_the_embedding_is_cut():
    attention = copy.deepcopy(deit.Attention(12, 3))
    attention.qkv.weight = nn.Parameter(attention.qkv.weight[:, :7])
    attention.projection.weight = nn.Parameter(attention.projection.weight[:7])
    attention.projection.bias = nn.Parameter(attention.projection.bias[:7])
    assert attention(torch.randn(2, 5, 7)).shape == (2, 5, 7)


@pytest.mark.parametrize(
    ("name", "width", "message"),
    [
        ("resnet8", 2.5, "number of channels, not 2.5; its default is 16"),
        ("resnet8", float("inf"), "number of channels"),
        ("mobilenet_v2", float("inf"), "must be positive"),
        ("deit_tiny", 100, "multiple of its 3 heads, not 100"),
    ],
)
def test_build_fails_when_the_width_is_impossible(name, width, message):
    with pytest.raises(UsageError, match=message):
        _build(name, width=width)


def test_build_fails_when_the_image_is_smaller_than_a_patch():
    with pytest.raises(UsageError, match="at least 2x2 pixels"):
        _build("deit_tiny", input_size=(1, 8))
