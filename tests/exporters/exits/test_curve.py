"""The curve of exits: thresholds do not flatter themselves on the few images that chose them."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from nacdeploy.cascades.cascade import gated
from nacdeploy.cascades.confidence import RULES
from nacdeploy.exporters.exits import curve
from nacdeploy.exporters.exits.curve import Answers, curve_of, within_drop
from nacdeploy.metrics import named

WAYS = (1.0, 1.5, 2.0)
NEVER = (2.0, 2.0)


def answers(n: int, seed: int, skills: tuple[float, ...] = (0.6, 0.75, 0.9)) -> Answers:
    """Exits over ten classes that are right by their skill, and as sure of the wrong as of the right."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 10, n)
    return Answers(
        [_outputs(draw, labels, skill) for skill in skills], torch.from_numpy(labels), METRIC, RULES["softmax"]
    )


METRIC = named("accuracy")


def _outputs(draw: np.random.Generator, labels: NDArray[Any], skill: float) -> NDArray[Any]:
    n = len(labels)
    said = np.where(draw.random(n) < skill, labels, draw.integers(0, 10, n))
    return (np.eye(10)[said] * draw.uniform(1, 6, (n, 1))).astype(np.float32)


def lost(thresholds: tuple[float, ...], seed: int) -> float:
    """What thresholds lose on many other images, in points."""
    fresh = answers(4000, seed)
    answered = gated(fresh.outputs, thresholds, fresh.rule).outputs
    return 100 * (fresh.own_score - METRIC.score(torch.from_numpy(answered), fresh.labels))


def mean_lost() -> float:
    """What thresholds for one point lose elsewhere, in the mean over ten draws of 60 images."""
    found = [within_drop(curve_of(answers(60, seed), WAYS, "softmax"), 1.0) for seed in range(10)]
    return float(np.mean([lost(each.thresholds if each else NEVER, seed + 100) for seed, each in enumerate(found)]))


def test_few_images_do_not_flatter_their_thresholds(monkeypatch: pytest.MonkeyPatch) -> None:
    guarded = mean_lost()
    monkeypatch.setattr(curve, "N_FOLDS", 1000)  # too few images for so many parts: nothing is held out
    flattered = mean_lost()
    assert flattered > 2.5
    assert guarded < 0.5 * flattered


def test_many_images_judge_their_thresholds_as_others_do() -> None:
    settings = curve_of(answers(4000, 0), WAYS, "softmax").settings
    assert len(settings) > 10
    for each in settings:
        assert each.held_out == pytest.approx(each.drop, abs=2.0)


def test_no_exit_loses_nothing() -> None:
    for n in (5, 60):
        found = curve_of(answers(n, 1, (0.1, 0.1, 1.0)), WAYS, "softmax")
        assert found.settings[-1].expected_drop == 0
        assert within_drop(found, 0.0) is not None


def test_handful_of_images_is_not_divided() -> None:
    assert all(each.held_out is None for each in curve_of(answers(7, 0), WAYS, "softmax").settings)
