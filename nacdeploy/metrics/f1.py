"""F1: several labels per image, scored by how well the labels named agree with those of the image."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from nacdeploy.base.errors import UsageError
from nacdeploy.metrics.absolute_error import interval_of_mean
from nacdeploy.metrics.base import Interval
from nacdeploy.metrics.reading import Reading

SEPARATOR = "|"


@dataclass(frozen=True)
class F1:
    """The mean over images of `2 n_right / (n_named + n_wanted)`; a label is named if its output is above 0.

    Labels are float32 `(N, K)` of zeros and ones. An image without labels and without a named one counts 1.
    """

    name: str = "f1"
    title: str = "F1"
    column: str = "F1"
    unit: str = "%"
    scale: float = 100.0
    drop_unit: str = "points"
    n_digits: str = ".2f"
    higher_is_better: bool = True
    bounds: tuple[float, float] = (0.0, 1.0)
    answer: tuple[str, str] = ("set of labels", "sets of labels")
    agreement: str = "the same labels named"
    no_exits: str = ""
    gate: str = "labels"
    version: int = 1

    @property
    def reading(self) -> Reading:
        """The labels whose output is above 0, as sure as the least sure one."""
        return Reading(
            "print([name for name, value in zip(names, answer) if value > 0])",
            "return np.abs(2 / (1 + np.exp(-values)) - 1).min()",
        )

    def labels(self, classes: Tensor, class_names: tuple[str, ...]) -> tuple[Tensor, tuple[str, ...]]:
        """Return the labels that the names of classes list, `(N, K)`: "cat|dog" names two."""
        sets = [[part for part in name.split(SEPARATOR) if part] for name in class_names]
        names = tuple(sorted({part for each in sets for part in each}))
        if len(names) < 2:
            raise UsageError(
                f"metric 'f1' needs two labels at least, apart by '{SEPARATOR}' where an image has several"
            )
        table = torch.zeros(len(class_names), len(names))
        for row, each in zip(table, sets, strict=True):
            row[[names.index(part) for part in each]] = 1.0
        return table[classes], names

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the mean binary cross entropy of each label."""
        return functional.binary_cross_entropy_with_logits(outputs, labels)

    def distilled(self, outputs: Tensor, answers: Tensor, temperature: float) -> Tensor:
        """Return the binary cross entropy against the teacher's probabilities, both softened."""
        wanted = torch.sigmoid(answers / temperature)
        return temperature**2 * functional.binary_cross_entropy_with_logits(outputs / temperature, wanted)

    def values(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return each image's F1."""
        named, wanted = outputs > 0, labels > 0.5
        total = (named.sum(1) + wanted.sum(1)).double()
        return torch.where(total > 0, 2 * (named & wanted).sum(1).double() / total.clamp(min=1), 1.0)

    def score(self, outputs: Tensor, labels: Tensor) -> float:
        return float(self.values(outputs, labels).mean())

    def chance(self, labels: Tensor) -> float:
        """Return the score of always naming the same labels: the most frequent ones, as many as pay best."""
        order = labels.sum(0).argsort(descending=True)
        named = torch.full((labels.shape[1],), -1.0)
        best = 0.0
        for label in order.tolist():
            named[label] = 1.0
            best = max(best, self.score(named.expand_as(labels), labels))
        return best

    def is_near_chance(self, score: float, chance: float, n_images: int) -> bool:
        return score <= chance + 3 * (chance * (1 - chance) / n_images) ** 0.5

    def quality(self, score: float, chance: float) -> float:
        return score

    def of_quality(self, quality: float, chance: float) -> float:
        return quality

    def point(self, chance: float) -> float:
        return 1.0

    def drop_interval(self, before: Tensor, now: Tensor, n_total: int, confidence: float) -> Interval:
        """Estimate the drop in points from the mean difference of the same images' values."""
        return interval_of_mean(100 * (before - now), n_total, confidence)

    def agrees(self, reference: Tensor, outputs: Tensor, noise: float | None = None) -> Tensor:
        """Tell for each row whether the same labels are named. With `noise`, an output that is within three standard
        deviations of the boundary agrees too."""
        same = (reference > 0) == (outputs > 0)
        return (same if noise is None else same | (reference.abs() <= 3 * noise)).all(1)

    def confidence(self, outputs: Tensor) -> Tensor:
        """Return how sure the least sure label is: 0 at even odds."""
        return (2 * torch.sigmoid(outputs) - 1).abs().amin(1)
