"""Accuracy: classification, scored by how often the largest output belongs to the label's class."""

import math
from dataclasses import dataclass

import torch
from scipy.special import betaincinv
from torch import Tensor
from torch.nn import functional

from nacdeploy.metrics.base import Interval
from nacdeploy.metrics.reading import Reading


@dataclass(frozen=True)
class Accuracy:
    """The fraction of images whose class, one of K, is named correctly. Labels are int64 `(N,)`."""

    name: str = "accuracy"
    title: str = "accuracy"
    column: str = "acc."
    unit: str = "%"
    scale: float = 100.0
    drop_unit: str = "points"
    n_digits: str = ".2f"
    higher_is_better: bool = True
    bounds: tuple[float, float] = (0.0, 1.0)
    answer: tuple[str, str] = ("class", "classes")
    agreement: str = "top-1 agreement"
    no_exits: str = ""
    gate: str = "softmax"
    version: int = 1
    asks_baseline: bool = False

    @property
    def reading(self) -> Reading:
        """The class of the largest output, as sure as the softmax maximum."""
        return Reading(
            "best = int(answer.argmax())\nprint(names[best] if names else best)",
            "odds = np.exp(values - values.max())\nreturn odds.max() / odds.sum()",
        )

    def labels(self, classes: Tensor, class_names: tuple[str, ...]) -> tuple[Tensor, tuple[str, ...]]:
        return classes, class_names

    def answers(self, outputs: Tensor) -> Tensor:
        """Return the class that each row of outputs names, as labels."""
        return outputs.argmax(1)

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross entropy."""
        return functional.cross_entropy(outputs, labels)

    def softened(self, labels: Tensor, n_outputs: int, smoothing: float) -> Tensor:
        """Return labels as shares of classes (N, K), of which `smoothing` is spread over all of them."""
        return functional.one_hot(labels, n_outputs).float() * (1 - smoothing) + smoothing / n_outputs

    def distilled(self, outputs: Tensor, answers: Tensor, temperature: float) -> Tensor:
        """Return the mean Kullback-Leibler divergence of softened classes, times the square of the temperature (Hinton
        et al., 2015, section 2): its gradient keeps the size of the cross entropy's."""
        soft, wanted = (functional.log_softmax(x / temperature, 1) for x in (outputs, answers))
        return temperature**2 * functional.kl_div(soft, wanted, reduction="batchmean", log_target=True)

    def values(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return 1 for each image whose largest output belongs to the label's class, 0 for the others."""
        return (outputs.argmax(1) == labels).double()

    def score(self, outputs: Tensor, labels: Tensor) -> float:
        return float(self.values(outputs, labels).mean())

    def chance(self, labels: Tensor) -> float:
        """Return the accuracy of always naming the most frequent class."""
        return float(labels.bincount().max()) / len(labels)

    def is_near_chance(self, score: float, chance: float, n_images: int) -> bool:
        return score <= chance + 3 * (chance * (1 - chance) / n_images) ** 0.5

    def quality(self, score: float, chance: float) -> float:
        return score

    def of_quality(self, quality: float, chance: float) -> float:
        return quality

    def point(self, chance: float) -> float:
        return 1.0

    def drop_interval(self, before: Tensor, now: Tensor, n_total: int, confidence: float) -> Interval:
        """Estimate the drop from the number of images lost and the number won."""
        return interval_of_counts(int((before > now).sum()), int((now > before).sum()), len(now), n_total, confidence)

    def agrees(self, reference: Tensor, outputs: Tensor, noise: float | None = None) -> Tensor:
        """Tell for each row whether both runs have the same largest output.

        With `noise`, a near tie agrees too: two outputs whose values in the reference differ by less than three
        standard deviations of the difference of two values' noise.
        """
        first, other = reference.argmax(1), outputs.argmax(1)
        if noise is None:
            return first == other
        rows = torch.arange(len(reference))
        margins = reference[rows, first] - reference[rows, other]
        return margins <= 3 * math.sqrt(2) * noise

    def confidence(self, outputs: Tensor) -> Tensor:
        """Return the softmax maximum."""
        return outputs.softmax(1).amax(1)


# Labels are what the FP32 network answers: for images without any.
AGREEMENT = Accuracy(
    name="agreement", title="agreement with the float network", column="agr.", unit="% agreement", asks_baseline=True
)


def interval_of_counts(n_lost: int, n_won: int, n_images: int, n_total: int, confidence: float) -> Interval:
    """Estimate the drop in points of `n_total` images from a random part of them.

    In the part, a candidate lost `n_lost` of the images that were answered correctly before, and won `n_won` others.
    Each of the two shares has the limits of Clopper and Pearson (1934), exact down to counts of zero; their difference
    is joined by the square-and-add rule (Newcombe, 1998, method 10). Both are narrowed by the finite population's
    factor, sqrt((N - n) / (N - 1)), which is 0 when all images were counted.
    """
    lost, won = n_lost / n_images, n_won / n_images
    left = math.sqrt((n_total - n_images) / max(n_total - 1, 1))
    lost_low, lost_high = _clopper_pearson(n_lost, n_images, confidence)
    won_low, won_high = _clopper_pearson(n_won, n_images, confidence)
    below = left * math.hypot(lost - lost_low, won_high - won)
    above = left * math.hypot(lost_high - lost, won - won_low)
    value = lost - won
    return Interval(100 * value, 100 * (value - below), 100 * (value + above))


def _clopper_pearson(n: int, n_total: int, confidence: float) -> tuple[float, float]:
    tail = (1 - confidence) / 2
    low = 0.0 if n == 0 else float(betaincinv(n, n_total - n + 1, tail))
    high = 1.0 if n == n_total else float(betaincinv(n + 1, n_total - n, 1 - tail))
    return low, high
