"""Each criterion ranks by its paper's formula, summed over coupled layers; equal channels go by their index."""

import copy
import dataclasses

import pytest
import torch
from small_networks import (
    Attention,
    Concat,
    DataDependent,
    Depthwise,
    FlattenLinear,
    Grouped,
    Plain,
    Residual,
    Signal,
    Volume,
    images,
    network,
)
from torch import Tensor, nn
from torch.nn import functional

from nacdeploy import models
from nacdeploy.base.precision import Precision
from nacdeploy.exporters.targets import grid_named
from nacdeploy.metrics import ACCURACY
from nacdeploy.network.attachments.fake_quant import Rule
from nacdeploy.network.network import Network
from nacdeploy.surgery.channels import channel_groups, channel_importance
from nacdeploy.surgery.channels.channel_choice import Group, choose, ordered
from nacdeploy.surgery.channels.channel_importance import CRITERIA, N_DIRECTIONS, Evidence

BACKBONES = [Plain, Residual, Concat, Depthwise, Grouped, FlattenLinear, Signal, Volume]
LABELS = torch.arange(40) % 5


def evidence(made: Network, seed: int = 0) -> Evidence:
    return channel_importance.evidence(made, images(40), LABELS, ACCURACY.loss, seed)


def ranked(made: Network, name: str, seed: int = 0) -> dict[str, Group]:
    found = channel_importance.covered(channel_groups.groups(made), name, made)
    return {group.root: group for group in channel_importance.ranked(found, name, evidence(made, seed))}


def first(scores: Tensor, n: int) -> list[int]:
    """The `n` channels that go first."""
    blank = Group("layer", tuple(range(len(scores))), (0.0,) * len(scores), 0)
    return sorted(ordered(blank, scores).order[:n])


def constant_filters(values: list[float], *shape: int) -> Tensor:
    return torch.stack([value * torch.ones(*shape) for value in values]).double()


# Source of the numbers: golden/auptimizer.json, masks_known: filters of one value each, and what goes of them.
RISING_5, RISING_10, FROM_ONE = [*range(5)], [*range(10)], [*range(1, 11)]


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        (channel_importance.filter_distances(constant_filters(FROM_ONE, 5, 5, 5)), [4, 5]),
        (channel_importance.filter_distances(constant_filters(FROM_ONE, 5, 5, 5)), [2, 3, 4, 5, 6, 7]),
        (channel_importance.filter_l1(constant_filters(RISING_5, 1, 5, 5)), [0]),
        (channel_importance.filter_l1(constant_filters(RISING_10, 5, 5, 5)), [0, 1, 2, 3, 4, 5]),
        (channel_importance.filter_l2(constant_filters(RISING_10, 5, 5, 5)), [0, 1, 2, 3, 4, 5]),
        (channel_importance.filter_taylor(constant_filters(RISING_5, 1, 5, 5), -torch.ones(5, 1, 5, 5)), [0]),
        (
            channel_importance.filter_taylor(constant_filters(FROM_ONE[::-1], 1, 5, 5), torch.ones(10, 1, 5, 5)),
            [4, 5, 6, 7, 8, 9],
        ),
    ],
)
def test_known_filters_go_first(scores: Tensor, expected: list[int]) -> None:
    assert first(scores, len(expected)) == expected


@pytest.mark.parametrize(("ratio", "expected"), [(0.2, [0]), (0.6, [0, 1, 2])])
def test_slim_takes_the_least_factors_of_all_norms(ratio: float, expected: list[int]) -> None:
    """Factors 0..4 and 0, -1..-4 (golden/auptimizer.json, masks_known, slim): their size counts, over all layers."""
    body = (nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 5, 3), nn.BatchNorm2d(5), nn.ReLU())
    made = network(nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 5)))
    with torch.no_grad():
        made.backbone.get_parameter("1.weight").copy_(torch.arange(5.0))
        made.backbone.get_parameter("4.weight").copy_(-torch.arange(5.0))
    found = list(ranked(made, "slim").values())
    assert choose(found, {}, int(10 * ratio), 1, "global") == {"0": tuple(expected), "3": tuple(expected)}


def test_scores_are_summed_over_coupled_layers() -> None:
    made = network(Residual())
    stem, second = (made.backbone.get_parameter(f"{name}.weight").double() for name in ("stem.0", "conv2"))
    coupled = next(group for group in ranked(made, "l1").values() if {"stem.0", "conv2"} <= {*group.layers})
    expected = (stem.abs().flatten(1).sum(1) + second.abs().flatten(1).sum(1)).detach()
    assert list(coupled.order) == expected.argsort().tolist()
    torch.testing.assert_close(torch.tensor(coupled.importance).double(), (expected / expected.max()).sort().values)


