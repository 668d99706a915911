"""Ranks by rate, share and EVBMF. Single numbers are of golden/musco_ranks.json, made from MUSCO's formulas."""

import pytest
import torch

from nacdeploy.surgery.low_rank import ranks


@pytest.mark.parametrize(
    ("shape", "format", "given", "expected"),
    [
        ((8, 4, 1, 1), "svd", (10,), 120),
        ((8, 4, 3, 3), "cp4", (10,), 180),
        ((8, 4, 3, 3), "tucker2", (5, 2), 138),
        ((64, 64, 3, 3), "cp3", (179,), 24523),
    ],
)
def test_weights_of_factors_are_counted(
    shape: tuple[int, ...], format: str, given: tuple[int, ...], expected: int
) -> None:
    assert ranks.n_weights(shape, format, given) == expected


@pytest.mark.parametrize(
    ("shape", "format", "rate", "expected"),
    [
        ((64, 64, 3, 3), "tucker2", 3.0, (30, 30)),
        ((128, 64, 3, 3), "tucker2", 5.0, (36, 23)),
        ((32, 16, 5, 5), "tucker2", 5.0, (12, 8)),
        ((256, 256, 3, 3), "cp3", 5.0, (226,)),
        ((512, 256, 3, 3), "cp4", 1.5, (1016,)),
    ],
)
def test_rate_gives_ranks(shape: tuple[int, ...], format: str, rate: float, expected: tuple[int, ...]) -> None:
    assert ranks.for_rate(shape, format, rate, ranks.least(shape, format)) == expected


@pytest.mark.parametrize(
    ("shape", "rate", "min_rank", "limits", "expected"),
    [
        # MUSCO gives 136 and 8. 9 + r (64 + 3 x 49) = 9408 / 1.5: 29.68
        ((64, 3, 7, 7), 1.5, 8, (), (29, 3)),
        # MUSCO gives 22 and 22. 256 + r (64 + 16 x 9) = 9216 / 1.5: 28.31
        ((16, 64, 3, 3), 1.5, 8, (), (16, 28)),
        # 45 and 45 by the quadratic equation, one mode at 20 already. 1280 + r (64 + 20 x 9) = 24576: 95.5, all 64
        ((64, 64, 3, 3), 1.5, 8, (20, 64), (20, 64)),
        # the other way round: 1280 + r (64 + 20 x 9) = 36864 / 5: 24.97
        ((64, 64, 3, 3), 5.0, 8, (64, 20), (24, 20)),
        # 9 + r (64 + 27) = 1728 / 5: 3.7, below the least rank
        ((64, 3, 3, 3), 5.0, 8, (), (8, 3)),
        # the quadratic equation gives less than 1. 3 + r (64 + 9) = 1728 / 5: 4.69
        ((64, 3, 3, 3), 5.0, 1, (), (4, 1)),
    ],
)
def test_rank_at_its_mode_leaves_the_rate_to_the_other(
    shape: tuple[int, ...], rate: float, min_rank: int, limits: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    assert ranks.for_rate(shape, "tucker2", rate, min_rank, limits=limits) == expected


def test_rounded_rank_leaves_the_rate_to_the_other() -> None:
    """45 and 45 by the quadratic equation, 48 in units of 8. 3072 + r (64 + 48 x 9) = 36864 / 1.5: 43.4, or 40."""
    shape = (64, 64, 3, 3)
    found = ranks.for_rate(shape, "tucker2", 1.5, 8, multiple=8)
    assert found == (40, 48)
    off, before = (abs(ranks.n_weights(shape, "tucker2", each) - 36864 / 1.5) for each in (found, (48, 48)))
    assert off < before


@pytest.mark.parametrize(
    ("shape", "format", "now", "rate", "min_rank", "expected"),
    [
        ((20, 10, 5, 5), "cp4", (50,), 2, 2, (25,)),
        ((10, 10, 2, 2), "tucker2", (10, 10), 3, 2, (5, 5)),
        ((256, 256, 3, 3), "tucker2", (105, 105), 2, 8, (68, 68)),
        ((1000, 2048), "svd", (338,), 2, 8, (169,)),
    ],
)
def test_rate_of_a_second_pass_starts_from_the_factors(
    shape: tuple[int, ...],
    format: str,
    now: tuple[int, ...],
    rate: float,
    min_rank: int,
    expected: tuple[int, ...],
) -> None:
    n_now = ranks.n_weights(shape, format, now)
    assert ranks.for_rate(shape, format, rate, min_rank, n_now=n_now, limits=now) == expected


@pytest.mark.parametrize(
    ("rank", "vbmf", "factor", "min_rank", "expected"),
    [(16, 4, 0.8, 2, 6), (16, 4, 0.9, 2, 5), (16, 4, 0.8, 10, 10), (8, 0, 1.0, 2, 8), (4, 1, 1.0, 10, 4)],
)
def test_rank_is_weakened(rank: int, vbmf: int, factor: float, min_rank: int, expected: int) -> None:
    assert ranks.weakened(rank, vbmf, factor, min_rank) == expected


def test_evbmf_finds_both_ranks_of_a_kernel_under_noise() -> None:
    draw = torch.Generator().manual_seed(0)
    core, left, right = (torch.randn(*s, generator=draw).double() for s in ((6, 5, 3, 3), (32, 6), (16, 5)))
    weight = torch.einsum("rshw,or,is->oihw", core, left, right)
    weight += 0.1 * torch.randn(*weight.shape, generator=draw).double()
    assert ranks.estimated(weight, "tucker2", (32, 16), 1.0, 1) == (6, 5)
    assert ranks.estimated(weight, "tucker2", (32, 16), 0.5, 8) == (19, 10)


@pytest.mark.parametrize(
    ("rank", "limit", "multiple", "expected"),
    [(11, 64, 8, 8), (12, 64, 8, 16), (3, 64, 8, 8), (7, 8, 8, 7), (15, 16, 8, 8), (16, 16, 8, 16), (20, 12, 8, 12)],
)
def test_rank_is_rounded_below_its_limit(rank: int, limit: int, multiple: int, expected: int) -> None:
    assert ranks.rounded((rank,), (limit,), multiple) == (expected,)


def test_share_is_one_of_each_mode_and_at_least_one() -> None:
    assert ranks.for_share((64, 32, 3, 3), "tucker2", 0.5, (64, 32)) == (32, 16)
    assert ranks.for_share((64, 32, 3, 3), "cp3", 0.5, ranks.modes((64, 32, 3, 3), "cp3")) == (32,)
    assert ranks.for_share((64, 1, 3, 3), "tucker2", 0.1, (64, 1)) == (6, 1)
