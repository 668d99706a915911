"""Shared values: k-means from every start, evenly spaced levels."""

from typing import get_args

import numpy as np
import pytest

from nacdeploy.network.attachments import clusters
from nacdeploy.strategies.operators.code.settings import Init


def error(values: np.ndarray, centroids: np.ndarray) -> float:
    return float(np.square(values - centroids[clusters.nearest(values, centroids)]).mean())


@pytest.mark.parametrize("init", get_args(Init))
def test_centroids_are_the_means_of_their_members(init: str) -> None:
    values = np.random.default_rng(0).normal(size=5000)
    centroids = clusters.kmeans(values, 16, init)
    labels = clusters.nearest(values, centroids)
    assert np.allclose(centroids, [values[labels == i].mean() for i in range(16)], atol=1e-6)
    assert error(values, centroids) < 0.6 * error(values, np.linspace(values.min(), values.max(), 16))
    assert np.array_equal(centroids, clusters.kmeans(values, 16, init))


@pytest.mark.parametrize("init", get_args(Init))
def test_separate_groups_are_found(init: str) -> None:
    middles = np.array([-5.0, -1.0, 0.5, 7.0])
    values = np.concatenate([m + 0.01 * np.random.default_rng(1).normal(size=50) for m in middles])
    assert np.allclose(clusters.kmeans(values, 4, init), middles, atol=0.02)


@pytest.mark.parametrize("init", get_args(Init))
@pytest.mark.parametrize("values", [[], [2.0], [1.0, 1.0, 1.0], [1.0, 2.0]])
def test_fewer_values_than_centroids_are_all_kept(values: list[float], init: str) -> None:
    centroids = clusters.kmeans(np.array(values), 4, init)
    assert len(centroids) == 4
    assert np.isfinite(centroids).all()
    assert not values or error(np.array(values), centroids) == 0


def test_many_values_are_gathered_without_loss_that_matters() -> None:
    values = np.random.default_rng(2).normal(size=300_000)
    few = values[:100_000]
    assert error(few, clusters.kmeans(values, 16, "density")) < 1.03 * error(few, clusters.kmeans(few, 16, "density"))


def test_levels_leave_out_stray_extremes() -> None:
    values = np.concatenate([np.linspace(-1, 1, 9998), [50.0, -70.0]])
    found = clusters.levels(values, 16)
    assert np.allclose(np.diff(found), found[1] - found[0])
    assert -1 < found[0] < -0.99
    assert 0.99 < found[-1] < 1
