"""EVBMF finds the rank under the noise (Nakajima et al., 2013)."""

import math

import pytest
import torch
from torch import Tensor

from nacdeploy.surgery.low_rank.evbmf import evbmf


def noisy(n_rows: int, n_columns: int, rank: int, deviation: float) -> Tensor:
    """A matrix of a rank with unit factors, under Gaussian noise."""
    draw = torch.Generator().manual_seed(0)
    a, b = (torch.randn(n, rank, generator=draw) for n in (n_rows, n_columns))
    return a @ b.T + deviation * torch.randn(n_rows, n_columns, generator=draw)


@pytest.mark.parametrize(
    ("shape", "rank", "deviation"), [((16, 64), 0, 1.0), ((64, 576), 10, 1.0), ((64, 27), 3, 0.1), ((64, 64), 12, 0.3)]
)
def test_rank_and_noise_are_found(shape: tuple[int, int], rank: int, deviation: float) -> None:
    found = evbmf(noisy(*shape, rank, deviation))
    assert found.rank == rank == len(found.singular_values)
    assert found.noise_variance == pytest.approx(deviation**2, rel=0.15)


def test_tall_matrix_has_the_rank_of_its_transpose() -> None:
    matrix = noisy(64, 27, 5, 0.1)
    assert evbmf(matrix) == evbmf(matrix.T)


def test_singular_values_are_shrunk() -> None:
    matrix = noisy(32, 64, 4, 0.5)
    largest = torch.linalg.svdvals(matrix)[:4].tolist()
    assert all(0 < a < b for a, b in zip(evbmf(matrix).singular_values, largest, strict=True))


@pytest.mark.parametrize(("matrix", "rank"), [(torch.zeros(8, 16), 0), (torch.ones(8, 16), 1)])
def test_matrix_without_noise_has_its_own_rank(matrix: Tensor, rank: int) -> None:
    assert evbmf(matrix).rank == rank


def test_known_noise_is_taken_as_given() -> None:
    matrix = noisy(32, 64, 4, 0.5)
    found = evbmf(matrix, noise_variance=1e6)
    assert (found.rank, found.noise_variance) == (0, 1e6)
    assert not math.isnan(found.noise_variance)
