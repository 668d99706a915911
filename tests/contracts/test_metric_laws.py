"""The laws of metrics over every one, and that a wrong metric breaks them."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from nacdeploy.metrics import ACCURACY, METRICS, Metric
from nacdeploy.metrics.absolute_error import Mae
from nacdeploy.testing import metrics as laws
from nacdeploy.testing.operators import BrokenLawError

NAMES = tuple(map(str, range(10)))


def answers(metric: Metric) -> tuple[Tensor, Tensor]:
    """Outputs of a network that knows something, and the labels, of 400 images of ten kinds."""
    generator = torch.Generator().manual_seed(0)
    classes = torch.randint(10, (400,), generator=generator)
    labels, class_names = metric.labels(classes, NAMES)
    exact = torch.eye(10)[classes] if class_names else labels
    return exact + 0.6 * torch.randn(exact.shape, generator=generator), labels


@pytest.mark.parametrize("law", laws.LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_metric_keeps_every_law(metric: Metric, law: Callable[[Metric, Tensor, Tensor], None]) -> None:
    law(metric, *answers(metric))


@dataclass(frozen=True)
class Doubled(Mae):
    """A metric whose points are twice as large as it says."""

    def point(self, chance: float) -> float:
        return chance / 50


@dataclass(frozen=True)
class Overconfident(Mae):
    """A metric whose intervals are of a confidence of one half."""

    def drop_interval(self, before: Tensor, now: Tensor, n_total: int, confidence: float) -> object:  # type: ignore[override]
        return super().drop_interval(before, now, n_total, 0.5)


@pytest.mark.parametrize(
    ("wrong", "law"),
    [
        (replace(ACCURACY, higher_is_better=False), laws.check_score_is_better_than_chance_and_within_bounds),
        (replace(Mae(), higher_is_better=True), laws.check_training_on_the_loss_improves_the_score),
        (replace(Mae(), bounds=(0.0, 0.1)), laws.check_score_is_better_than_chance_and_within_bounds),
        (Doubled(), laws.check_three_scales_agree),
        (Overconfident(), laws.check_interval_holds_the_whole),
    ],
)
def test_wrong_metric_breaks_a_law(wrong: Metric, law: Callable[[Metric, Tensor, Tensor], None]) -> None:
    with pytest.raises(BrokenLawError, match=wrong.name):
        law(wrong, *answers(wrong))
