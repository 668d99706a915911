"""Foreign networks: weights in which every branch matters, and checks that see what is wrong."""

import copy

import pytest
import torch
from small_networks import Depthwise, Residual, conv
from torch import Tensor, nn

from nacdeploy.network.cost import layer_costs
from nacdeploy.testing import foreign, right, zeroed
from nacdeploy.testing.foreign import Foreign, of_module, outputs

SIDE = 16


class Scaled(nn.Module):
    """Two branches that torch would begin as nothing: a last norm of zeros, and layer scale."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.branch, self.last = conv(3, 8), nn.BatchNorm2d(8), conv(8, 8), nn.BatchNorm2d(8)
        self.gamma, self.classifier = nn.Parameter(torch.full((8, 1, 1), 1e-6)), nn.Linear(8, 10)
        nn.init.zeros_(self.last.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = x + self.gamma * torch.relu(self.last(self.branch(x)))
        return self.classifier(x.mean((2, 3)))


class OverChannels(nn.Module):
    """A layer norm over channels that P may cut, and an activation that is not zero at zero before the reader."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.hidden, self.last = conv(3, 8), nn.LayerNorm(8), nn.Linear(8, 12), nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x).mean((2, 3)))
        return self.last(torch.sigmoid(self.hidden(x)))


@pytest.fixture(scope="module")
def residual() -> Foreign:
    return of_module(_ten(Residual()), SIDE)


def _ten(module: Residual | Depthwise) -> nn.Module:
    module.classifier = nn.Linear(module.classifier.in_features, 10)
    return module


def test_branches_that_begin_as_nothing_matter() -> None:
    made = of_module(Scaled(), SIDE)
    without = copy.deepcopy(made.original)
    nn.init.zeros_(without.gamma)  # type: ignore[arg-type]
    assert right.decibels(made.answers(), outputs(without, made.images())) < 40


def test_statistics_are_those_of_the_images_but_for_a_little(residual: Foreign) -> None:
    norm = residual.original.get_submodule("stem.1")
    seen: list[Tensor] = []
    with_hook = norm.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    outputs(residual.original, residual.calibration)
    with_hook.remove()
    ratio = norm.running_var / seen[0].var((0, 2, 3))  # type: ignore[operator]
    assert 0.7 < float(ratio.min()) < 0.99
    assert float(ratio.max()) < 1.3


def test_the_same_seed_draws_the_same_network() -> None:
    first, second = (foreign.foreign("torchvision:squeezenet1_1", 32, seed=3) for _ in range(2))
    assert torch.equal(first.answers(), second.answers())


def test_zeroed_channels_are_out_of_the_answer_and_come_back(residual: Foreign) -> None:
    before = residual.answers()
    kept = {"conv1.weight": {0: (0, 1, 2)}, "bn1.weight": {0: (0, 1, 2)}, "conv2.weight": {1: (0, 1, 2)}}
    with zeroed.zeroed(residual.original, kept):
        within = residual.answers()
    by_hand = copy.deepcopy(residual.original)
    with torch.no_grad():
        by_hand.conv2.weight[:, 3:] = 0.0  # type: ignore[index]
    assert right.decibels(outputs(by_hand, residual.images()), within) > 100
    assert right.decibels(before, within) < 40
    assert torch.equal(residual.answers(), before)


def test_norm_over_kept_channels_answers_as_a_smaller_norm() -> None:
    norm, x = nn.LayerNorm(6), torch.randn(4, 6)
    with zeroed.zeroed(norm, {"weight": {0: (0, 2, 5)}, "bias": {0: (0, 2, 5)}}):
        answer = norm(x)
    smaller = nn.functional.layer_norm(x[:, [0, 2, 5]], (3,))
    assert torch.allclose(answer[:, [0, 2, 5]], smaller, atol=1e-6)
    assert int(answer[:, [1, 3, 4]].count_nonzero()) == 0


def test_zeroed_answers_as_without_the_channel_behind_an_activation_that_is_not_zero_at_zero() -> None:
    made = of_module(OverChannels(), SIDE)
    kept = {"hidden.weight": {0: (*range(6),)}, "hidden.bias": {0: (*range(6),)}, "last.weight": {1: (*range(6),)}}
    smaller = copy.deepcopy(made.original)
    smaller.hidden.weight.data = smaller.hidden.weight.data[:6]  # type: ignore[union-attr]
    smaller.hidden.bias.data = smaller.hidden.bias.data[:6]  # type: ignore[union-attr]
    smaller.last.weight.data = smaller.last.weight.data[:, :6]  # type: ignore[union-attr]
    with zeroed.zeroed(made.original, kept):
        assert right.decibels(outputs(smaller, made.images()), made.answers()) > 100


@pytest.mark.parametrize("check", [right.check_captured, right.check_prune, right.check_exits, right.check_decompose])
def test_plain_networks_are_right(check: object) -> None:
    found = check(of_module(_ten(Depthwise()), SIDE))  # type: ignore[operator]
    assert (found.outcome, found.reason) == ("right", "")


def test_check_of_capture_sees_a_network_that_answers_otherwise(residual: Foreign) -> None:
    changed = Foreign(copy.deepcopy(residual.original), residual.task, residual.profile)
    assert changed.start.network.graph is not None  # captured, and only then the original changes
    with torch.no_grad():
        changed.original.classifier.bias.add_(0.01)  # type: ignore[union-attr]
    assert right.check_captured(changed).outcome == "wrong"


def test_quantized_answers_are_right_down_to_a_reference_that_is_low_itself() -> None:
    judged = {
        (db, other): right._quantized_found({"db": db}, nn.Identity(), lambda plain, o=other: o).outcome
        for db, other in ((21.0, 30.0), (15.0, 15.9), (15.0, 16.1), (19.5, 20.1))
    }
    assert [*judged.values()] == ["right", "right", "wrong", "wrong"]


class PositionBias(nn.Module):
    """Attention with a bias that layers make of a table of places: they read no images (BEiT v2, Swin v2)."""

    def __init__(self):
        super().__init__()
        self.stem, self.qkv, self.head = nn.Conv2d(3, 16, 4, 4), nn.Linear(16, 48), nn.Linear(16, 10)
        self.bias = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))
        places = torch.stack(torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij"), -1)
        self.register_buffer("places", places / 16)

    def forward(self, x):
        x = self.stem(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(x)[:, None].chunk(3, -1)
        x = nn.functional.scaled_dot_product_attention(q, k, v, self.bias(self.places)[..., 0])
        return self.head(x.transpose(1, 2).reshape(len(x), 16, 16).mean(1))


def test_layers_that_read_no_images_are_constants_of_the_artifact_and_not_claimed():
    made = of_module(PositionBias().eval(), 16)
    found = right.check_quantize(made)
    assert (found.outcome, found.figures["claimed"], found.figures["in_file"]) == ("right", 3, 3)
    assert set(made.quantized.steps[-1].decision.left_out) == {"bias.0", "bias.2"}
    assert {row.layer for row in layer_costs(made.quantized.network, made.images(1))} >= {"stem", "qkv", "head"}
    assert "bias.0" not in {row.layer for row in layer_costs(made.quantized.network, made.images(1))}
