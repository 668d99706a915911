"""Cuts preserve the function of what is left, whole groups at a time, in whole units and in the order of importance."""

import copy
import json

import pytest
import torch
from small_networks import (
    SHAPE,
    BranchOnShape,
    Concat,
    DataDependent,
    Depthwise,
    FlattenLinear,
    Grouped,
    Heads,
    Plain,
    Residual,
    Signal,
    Volume,
    images,
    network,
)
from torch import nn

from nacdeploy import models
from nacdeploy.base import records
from nacdeploy.base.precision import Precision
from nacdeploy.exporters.targets import grid_named
from nacdeploy.network.attachments.early_exit import ExitHead
from nacdeploy.network.attachments.fake_quant import Rule
from nacdeploy.network.network import Network, Structure
from nacdeploy.surgery.channels import channel_choice, channel_graph, channel_groups, channel_pruning
from nacdeploy.surgery.channels.channel_choice import Group
from nacdeploy.surgery.channels.channel_pruning import Cut

BACKBONES = [Plain, Residual, Concat, Depthwise, Grouped, FlattenLinear, DataDependent, BranchOnShape]
BACKBONES += [Signal, Volume, Heads]
EXPECTED_GROUPS = {
    Plain: [8, 16],
    Residual: [8, 8],
    Concat: [4, 8, 8],
    Depthwise: [6, 8],
    FlattenLinear: [8, 12],
    DataDependent: [8, 8],
    BranchOnShape: [8, 8],
    Signal: [16, 24],
    Volume: [16, 16],
    Heads: [24, 24, 24, 24],
}


def least(network: Network, n_channels: int) -> dict[str, tuple[int, ...]]:
    """The least important channels of every group."""
    return {group.root: group.order[:n_channels] for group in channel_groups.groups(network)}


def cut_copy(network: Network, cut: Cut) -> Network:
    copied = copy.deepcopy(network)
    channel_pruning.apply_cut(copied, cut)
    return copied


def silenced(network: Network, cut: Cut) -> Network:
    """The whole network with zeros where the cut takes parameters away: its channels carry nothing any more."""
    copied = copy.deepcopy(network)
    parameters = dict(copied.named_parameters())
    with torch.no_grad():
        for item in cut.slices:
            if item.tensor in parameters:
                tensor = parameters[item.tensor]
                gone = sorted(set(range(tensor.shape[item.axis])) - set(item.kept))
                tensor.index_fill_(item.axis, torch.tensor(gone), 0.0)
    return copied


@pytest.mark.parametrize("backbone", EXPECTED_GROUPS, ids=lambda backbone: backbone.__name__)
def test_coupled_channels_are_counted_once(backbone: type[nn.Module]) -> None:
    found = channel_groups.groups(network(backbone()))
    assert sorted(group.n_channels for group in found) == EXPECTED_GROUPS[backbone]
    assert "classifier" not in {group.root for group in found}


def test_grouped_convolution_is_prunable() -> None:
    """A grouped convolution gives the same number of channels in each of its groups."""
    made = network(Grouped())
    found = channel_groups.groups(made)
    cut = channel_pruning.plan_cut(made, {group.root: group.order[:4] for group in found})
    assert cut_copy(made, cut).backbone.get_submodule("grouped").out_channels == 4  # type: ignore[comparison-overlap]


@pytest.mark.parametrize("backbone", BACKBONES, ids=lambda backbone: backbone.__name__)
def test_cut_network_answers_as_the_whole_one_with_silent_channels(backbone: type[nn.Module]) -> None:
    made = network(backbone())
    cut = channel_pruning.plan_cut(made, least(made, 2))
    smaller = cut_copy(made, cut)
    assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in made.parameters())
    torch.testing.assert_close(smaller(images()), silenced(made, cut)(images()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "width"),
    [("resnet20", 8), ("mobilenet_v2", 0.25), ("torchvision:squeezenet1_1", None), ("torchvision:resnet18", None)],
)
def test_cut_model_answers_as_the_whole_one_with_silent_channels(name: str, width: float | None) -> None:
    size = (32, 32)
    backbone = models.resolve(name, n_classes=5, channels=3, input_size=size, width=width).build()
    made = Network(backbone, grid_named("ort"), (3, *size)).eval()
    cut = channel_pruning.plan_cut(made, least(made, 2))
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(cut_copy(made, cut)(x), silenced(made, cut)(x), rtol=1e-3, atol=1e-4)


