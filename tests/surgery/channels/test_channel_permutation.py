"""Another order of the channels changes nothing that the network computes, and 2:4 keeps more magnitude in it."""

import copy

import pytest
import torch
from small_networks import (
    SHAPE,
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

from nacdeploy import models
from nacdeploy.exporters.targets import grid_named
from nacdeploy.network.attachments.early_exit import ExitHead
from nacdeploy.network.attachments.sparsity import Sparsity, kept_fraction, mask
from nacdeploy.network.network import Network
from nacdeploy.network.plain import plain_outputs
from nacdeploy.surgery.channels.channel_groups import couplings
from nacdeploy.surgery.channels.channel_permutation import plan_permutation
from nacdeploy.surgery.channels.channel_pruning import Cut, apply_cut

TWO_FOUR = Sparsity("2:4")


def reordered(made: Network, cut: Cut) -> Network:
    other = copy.deepcopy(made)
    apply_cut(other, cut)
    return other


def kept(made: Network) -> float:
    layers = [m for n, m in made.backbone.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    taken = [layer.weight for layer in layers if TWO_FOUR.why_dense("", layer) is None]
    return sum(kept_fraction(weight, mask(weight, TWO_FOUR)) for weight in taken) / len(taken)


@pytest.mark.parametrize(
    "kind", [Plain, Residual, Concat, Depthwise, Grouped, FlattenLinear, DataDependent, Signal, Volume]
)
def test_order_changes_no_answer(kind: type[nn.Module]) -> None:
    made = network(kind())
    other = reordered(made, plan_permutation(made, TWO_FOUR))
    assert torch.allclose(other(images()), made(images()), atol=1e-5)
    assert {n: t.shape for n, t in other.state_dict().items()} == {n: t.shape for n, t in made.state_dict().items()}


@pytest.mark.parametrize("kind", [Plain, Residual, Depthwise, DataDependent])
def test_order_keeps_more_magnitude(kind: type[nn.Module]) -> None:
    made = network(kind())
    cut = plan_permutation(made, TWO_FOUR)
    assert cut.slices
    assert all(sorted(item.kept) == list(range(len(item.kept))) for item in cut.slices)
    assert kept(reordered(made, cut)) > kept(made) + 0.001


def test_order_repeats() -> None:
    made = network(Residual())
    assert plan_permutation(made, TWO_FOUR) == plan_permutation(copy.deepcopy(made), TWO_FOUR)


@pytest.mark.parametrize("name", ["resnet8", "mobilenet_v2", "deit_tiny"])
def test_built_in_network_answers_the_same_in_another_order(name: str) -> None:
    width = {"resnet8": 16, "mobilenet_v2": 0.25, "deit_tiny": 48}[name]
    torch.manual_seed(0)
    backbone = models.ModelSpec(name, 5, 3, (32, 32), width).build().eval()
    made = Network(backbone, grid_named("ort"), (3, 32, 32)).eval()
    other = reordered(made, plan_permutation(made, TWO_FOUR))
    x = torch.randn(2, 3, 32, 32)
    assert torch.allclose(other(x), made(x), atol=1e-4)
    assert kept(other) > kept(made)


def test_exit_that_reads_every_cell_follows() -> None:
    made = network(Residual())
    made.exits["relu"] = ExitHead("stem", "stem_2", (1, 8, 8, 8), 5, 4).eval()
    nn.init.normal_(made.exits["relu"].linear.weight)  # type: ignore[union-attr, arg-type]
    cut = plan_permutation(made, TWO_FOUR)
    assert any(item.tensor.startswith("exits.") for item in cut.slices)
    pairs = zip(plain_outputs(made, images()), plain_outputs(reordered(made, cut), images()), strict=True)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in pairs)


def test_parts_of_grouped_convolutions_are_left_out() -> None:
    found = couplings(network(Grouped()))
    assert not any("grouped" in axis.tensor for coupling in found for axis in coupling.axes)


class OrderMatters(nn.Module):
    """The sum over neighbours depends on which channels stand side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(SHAPE[0], 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm, self.classifier = nn.GroupNorm(4, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.second(torch.relu(self.norm(self.first(x)))))
        return self.classifier(x.mean((2, 3)))


def test_group_whose_order_matters_is_left_alone_and_others_are_not() -> None:
    made = network(OrderMatters())
    cut = plan_permutation(made, TWO_FOUR)
    assert {item.tensor.split(".")[1] for item in cut.slices} == {"second", "classifier"}
    assert torch.allclose(reordered(made, cut)(images()), made(images()), atol=1e-5)
