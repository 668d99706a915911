"""Metrics by name: those of other packages through their entry points."""

from pathlib import Path

import pytest
import torch

from nacdeploy import metrics
from nacdeploy.base.errors import UsageError
from nacdeploy.testing.metrics import LAWS

RMSE = '''
"""The root of the mean squared error: a score that is no mean of the values of images."""

from dataclasses import dataclass

from nacdeploy.metrics import Interval
from nacdeploy.metrics.absolute_error import Mae

_OF_NUMBERS = Mae()


@dataclass(frozen=True)
class Rmse:
    name: str = "rmse"
    title: str = "root mean squared error"
    column: str = "RMSE"
    unit: str = ""
    scale: float = 1.0
    drop_unit: str = "RMSE"
    n_digits: str = ".4g"
    higher_is_better: bool = False
    bounds: tuple[float, float] = (0.0, float("inf"))
    answer: tuple[str, str] = ("value", "values")
    agreement: str = _OF_NUMBERS.agreement
    no_exits: str = "a number has no confidence"
    version: int = 1

    labels, agrees = _OF_NUMBERS.labels, _OF_NUMBERS.agrees
    quality, of_quality, point = _OF_NUMBERS.quality, _OF_NUMBERS.of_quality, _OF_NUMBERS.point
    is_near_chance, confidence = _OF_NUMBERS.is_near_chance, _OF_NUMBERS.confidence

    def loss(self, outputs, labels):
        return (outputs - labels).square().mean()

    def values(self, outputs, labels):
        return (outputs.double() - labels.double()).square().mean(1)

    def score(self, outputs, labels):
        return float(self.values(outputs, labels).mean() ** 0.5)

    def chance(self, labels):
        return self.score(labels.mean(0).expand_as(labels), labels)

    def drop_interval(self, before, now, n_total, confidence):
        """Of squared errors, by the slope of the root where it is steepest."""
        found, was = _OF_NUMBERS.drop_interval(before, now, n_total, confidence), float(before.mean())
        low, value, high = (max(was + x, 0.0) ** 0.5 - was**0.5 for x in (found.low, found.value, found.high))
        return Interval(value, low, high)


METRIC = Rmse()
'''


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package beside this one, with one metric that works, one that does not load and one of a taken name."""
    (tmp_path / "toy_metrics.py").write_text(RMSE)
    info = tmp_path / "toy_metrics-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-metrics\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[nacdeploy.metrics]\nrmse = toy_metrics:METRIC\nlost = toy_metrics:LOST\n"
        "other = toy_metrics:METRIC\naccuracy = toy_metrics:METRIC\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(metrics, "_KNOWN", dict(metrics._KNOWN))


def test_unknown_metric_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"unknown metric 'accuray'.*accuracy"):
        metrics.named("accuray")


def test_metric_of_another_package_keeps_the_laws(installed: None) -> None:
    metric, generator = metrics.named("rmse"), torch.Generator().manual_seed(0)
    labels, _ = metric.labels(torch.randint(10, (400,), generator=generator), tuple(map(str, range(10))))
    for law in LAWS:
        law(metric, labels + 0.6 * torch.randn(labels.shape, generator=generator), labels)


def test_own_metric_wins_over_another_of_its_name_and_that_is_said(installed: None) -> None:
    assert metrics.named("accuracy") is metrics.ACCURACY
    assert "metric 'accuracy' of package toy-metrics is left out: the name is taken" in metrics.problems()
    assert len(metrics.problems()) == 3, "the two that do not load are named, rmse works"


@pytest.mark.parametrize(("name", "why"), [("lost", "LOST"), ("other", "is no metric of this name")])
def test_metric_that_does_not_load_is_named_with_its_package(installed: None, name: str, why: str) -> None:
    with pytest.raises(UsageError, match=f"metric '{name}' of package toy-metrics is left out: .*{why}"):
        metrics.named(name)
    assert metrics.named("rmse").name == "rmse", "the rest works"


@pytest.mark.parametrize(("name", "score", "chance", "is_near"), [
    ("error:lower:", 0.5, 0.4, True),
    ("error:lower:", 0.3, 0.4, False),
    ("error:lower:", 0.3, 0.0, False),  # no chance is known: an answer of zeros has no score
    ("hits:higher:", 0.1, 0.1, True),
    ("hits:higher:", 0.2, 0.1, False),
])  # fmt: skip
def test_score_of_ones_own_is_near_chance_where_that_is_known(
    name: str, score: float, chance: float, is_near: bool
) -> None:
    assert metrics.named(name).is_near_chance(score, chance, 100) == is_near
