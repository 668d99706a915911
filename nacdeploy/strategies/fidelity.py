"""Low fidelity: validation images counted in parts, until the drop against the baseline is clear.

Images are taken in one fixed random order, the same for every network, and compared image by image with the baseline:
what counts is how many the candidate loses and how many it wins, and most images are neither. Never the test split.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from scipy.special import betaincinv
from torch import Tensor

from nacdeploy import evaluate as evaluation
from nacdeploy.cost import cost
from nacdeploy.layers.network import Network
from nacdeploy.profile.search import FidelityTable, SearchTable
from nacdeploy.strategies.state import CompressionState, Metrics, chance, measure
from nacdeploy.task import Task

_GROWTH = 1.5  # from look to look: few looks cost little confidence


@dataclass(frozen=True)
class Interval:
    """A drop in accuracy points and the limits between which that of the whole split lies."""

    value: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        return max(self.high - self.value, self.value - self.low)


def drop_interval(n_lost: int, n_won: int, n_images: int, n_total: int, confidence: float) -> Interval:
    """The drop of `n_total` images from a random part of them, in which a candidate lost `n_lost` of the images that
    the baseline answers rightly, and won `n_won` others.

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


def looks(n_total: int, first: int) -> list[int]:
    """How many images have been counted at each look, the last time all of them."""
    counts = [min(first, n_total)]
    while counts[-1] < n_total:
        counts.append(min(n_total, math.ceil(counts[-1] * _GROWTH)))
    return counts


def is_clear(drop: Interval, thresholds: tuple[float, ...], margin: float) -> bool:
    """Whether no threshold lies within the interval, and it is narrower than the margin or beyond every threshold."""
    is_decided = all(not drop.low <= threshold <= drop.high for threshold in thresholds)
    return is_decided and (drop.half_width <= margin or drop.low > max(thresholds))


@dataclass(frozen=True, eq=False)
class Subsets:
    """Measures networks against a baseline that names the images of `correct` (N,) rightly; a `Meter` of `advance`."""

    table: FidelityTable
    thresholds: tuple[float, ...]
    baseline_key: str
    baseline_accuracy: float
    correct: Tensor

    @property
    def key(self) -> Any:
        rule = self.table.model_dump(mode="json", include={"confidence", "first_images", "margin"})
        return {**rule, "thresholds": list(self.thresholds), "baseline": self.baseline_key}

    def __call__(self, network: Network, task: Task) -> Metrics:
        """Accuracy as the baseline's less the drop that was counted. A gate decides by all images: exits are counted
        in full."""
        if network.exits:
            return measure(network, task)
        n_images, drop = self._counted(network, task)
        accuracy = min(1.0, max(0.0, self.baseline_accuracy - drop.value / 100))
        costs, likely = cost(network, task.example_input()), chance(task.data.validation)
        return Metrics(accuracy, "validation", n_images, costs, half_width=drop.half_width / 100, chance=likely)

    def _counted(self, network: Network, task: Task) -> tuple[int, Interval]:
        """Images counted and the drop on them, at the first look that makes it clear."""
        counts = looks(len(self.correct), self.table.first_images)
        confidence = 1 - (1 - self.table.confidence) / len(counts)  # of all looks together (Bonferroni)
        n_images, n_lost, n_won, drop = 0, 0, 0, Interval(0.0, 0.0, 0.0)
        for n_images, lost, won in self._differences(network, task, counts):
            n_lost, n_won = n_lost + lost, n_won + won
            drop = drop_interval(n_lost, n_won, n_images, len(self.correct), confidence)
            if is_clear(drop, self.thresholds, self.table.margin):
                break
        return n_images, drop

    def _differences(self, network: Network, task: Task, counts: list[int]) -> Iterator[tuple[int, int, int]]:
        """At each look the images so far, and how many of the new ones were lost and won."""
        for start, end in zip([0, *counts], counts, strict=False):
            part = self._order[start:end]
            now = evaluation.correct(network, task.data, task.data.validation.subset(part))
            before = self.correct[part]
            yield end, int((before & ~now).sum()), int((now & ~before).sum())

    @cached_property
    def _order(self) -> Tensor:
        return torch.randperm(len(self.correct), generator=torch.Generator().manual_seed(len(self.correct)))


def subsets(baseline: CompressionState, task: Task, table: SearchTable) -> Subsets | None:
    """The meter of a search; None where every image is counted.

    Its thresholds are the drops that decide something before an F, after which all images are counted: whether a chain
    may win, whether F is due, and whether nothing else is allowed.
    """
    fidelity, rules = table.fidelity, table.rules
    if not fidelity.subsets or len(task.data.validation) <= fidelity.min_images or baseline.network.exits:
        return None
    thresholds = {table.max_drop, rules.finetune_due, rules.forced_factor * rules.finetune_due}
    correct = evaluation.correct(baseline.network, task.data, task.data.validation)
    accuracy = baseline.metrics.accuracy
    return Subsets(fidelity, tuple(sorted(thresholds)), baseline.key, accuracy, correct)


def _clopper_pearson(n: int, n_total: int, confidence: float) -> tuple[float, float]:
    tail = (1 - confidence) / 2
    low = 0.0 if n == 0 else float(betaincinv(n, n_total - n + 1, tail))
    high = 1.0 if n == n_total else float(betaincinv(n + 1, n_total - n, 1 - tail))
    return low, high
