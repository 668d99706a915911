"""After a cut the readers answer nearer to what they did, in every kind of network, and nothing else moves."""

import copy

import pytest
import torch
from small_networks import (
    Attention,
    Concat,
    DataDependent,
    Depthwise,
    FlattenLinear,
    Plain,
    Residual,
    images,
    network,
)
from torch import nn

from nacdeploy.network.attachments.sparsity import Sparsity
from nacdeploy.network.network import Network
from nacdeploy.surgery.channels import channel_groups, channel_pruning, next_layer, reconstruction
from nacdeploy.surgery.channels.channel_pruning import Cut

FITTED = {
    Plain: {"3", "8"},
    Residual: {"conv1", "conv2", "classifier"},
    Concat: {"joined", "classifier"},
    Depthwise: {"project", "classifier"},
    FlattenLinear: {"4", "6"},
    DataDependent: {"conv2", "classifier"},
    Attention: set(),
}


def cut_by_a_third(made: Network) -> tuple[Network, Cut]:
    removed = {g.root: tuple(sorted(g.order[: g.n_channels // 3])) for g in channel_groups.groups(made)}
    cut = channel_pruning.plan_cut(made, removed)
    smaller = copy.deepcopy(made)
    channel_pruning.apply_cut(smaller, cut)
    return smaller, cut


def error(made: Network, whole: Network) -> float:
    """The distance of the logits, with the norms' statistics of the images."""
    answers = []
    for each in (copy.deepcopy(made), copy.deepcopy(whole)):
        with torch.no_grad():
            answers.append(each.train()(images(200)))
    return float((answers[0] - answers[1]).norm())


@pytest.mark.parametrize("backbone", FITTED, ids=lambda each: each.__name__)
def test_readers_are_fitted_and_the_network_answers_nearer(backbone: type[nn.Module]) -> None:
    whole = network(backbone())
    smaller, cut = cut_by_a_third(whole)
    fitted = copy.deepcopy(smaller)
    names = reconstruction.refit(fitted, whole, cut, images(200), images(50))
    assert {*names} >= FITTED[backbone]
    assert names
    assert error(fitted, whole) < 0.9 * error(smaller, whole)


def test_values_of_the_readers_alone_change_biases_included() -> None:
    whole = network(FlattenLinear())
    smaller, cut = cut_by_a_third(whole)
    fitted = copy.deepcopy(smaller)
    reconstruction.refit(fitted, whole, cut, images(200), images(50))
    now, before = fitted.state_dict(), smaller.state_dict()
    changed = {name for name in before if not torch.equal(now[name], before[name])}
    assert changed == {f"backbone.{layer}.{part}" for layer in ("4", "6") for part in ("weight", "bias")}
    assert {name: t.shape for name, t in now.items()} == {name: t.shape for name, t in before.items()}


def test_reconstruction_repeats_bit_by_bit_and_leaves_the_former_alone() -> None:
    whole = network(Residual())
    kept = copy.deepcopy(whole).state_dict()
    results = []
    for _ in range(2):
        smaller, cut = cut_by_a_third(whole)
        reconstruction.refit(smaller, whole, cut, images(100), images(30))
        results.append(smaller.state_dict())
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])
    assert all(torch.equal(kept[name], tensor) for name, tensor in whole.state_dict().items())


def test_masked_layers_keep_their_weights() -> None:
    whole = network(Residual())
    whole.sparsify(Sparsity("element", 0.5, exclude=("classifier",)))
    smaller, cut = cut_by_a_third(whole)
    assert reconstruction.refit(smaller, whole, cut, images(100), images(30)) == ("classifier",)


class _Twice(nn.Module):
    """One layer runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.classifier = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.again(torch.relu(self.again(torch.relu(self.first(x))))))
        return self.classifier(x.mean((2, 3)))


def test_layer_that_runs_twice_is_not_fitted() -> None:
    whole = network(_Twice())
    smaller, cut = cut_by_a_third(whole)
    assert "again" not in reconstruction.refit(smaller, whole, cut, images(100), images(30))


def test_a_layer_with_few_rows_is_fitted_for_images_that_it_has_not_seen() -> None:
    """A classifier has one row for each image: the weakest penalty would explain 24 images, and none else."""
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(400, 20, generator=generator), torch.randn(20, 5, generator=generator)
    residual = x @ weight + 4 * torch.randn(400, 5, generator=generator)
    few, unseen = slice(0, 24), slice(24, None)

    def left(ridge: float) -> float:
        change, shift = next_layer.least_squares(x[few], residual[few], ridge, True)
        assert shift is not None
        return float((residual[unseen] - x[unseen] @ change.to(x) - shift.to(x)).square().mean())

    order = torch.cat([x[few], x[unseen][:100]]), torch.cat([residual[few], residual[unseen][:100]])
    change, shift = reconstruction.fitted(*order, 24, True)
    assert shift is not None
    found = x[unseen][100:] @ change.to(x) + shift.to(x)
    assert float((residual[unseen][100:] - found).square().mean()) < 0.8 * left(reconstruction.RIDGES[0])
    weakest, _ = next_layer.least_squares(x[:300], residual[:300], reconstruction.RIDGES[0], True)
    assert torch.allclose(reconstruction.fitted(x, residual, 300, True)[0], weakest, atol=0.1)  # rows are many