def test_transformer_is_cut_in_its_hidden_layers() -> None:
    backbone = models.resolve("deit_tiny", n_classes=5, channels=3, input_size=(8, 8), width=24).build()
    made = Network(backbone, grid_named("ort"), (3, 8, 8)).eval()
    found = channel_groups.groups(made)
    hidden = {group.root: group.order[:8] for group in found if group.root.endswith("mlp.0")}
    assert len(hidden) == 12
    cut = channel_pruning.plan_cut(made, hidden)
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(cut_copy(made, cut)(x), silenced(made, cut)(x), rtol=1e-3, atol=1e-4)


def test_transformer_is_cut_in_its_embedding() -> None:
    backbone = models.resolve("deit_tiny", n_classes=5, channels=3, input_size=(8, 8), width=24).build()
    made = Network(backbone, grid_named("ort"), (3, 8, 8)).eval()
    embedding = next(group for group in channel_groups.groups(made) if group.n_channels == 24)
    smaller = cut_copy(made, channel_pruning.plan_cut(made, {embedding.root: embedding.order[:8]}))
    assert smaller.backbone.get_parameter("stem.position").shape[-1] == 16
    assert smaller(torch.zeros(2, 3, 8, 8)).shape == (2, 5)


def test_importance_is_the_norm_of_the_group_over_its_maximum() -> None:
    """One convolution without a norm: NAC's GroupNorm is the filter's L2 norm with its readers' (DepGraph, eq. 3)."""
    made = network(DataDependent())
    group = next(group for group in channel_groups.groups(made) if group.root == "conv2")
    backbone = made.backbone
    filters = backbone.get_parameter("conv2.weight").flatten(1).square().sum(1)
    readers = backbone.get_parameter("classifier.weight").square().sum(0)
    expected = (filters + readers) / 2
    ranking = expected.argsort().tolist()
    assert list(group.order) == ranking
    assert list(group.importance) == sorted(group.importance)
    assert group.importance[-1] == pytest.approx(1.0)


@pytest.mark.parametrize("dead", ["filter", "gamma and beta"])
def test_dead_channels_go_first_and_count(dead: str) -> None:
    made = network(Plain())
    with torch.no_grad():
        if dead == "filter":
            made.backbone.get_parameter("0.weight")[5] = 0
        else:
            made.backbone.get_parameter("1.weight")[5] = 0
            made.backbone.get_parameter("1.bias")[5] = 0
    found = {group.root: group for group in channel_groups.groups(made)}
    assert found["0"].n_dead == 1
    assert found["0"].order[0] == 5
    removed = channel_choice.choose(list(found.values()), {}, 1, 1, "global")
    assert removed == {"0": (5,)}


def test_dead_channel_of_a_residual_needs_every_producer_dead() -> None:
    made = network(Residual())
    with torch.no_grad():
        made.backbone.get_parameter("conv2.weight")[3] = 0
    assert [group.n_dead for group in channel_groups.groups(made)] == [0, 0]


def group(root: str, importance: list[float], n_dead: int = 0) -> Group:
    return Group(root, tuple(range(len(importance))), tuple(importance), n_dead)


def test_global_scope_takes_the_least_important_units_anywhere() -> None:
    found = [group("a", [0.1, 0.2, 0.9, 1.0]), group("b", [0.3, 0.4, 0.5, 1.0])]
    assert channel_choice.choose(found, {}, 4, 1, "global") == {"a": (0, 1), "b": (0, 1)}
    assert channel_choice.choose(found, {}, 4, 2, "global") == {"a": (0, 1), "b": (0, 1)}


def test_uniform_scope_takes_the_same_fraction_everywhere() -> None:
    found = [group("a", [0.1] * 8), group("b", [0.9] * 16)]
    removed = channel_choice.choose(found, {"a": 8, "b": 16}, 12, 2, "uniform")
    assert {root: len(channels) for root, channels in removed.items()} == {"a": 4, "b": 8}


@pytest.mark.parametrize("multiple", [1, 2, 4, 8])
@pytest.mark.parametrize("scope", ["global", "uniform"])
def test_last_unit_of_a_layer_stays(multiple: int, scope: str) -> None:
    found = [group("a", [0.1] * 8), group("b", [0.2] * 16)]
    removed = channel_choice.choose(found, {"a": 8, "b": 16}, 1000, multiple, scope)
    left = {"a": 8 - len(removed.get("a", ())), "b": 16 - len(removed.get("b", ()))}
    assert left == {"a": multiple, "b": multiple}


def test_nothing_is_taken_when_less_than_a_unit_is_asked() -> None:
    assert channel_choice.choose([group("a", [0.1] * 16)], {}, 7, 8, "global") == {}


def test_unit_is_left_while_a_layer_has_two() -> None:
    assert channel_choice.has_unit_left([group("a", [0.1] * 16)], 8)
    assert not channel_choice.has_unit_left([group("a", [0.1] * 15)], 8)
    assert not channel_choice.has_unit_left([], 1)


