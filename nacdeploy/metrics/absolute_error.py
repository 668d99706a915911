"""Mean absolute error: regression, scored by the distance between answers and their numbers."""

import math
from dataclasses import dataclass

import torch
from scipy.stats import t as students_t
from torch import Tensor
from torch.nn import functional

from nacdeploy.base.errors import UsageError
from nacdeploy.metrics.base import Interval

# Two answers agree that are no further apart than this share of how the answers of all images spread.
TOLERANCE = 0.1
# A network that answers without looking has a quality below this.
NEAR_CHANCE = 0.05


@dataclass(frozen=True)
class Mae:
    """The mean distance between answers and their numbers, in the unit of the numbers. Labels are float32 `(N, K)`."""

    name: str = "mae"
    title: str = "mean absolute error"
    column: str = "MAE"
    unit: str = ""
    scale: float = 1.0
    drop_unit: str = "MAE"
    n_digits: str = ".4g"
    higher_is_better: bool = False
    bounds: tuple[float, float] = (0.0, math.inf)
    answer: tuple[str, str] = ("value", "values")
    agreement: str = "agreement within a tenth of the spread"
    no_exits: str = (
        "a number has no confidence by which an exit could answer early; metric 'mae' takes chains without E"
    )
    version: int = 1

    def labels(self, classes: Tensor, class_names: tuple[str, ...]) -> tuple[Tensor, tuple[str, ...]]:
        """Return the numbers that name the classes, `(N, 1)`: 2.5 for the class "2.5"."""
        numbers = torch.tensor([_number(name) for name in class_names])[classes]
        if len(numbers.unique()) < 2:
            raise UsageError("metric 'mae' needs images of two numbers at least; these are all of one")
        return numbers[:, None], ()

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the mean absolute error."""
        return functional.l1_loss(outputs, labels)

    def distilled(self, outputs: Tensor, answers: Tensor, temperature: float) -> Tensor:
        """Return the loss with the teacher's numbers in place of the labels: both parts have the unit of the
        numbers."""
        return self.loss(outputs, answers)

    def values(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return each image's error, the mean of its K."""
        return (outputs.double() - labels.double()).abs().mean(1)

    def score(self, outputs: Tensor, labels: Tensor) -> float:
        return float(self.values(outputs, labels).mean())

    def chance(self, labels: Tensor) -> float:
        """Return the error of always answering the median."""
        return self.score(labels.median(0).values.expand_as(labels), labels)

    def is_near_chance(self, score: float, chance: float, n_images: int) -> bool:
        return not score < (1 - NEAR_CHANCE) * chance

    def quality(self, score: float, chance: float) -> float:
        """Return the share of the error of chance that is gone: a skill score (Murphy, 1988)."""
        return 1 - score / chance

    def of_quality(self, quality: float, chance: float) -> float:
        return (1 - quality) * chance

    def point(self, chance: float) -> float:
        return chance / 100

    def drop_interval(self, before: Tensor, now: Tensor, n_total: int, confidence: float) -> Interval:
        """Estimate the drop from the mean difference of the errors of the same images."""
        return interval_of_mean(now - before, n_total, confidence)

    def agrees(self, reference: Tensor, outputs: Tensor, noise: float | None = None) -> Tensor:
        """Tell for each row whether no number differs by more than a tenth of the reference's spread over the images.

        With `noise`, a difference of up to three standard deviations of the noise agrees too.
        """
        spread = reference.std(0, correction=0) if len(reference) > 1 else reference.abs()[0]
        allowed = TOLERANCE * spread if noise is None else (TOLERANCE * spread).clamp(min=3 * noise)
        return ((reference - outputs).abs() <= allowed).all(1)

    def confidence(self, outputs: Tensor) -> Tensor:
        raise UsageError(self.no_exits)


def interval_of_mean(lost: Tensor, n_total: int, confidence: float) -> Interval:
    """Estimate the mean loss of `n_total` images from those of a random part, `(n,)`.

    The limits are Student's t with the finite population's factor, sqrt((N - n) / (N - 1)), which is 0 when all images
    were counted.
    """
    mean, n = float(lost.mean()), len(lost)
    left = math.sqrt((n_total - n) / max(n_total - 1, 1))
    if n < 2:
        return Interval(mean, -math.inf if left else mean, math.inf if left else mean)
    margin = left * float(students_t.ppf((1 + confidence) / 2, n - 1)) * float(lost.std()) / math.sqrt(n)
    return Interval(mean, mean - margin, mean + margin)


def _number(name: str) -> float:
    try:
        value = float(name)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UsageError(f"metric 'mae' takes classes called by numbers, such as 0, 2.5 or -1; '{name}' is none")
    return value