def test_apoz_counts_positive_values_behind_the_activation() -> None:
    made = network(Plain())
    convolution, norm = [*copy.deepcopy(made.backbone).children()][:2]
    with torch.no_grad():
        seen = norm.train()(convolution(images(40)))
    expected = (seen > 0).double().mean((0, 2, 3))
    group = ranked(made, "apoz")["0"]
    torch.testing.assert_close(torch.tensor(group.importance).double(), expected[[*group.order]])
    assert list(group.importance) == sorted(group.importance)


def test_activations_are_those_before_pooling_and_flattening() -> None:
    made = network(FlattenLinear())
    with torch.no_grad():
        seen = torch.relu(made.backbone[0](images(40)))  # type: ignore[index]
    for name, expected in (("apoz", (seen > 0).double()), ("mean-activation", seen.double())):
        means = expected.mean((0, 2, 3))
        assert list(ranked(made, name)["0"].order) == means.argsort(stable=True).tolist()


def test_taylor_is_the_squared_product_of_weight_and_gradient() -> None:
    made = network(FlattenLinear())
    weight = made.backbone.get_parameter("0.weight")
    functional.cross_entropy(made.backbone(images(40)), LABELS).backward()
    assert weight.grad is not None
    expected = (weight.detach() * weight.grad).square().flatten(1).sum(1)
    assert list(ranked(made, "taylor")["0"].order) == expected.argsort().tolist()


