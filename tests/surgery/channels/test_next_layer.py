"""Greedy and lasso selection by what the next layer loses, and least squares, against their definitions."""

import copy
from typing import Any

import pytest
import torch
from small_networks import images, network
from torch import Tensor, nn
from torch.nn import functional

from nacdeploy.exporters.targets import grid_named
from nacdeploy.metrics import ACCURACY
from nacdeploy.network.network import Network
from nacdeploy.surgery.channels import channel_groups, channel_importance, channel_pruning, next_layer, reconstruction
from nacdeploy.surgery.channels.channel_choice import Group

# Source of the numbers: golden/nncompression.json, greedy and reconstruction, whose tensors are drawn as in `drawn`.
GREEDY = (6, 3, 5, 0, 4, 7)
ERROR_WITHOUT, ERROR_FITTED = 0.5822799205780029, 0.44524200782462997


@pytest.fixture(scope="module")
def drawn() -> tuple[Network, Tensor]:
    """conv(3, 8) - ReLU - conv(8, 6), and four images of 8 x 8."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        body = (nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.Conv2d(8, 6, 3, padding=1, bias=False))
        x = torch.randn(4, 3, 8, 8)
    tail = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))
    return Network(nn.Sequential(body[0], nn.ReLU(), body[1], *tail), grid_named("ort"), (3, 8, 8)).eval(), x


def ranked(made: Network, name: str, x: Tensor, root: str = "0") -> Group:
    known = channel_importance.evidence(made, x, torch.zeros(len(x), dtype=torch.long), ACCURACY.loss, 0)
    found = channel_importance.ranked(channel_groups.groups(made), name, known)
    return next(group for group in found if group.root == root)


def next_outputs(made: Network, x: Tensor) -> Tensor:
    with torch.no_grad():
        return made.backbone[:3](x)  # type: ignore[index]


def test_greedy_goes_in_the_reference_order(drawn: tuple[Network, Tensor]) -> None:
    assert ranked(drawn[0], "greedy", drawn[1]).order[:6] == GREEDY


def test_greedy_adds_the_channel_whose_presence_yields_the_smallest_outputs(drawn: tuple[Network, Tensor]) -> None:
    made, x = drawn
    with torch.no_grad():
        y, weight = torch.relu(made.backbone[0](x)), made.backbone[2].weight  # type: ignore[index]
        gone: list[int] = []
        while len(gone) < 8:
            left = [c for c in range(8) if c not in gone]
            norms = [functional.conv2d(y[:, [*gone, c]], weight[:, [*gone, c]], padding=1).square().sum() for c in left]
            gone.append(left[int(torch.stack(norms).argmin())])
    assert list(ranked(made, "greedy", x).order) == gone


def test_least_squares_reaches_the_reference_error(drawn: tuple[Network, Tensor]) -> None:
    made, x = drawn
    cut = channel_pruning.plan_cut(made, {"0": tuple(sorted(GREEDY[:4]))})
    smaller, whole = copy.deepcopy(made), next_outputs(made, x)
    channel_pruning.apply_cut(smaller, cut)
    without = float((next_outputs(smaller, x) - whole).norm() / whole.norm())
    assert reconstruction.refit(smaller, made, cut, x, x[:8]) == ("2",)
    fitted = float((next_outputs(smaller, x) - whole).norm() / whole.norm())
    assert (without, fitted) == pytest.approx((ERROR_WITHOUT, ERROR_FITTED), rel=1e-5)


def test_lasso_removes_what_has_a_zero_coefficient_and_keeps_the_important() -> None:
    """Channels 0 to 3 make the outputs, 4 to 7 next to nothing: the latter go, with exactly the number asked."""
    made = network(nn.Sequential(*_two_convolutions(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)))
    with torch.no_grad():
        made.backbone.get_parameter("2.weight")[:, 4:] *= 0.01
    group = ranked(made, "lasso", images(40))
    assert set(group.order[:4]) == {4, 5, 6, 7}
    assert group.importance[-1] == 1.0
    assert max(group.importance[:4]) < 0.1 < min(group.importance[4:])


def test_lasso_keeps_one_of_two_copies() -> None:
    products = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    scores = next_layer.lasso_scores(products)
    assert sorted((scores[:2] > 0).tolist()) == [False, True]
    assert scores[2] > 0


@pytest.mark.parametrize("scores", [next_layer.greedy_scores, next_layer.lasso_scores])
def test_outputs_of_zero_give_an_order_all_the_same(scores: object) -> None:
    found = scores(torch.zeros(4, 4, dtype=torch.float64))  # type: ignore[operator]
    assert found.isfinite().all()
    assert found.argsort(stable=True).tolist() == [0, 1, 2, 3]


def _two_convolutions() -> tuple[nn.Module, ...]:
    return nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 6, 3, padding=1)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 5, 3, padding=1),
        nn.Conv2d(4, 5, 3, stride=2, padding=1, dilation=2),
        nn.Conv2d(4, 5, (3, 1), padding=(1, 0), padding_mode="reflect"),
        nn.Conv2d(4, 5, 3, padding="same"),
        nn.Conv2d(4, 5, 1),
        nn.Conv1d(4, 5, 3, stride=2, padding=2, dilation=2),
        nn.Conv1d(4, 5, 3, padding="same"),
        nn.Conv3d(4, 5, (3, 1, 2), stride=(1, 2, 1), padding=(1, 0, 1)),
        nn.Linear(4, 5),
    ],
    ids=str,
)
def test_rows_times_weights_are_the_outputs(layer: Any) -> None:
    sizes = (9, 4) if isinstance(layer, nn.Linear) else (4, *(7, 8, 6)[: len(layer.kernel_size)])
    x = torch.randn(11, *sizes)
    drawn = next_layer.positions(layer, x, 40)
    answers = functional.linear(next_layer.rows(layer, x, drawn), layer.weight.flatten(1), layer.bias)
    assert len(drawn) == 40
    torch.testing.assert_close(answers, next_layer.outputs(layer, layer(x), drawn))


@pytest.mark.parametrize("with_bias", [True, False])
def test_least_squares_equals_torch_where_it_is_determined(with_bias: bool) -> None:
    x, residual = torch.randn(60, 7, dtype=torch.float64), torch.randn(60, 3, dtype=torch.float64) + 2
    change, shift = next_layer.least_squares(x, residual, 0.0, with_bias)
    columns = torch.cat([x, torch.ones(60, 1)], 1) if with_bias else x
    expected = torch.linalg.lstsq(columns, residual).solution
    torch.testing.assert_close(change, expected[:7])
    assert (shift is None) != with_bias
    if shift is not None:
        torch.testing.assert_close(shift, expected[7])


def test_least_squares_with_few_rows_is_the_smallest_change() -> None:
    x, residual = torch.randn(5, 9, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)
    change, _ = next_layer.least_squares(x, residual, 1e-12, False)
    torch.testing.assert_close(change, torch.linalg.pinv(x) @ residual)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, padding=1),
        nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding="valid", dilation=(1, 2)),
        nn.Conv2d(4, 6, 3, padding="same", padding_mode="reflect"),
        nn.Conv2d(4, 6, 3, stride=2, padding=(0, 1), groups=2),
    ],
)
def test_rows_times_weights_are_the_outputs_at_drawn_positions(layer: nn.Conv2d) -> None:
    x = torch.randn(3, 4, 9, 8, generator=torch.Generator().manual_seed(0))
    drawn = next_layer.positions(layer, x, 20)
    with torch.no_grad():
        wanted = next_layer.outputs(layer, layer(x), drawn)
        seen = next_layer.rows(layer, x, drawn).unflatten(1, (layer.groups, -1))
        weight = layer.weight.flatten(1).unflatten(0, (layer.groups, -1))
        found = torch.einsum("pgf,gof->pgo", seen, weight).flatten(1) + layer.bias
    assert torch.allclose(found, wanted, atol=1e-5)