def test_cut_after_quantization_keeps_the_quantizers() -> None:
    made = network(Residual())
    made.quantize(Rule(Precision(8, 8)))
    for quantizer in made.quantizers.values():
        quantizer.set_range(-8.0, 8.0)  # type: ignore[operator]
    smaller = cut_copy(made, channel_pruning.plan_cut(made, least(made, 2)))
    assert set(smaller.quantizers) == set(made.quantizers)
    assert smaller.plan == made.plan
    assert smaller.backbone.get_submodule("conv1").weight.shape == (6, 6, 3, 3)  # type: ignore[union-attr]
    assert smaller(images()).shape == (8, 5)


def test_groups_do_not_depend_on_quantizers_and_exits() -> None:
    plain, dressed = network(Residual()), network(Residual())
    dressed.quantize(Rule(Precision(4, 8)))
    dressed.exits["stem_2"] = ExitHead("stem", "stem_2", (1, 8, 8, 8), 5, 4)
    assert channel_groups.groups(dressed) == channel_groups.groups(plain)


@pytest.mark.parametrize("grid", [1, 4])
def test_exit_head_is_cut_along(grid: int) -> None:
    made = network(Residual())
    head = ExitHead("stem", "stem_2", (1, 8, 8, 8), 5, grid)
    with torch.no_grad():
        head.linear.weight.copy_(torch.randn(head.linear.weight.shape, generator=torch.Generator().manual_seed(3)))
    made.exits["stem_2"] = head
    cut = channel_pruning.plan_cut(made, least(made, 2))
    smaller, whole = cut_copy(made, cut), silenced(made, cut)
    assert smaller.exits["stem_2"].linear.in_features == 6 * grid * grid  # type: ignore[union-attr]
    for now, before in zip(smaller.forward_exits(images()), whole.forward_exits(images()), strict=True):
        torch.testing.assert_close(now, before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "backbone", [Residual, Concat, Depthwise, FlattenLinear, Signal, Volume, Heads], ids=lambda each: each.__name__
)
def test_cut_replays_through_json_on_a_fresh_network(backbone: type[nn.Module]) -> None:
    made = network(backbone())
    cut = channel_pruning.plan_cut(made, least(made, 2))
    smaller = cut_copy(made, cut)
    read = records.from_data(Cut, json.loads(json.dumps(records.to_data(cut))))
    fresh = Network(backbone(), grid_named("ort"), SHAPE).eval()
    channel_pruning.apply_cut(fresh, read)
    fresh.load_state_dict(smaller.state_dict())
    assert read == cut
    assert torch.equal(fresh(images()), smaller(images()))


def test_cut_network_trains() -> None:
    made = network(Residual())
    smaller = cut_copy(made, channel_pruning.plan_cut(made, least(made, 2))).train()
    smaller(images()).square().sum().backward()
    assert all(parameter.grad is not None and parameter.requires_grad for parameter in smaller.parameters())


def test_planning_changes_nothing() -> None:
    made = network(Concat())
    before = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    channel_pruning.plan_cut(made, least(made, 2))
    assert all(torch.equal(before[name], tensor) for name, tensor in made.state_dict().items())
    assert not made.training


def test_groups_are_those_of_the_network_as_it_is_now() -> None:
    made = network(Residual())
    channel_pruning.apply_cut(made, channel_pruning.plan_cut(made, least(made, 2)))
    assert [group.n_channels for group in channel_groups.groups(made)] == [6, 6]


def test_outlines_are_traced_once_for_all_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    made = network(Residual())
    found = channel_groups.groups(made)
    trained = copy.deepcopy(made)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)))
    with monkeypatch.context() as patch:
        patch.setattr(channel_graph, "dependencies", None)
        assert channel_groups.outlines(trained) == found
    assert channel_groups.groups(trained) != found
    assert [group.root for group in channel_groups.groups(trained)] == [group.root for group in found]


def test_outlines_after_a_cut_are_those_of_what_is_left() -> None:
    made = network(Residual())
    smaller = cut_copy(made, channel_pruning.plan_cut(made, least(made, 2)))
    assert [group.n_channels for group in channel_groups.outlines(made)] == [8, 8]
    assert [group.n_channels for group in channel_groups.outlines(smaller)] == [6, 6]


def test_what_may_be_cut_is_found_out_once_for_a_wiring(monkeypatch: pytest.MonkeyPatch) -> None:
    made = network(Residual())
    cut = channel_pruning.plan_cut(made, least(made, 2))
    smaller, alone = cut_copy(made, cut), cut_copy(network(Residual()), cut)
    alone.structure = Structure()
    expected = channel_groups.groups(alone)
    monkeypatch.setattr(channel_groups, "sound_ones", None)
    assert channel_groups.groups(smaller) == expected