def test_random_follows_the_seed() -> None:
    made = network(Plain())
    orders = [ranked(made, "random", seed)["3"].order for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize("name", CRITERIA)
@pytest.mark.parametrize("backbone", BACKBONES, ids=lambda each: each.__name__)
def test_every_criterion_orders_all_channels_dead_ones_first(backbone: type[nn.Module], name: str) -> None:
    made = network(backbone())
    dead = next(group for group in channel_groups.groups(made) if group.quantum == 1)
    with torch.no_grad():
        for layer in dead.layers:
            made.backbone.get_parameter(f"{layer}.weight")[2] = 0
            if made.backbone.get_submodule(layer).bias is not None:
                made.backbone.get_parameter(f"{layer}.bias")[2] = 0
    made.rebuild_attachments()
    found = ranked(made, name)
    for group in found.values():
        assert sorted(group.order) == list(range(group.n_channels))
        assert group.importance == tuple(sorted(group.importance)) or group.n_dead or group.quantum > 1
    assert dead.root not in found or found[dead.root].order[0] == 2


@pytest.mark.parametrize("name", [name for name in CRITERIA if name not in ("random", "lasso")])
def test_equal_channels_go_by_their_index(name: str) -> None:
    """(Lasso keeps the first of equal channels: the others explain nothing more.)"""
    made = network(Plain())
    with torch.no_grad():
        for parameter in made.backbone.parameters():
            parameter.copy_(parameter.flatten()[0].abs() + 0.1)
    assert ranked(made, name)["3"].order == tuple(range(16))


@pytest.mark.parametrize("name", [name for name in CRITERIA if name != "random"])
def test_ranking_sees_neither_quantizers_nor_norm_statistics(name: str) -> None:
    plain, dressed = network(Residual()), network(Residual())
    dressed.quantize(Rule(Precision(4, 8)))
    for module in dressed.backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
    assert ranked(plain, name) == ranked(dressed, name)


@pytest.mark.parametrize(
    ("name", "backbone", "said"),
    [
        ("slim", Attention, "factors of batch norms"),
        ("slim", DataDependent, "factors of batch norms"),
        ("apoz", Attention, "zeros of ReLU"),
        ("mean-activation", DataDependent, "the graph shows none"),
    ],
)
def test_criterion_says_why_it_ranks_nothing(name: str, backbone: type[nn.Module], said: str) -> None:
    made = network(backbone())
    found = channel_groups.groups(made)
    assert channel_importance.covered(found, name, made) == []
    assert said in channel_importance.why_not(found, name, made)


@pytest.mark.parametrize("name", ["l1", "l2", "fpgm", "taylor", "lasso"])
@pytest.mark.parametrize("model", ["mobilenet_v2", "deit_tiny"])
def test_ranking_works_on_depthwise_networks_and_transformers(model: str, name: str) -> None:
    size, width = (16, 16), {"mobilenet_v2": 0.25, "deit_tiny": 24}[model]
    torch.manual_seed(0)
    backbone = models.resolve(model, n_classes=5, channels=3, input_size=size, width=width).build()
    made = Network(backbone, grid_named("ort"), (3, *size)).eval()
    x = torch.randn(8, 3, *size, generator=torch.Generator().manual_seed(1))
    known = channel_importance.evidence(made, x, LABELS[:8], ACCURACY.loss, 0)
    found = channel_importance.covered(channel_groups.groups(made), name, made)
    assert len(channel_importance.ranked(found, name, known)) == len(found) > 10


# Source of the numbers: golden/auptimizer.json, channel_dependency.
SETS = {
    "torchvision:resnet18": [
        ("conv1", "layer1.0.conv2", "layer1.1.conv2"),
        ("layer2.0.conv2", "layer2.0.downsample.0", "layer2.1.conv2"),
        ("layer3.0.conv2", "layer3.0.downsample.0", "layer3.1.conv2"),
        ("layer4.0.conv2", "layer4.0.downsample.0", "layer4.1.conv2"),
    ],
    "torchvision:mobilenet_v2": [
        ("features.2.conv.2", "features.3.conv.2"),
        tuple(f"features.{i}.conv.2" for i in range(4, 7)),
        tuple(f"features.{i}.conv.2" for i in range(7, 11)),
        tuple(f"features.{i}.conv.2" for i in range(11, 14)),
        tuple(f"features.{i}.conv.2" for i in range(14, 17)),
    ],
}


@pytest.mark.parametrize("model", SETS)
def test_dependency_sets_are_the_layers_that_add_up(model: str) -> None:
    backbone = models.resolve(model, n_classes=5, channels=3, input_size=(32, 32), width=None).build()
    groups = channel_groups.groups(Network(backbone, grid_named("ort"), (3, 32, 32)).eval())
    order = [name for name, layer in backbone.named_modules() if getattr(layer, "groups", 1) == 1]
    sets = [tuple(sorted({*group.layers} & {*order}, key=order.index)) for group in groups]
    assert sorted((one for one in sets if len(one) > 1), key=lambda one: order.index(one[0])) == SETS[model]


def test_fisher_is_the_squared_slope_of_the_loss_by_a_gate_on_what_readers_read() -> None:
    made = network(Plain())
    known = evidence(made)
    found = {group.root: group for group in ranked(made, "fisher").values()}
    group = next(g for g in found.values() if any(m.role == "reader" for m in g.members))
    reader = next(m for m in group.members if m.role == "reader")
    layer, total = known.backbone.get_submodule(reader.layer), torch.zeros(group.n_channels, dtype=torch.float64)
    seen: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    for x, labels in known.batches():
        seen.clear()
        loss = known.loss(known.backbone(x), labels) * len(x)
        (slope,) = torch.autograd.grad(loss, seen)
        by_input = (slope * seen[0]).flatten(2).sum(2) if slope.dim() > 2 else slope * seen[0]
        by_channel = by_input[:, torch.tensor(reader.indices)].reshape(len(x), group.n_channels, -1).sum(2)
        total += by_channel.double().square().sum(0)
    handle.remove()
    scores = torch.zeros(group.n_channels, dtype=torch.float64)
    scores[list(group.order)] = torch.tensor(group.importance, dtype=torch.float64)
    assert torch.allclose(scores, total, rtol=1e-4)


def test_answers_is_what_all_outputs_lose_by_a_channel_and_reads_no_label() -> None:
    """The last layer is linear, so that a channel's slope is its contribution, and its square what the outputs lose."""
    made = network(FlattenLinear())
    known = evidence(made)
    group = next(
        g for g in channel_groups.groups(made) if any(m.layer == "6" and m.role == "reader" for m in g.members)
    )
    reader = next(m for m in group.members if m.role == "reader")
    seen: list[Tensor] = []
    layer = known.backbone.get_submodule("6")
    layer.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    with torch.no_grad():
        outputs = known.backbone(known.images)
    lost = (seen[0].square().sum(0) * layer.weight.square().sum(0) / outputs.square().mean()).double()  # type: ignore
    expected = lost[torch.tensor(reader.indices)]
    drawn = [CRITERIA["answers"].score([group], dataclasses.replace(known, seed=seed)) for seed in range(30)]
    scores = torch.stack([each[group.root] for each in drawn]).mean(0) / N_DIRECTIONS
    assert torch.allclose(scores, expected.detach(), rtol=0.35)
    other = dataclasses.replace(known, labels=known.labels.flip(0), loss=lambda outputs, labels: outputs.sum() * 0)
    assert torch.equal(CRITERIA["answers"].score([group], other)[group.root], drawn[0][group.root])
