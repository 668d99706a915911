"""Factors answer as the layer they stand for at full rank, are the best at smaller ones, and are equal to one layer."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nacdeploy.base.errors import NacdeployError
from nacdeploy.surgery.low_rank import low_rank
from nacdeploy.surgery.low_rank.low_rank import decompose, product, whole

FULL = {"tucker2": (8, 6), "cp3": (48,), "cp4": (54,)}
GEOMETRIES: tuple[dict[str, Any], ...] = (
    {"stride": 2, "padding": (1, 2), "dilation": (1, 2)},
    {"padding": "same", "padding_mode": "reflect"},
    {"padding": 1, "padding_mode": "circular", "bias": False},
)


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def conv(*sizes: Any, **options: Any) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(*sizes, **options).double().eval()


def error(layer: nn.Module, factors: nn.Sequential) -> float:
    weight: Any = layer.weight
    return float((product(factors) - weight.detach()).norm() / weight.detach().norm())


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("format", FULL)
def test_factors_of_full_rank_answer_as_the_layer(format: str, geometry: dict[str, Any]) -> None:
    layer, x = conv(6, 8, 3, **geometry), drawn(2, 6, 11, 12)
    factors = decompose(layer, format, FULL[format])
    assert torch.allclose(factors(x), layer(x), atol=1e-8)
    assert torch.allclose(whole(factors)(x), factors(x), atol=1e-10)
    assert {type(factor) for factor in factors} == {nn.Conv2d}
    assert (low_rank.format_of(factors), low_rank.ranks_of(factors)) == (format, FULL[format])


@pytest.mark.parametrize("layer", [conv(6, 8, 1, stride=2, padding=1), nn.Linear(6, 8).double()], ids=str)
def test_svd_of_full_rank_answers_as_the_layer(layer: nn.Module) -> None:
    x = drawn(2, 6, 7, 7) if isinstance(layer, nn.Conv2d) else drawn(2, 5, 6)
    factors = decompose(layer, "svd", (6,))
    assert torch.allclose(factors(x), layer(x))
    assert torch.allclose(whole(factors)(x), layer(x))


def test_stride_of_a_pointwise_convolution_is_taken_first() -> None:
    factors = decompose(conv(6, 8, 1, stride=2), "svd", (3,))
    assert [factor.stride for factor in factors] == [(2, 2), (1, 1)]


def test_svd_is_the_best_of_its_rank() -> None:
    layer = nn.Linear(27, 64).double()
    values = torch.linalg.svdvals(layer.weight.detach())
    best = float(values[8:].norm() / values.norm())
    assert error(layer, decompose(layer, "svd", (8,))) == pytest.approx(best, rel=1e-9)


def test_tucker2_is_better_than_its_start() -> None:
    """The start is the HOSVD: both bases by themselves (De Lathauwer et al., 2000)."""
    layer = conv(32, 64, 3)
    weight = layer.weight.detach()
    left, right = (torch.linalg.svd(w.flatten(1)).U for w in (weight, weight.transpose(0, 1)))
    kept = torch.einsum("oihw,or,is->rshw", weight, left[:, :32], right[:, :16]).square().sum()
    start = float((1 - kept / weight.square().sum()).sqrt())
    assert error(layer, decompose(layer, "tucker2", (32, 16))) < start


def test_exactly_low_rank_kernel_is_found() -> None:
    layer = conv(16, 24, 3)
    kernel = torch.einsum("or,rshw,is->oihw", drawn(24, 4), drawn(4, 3, 3, 3), drawn(16, 3))
    layer.weight.data.copy_(kernel)
    assert error(layer, decompose(layer, "tucker2", (4, 3))) < 1e-10


@pytest.mark.parametrize(("format", "ranks"), [("tucker2", (4, 3)), ("cp3", (5,)), ("cp4", (5,))])
def test_decomposition_is_the_same_every_time(format: str, ranks: tuple[int, ...]) -> None:
    first = decompose(conv(6, 8, 3), format, ranks)
    second = decompose(conv(6, 8, 3), format, ranks)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_decomposition_draws_nothing() -> None:
    layer = conv(6, 8, 3)
    before = torch.get_rng_state()
    decompose(layer, "tucker2", (4, 3))
    assert torch.equal(torch.get_rng_state(), before)


def test_factors_decomposed_again_are_those_of_their_product() -> None:
    factors = decompose(conv(16, 24, 3), "tucker2", (12, 8))
    again = decompose(whole(factors), "tucker2", (6, 4))
    direct = conv(16, 24, 3)
    direct.weight.data.copy_(product(factors))
    assert error(direct, again) == pytest.approx(error(direct, decompose(direct, "tucker2", (6, 4))), rel=1e-9)


def test_structure_only_gives_shapes_and_no_values() -> None:
    layer = conv(6, 8, 3)
    with low_rank.structure_only():
        empty = decompose(layer, "tucker2", (4, 3))
    assert str(empty) == str(decompose(layer, "tucker2", (4, 3)))
    assert all(not bool(parameter.any()) for parameter in empty.parameters())


@pytest.mark.parametrize(
    ("layer", "format", "ranks", "message"),
    [
        (conv(8, 8, 3, groups=8), "tucker2", (4, 4), "depthwise or grouped"),
        (conv(8, 8, 3), "svd", (4,), "linear layers and 1x1"),
        (conv(8, 8, 1), "cp3", (4,), "k x k"),
        (conv(6, 8, 3), "tucker2", (9, 3), r"ranks \[9, 3\] do not fit.*\[8, 6\]"),
        (conv(6, 8, 3), "tucker2", (4,), "do not fit"),
        (nn.ReLU(), "svd", (4,), "ReLU"),
    ],
)
def test_what_does_not_fit_is_refused(layer: nn.Module, format: str, ranks: tuple[int, ...], message: str) -> None:
    with pytest.raises(NacdeployError, match=message):
        decompose(layer, format, ranks)
