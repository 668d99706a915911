"""Thresholds of all exits together: the front of value against expected time."""

import itertools

import numpy as np
import pytest

from nacdeploy.cascades.cascade import NEVER, gated
from nacdeploy.cascades.thresholds import Sampled, front, point


def sampled(n_exits: int, n: int = 400) -> Sampled:
    """Exits that are the surer and the more often right, the easier a sample is; later ones are right more often."""
    draw = np.random.default_rng(n_exits)
    ease = draw.random(n)
    confidences = np.stack([np.clip(ease + draw.normal(0, 0.15, n), 0, 1) for _ in range(n_exits)])
    skills = np.linspace(0.4, 0.95, n_exits + 1)
    values = np.stack([(draw.random(n) < skill + (1 - skill) * ease).astype(float) for skill in skills])
    return Sampled(confidences, values, tuple(np.linspace(1, 2, n_exits + 1)))


@pytest.mark.parametrize("n_exits", [1, 2, 4])
def test_no_point_of_the_front_is_beaten_by_another(n_exits: int) -> None:
    found = front(sampled(n_exits))
    assert len(found) > 5
    for one, other in itertools.pairwise(found):
        assert one.expected_ms < other.expected_ms and one.value < other.value


@pytest.mark.parametrize("n_exits", [1, 2, 4])
def test_no_equal_thresholds_beat_the_front(n_exits: int) -> None:
    given = sampled(n_exits)
    found = front(given)
    for threshold in np.linspace(0, 1, 21):
        alike = point(given, [threshold] * n_exits)
        best = max(each.value for each in found if each.expected_ms <= alike.expected_ms + 0.02)
        assert best >= alike.value - 0.01


def test_thresholds_of_their_own_beat_one_for_all() -> None:
    """Of two exits one is sure of nonsense: only the other one may answer."""
    draw = np.random.default_rng(0)
    confidences = np.stack([draw.random(500), draw.random(500)])
    values = np.stack([np.zeros(500), np.ones(500), np.ones(500)])
    best = front(Sampled(confidences, values, (1.0, 2.0, 5.0)))[-1]
    assert best.thresholds == (NEVER, 0.0) and best.value == 1 and best.expected_ms == 2


def test_point_says_what_the_gate_does() -> None:
    given = sampled(2)
    found = point(given, (0.7, 0.5))
    outputs = [row[:, None] for row in (*given.confidences, given.values[-1])]
    taken = gated(outputs, (0.7, 0.5), lambda x: x[:, 0]).exits
    assert found.fractions == pytest.approx(np.bincount(taken, minlength=3) / 400)
    assert found.expected_ms == pytest.approx(np.mean([given.ways_ms[at] for at in taken]))
    assert found.value == pytest.approx(np.mean([given.values[at, i] for i, at in enumerate(taken)]))


def test_draw_keeps_samples_whole() -> None:
    given = sampled(2)
    few = given.drawn(50)
    rows = {tuple(row) for row in np.concatenate([given.confidences, given.values]).T}
    assert few.confidences.shape == (2, 50)
    assert {tuple(row) for row in np.concatenate([few.confidences, few.values]).T} <= rows
    assert given.drawn(400) is given


@pytest.mark.parametrize("n", [1, 2])
def test_one_sample_or_two_have_a_front(n: int) -> None:
    found = front(Sampled(np.full((1, n), 0.5), np.array([[0.0] * n, [1.0] * n]), (1.0, 2.0)))
    assert [each.value for each in found] == [0.0, 1.0]
