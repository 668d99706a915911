"""Low fidelity: validation images counted in parts, until the drop against the baseline is clear.

Images are taken in one fixed random order, the same for every network, and compared image by image with the baseline:
only the difference of the two answers counts, and most images have none. Never the test split.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from nacdeploy.metrics import Interval, lowered
from nacdeploy.network.cost import cost
from nacdeploy.network.network import Network
from nacdeploy.profile.tables.search import FidelityTable, SearchTable
from nacdeploy.strategies.search.objective import make as make_objective
from nacdeploy.strategies.state import CompressionState, Metrics, measure
from nacdeploy.task import Task
from nacdeploy.task import evaluate as evaluation

_GROWTH = 1.5  # from look to look: few looks cost little confidence


def looks(n_total: int, first: int) -> list[int]:
    """Return the number of images counted at each look; the last look counts all."""
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
    """Measures networks against the baseline's values (N,) by image; a `Meter` of `advance`.

    `thresholds` and `margin` are drops in the metric's own unit.
    """

    table: FidelityTable
    thresholds: tuple[float, ...]
    margin: float
    baseline_key: str
    baseline_score: float
    values: Tensor

    @property
    def key(self) -> Any:
        rule = self.table.model_dump(mode="json", include={"confidence", "first_images", "margin"})
        return {**rule, "thresholds": list(self.thresholds), "baseline": self.baseline_key}

    def __call__(self, network: Network, task: Task) -> Metrics:
        """The score as the baseline's less the drop that was counted. A gate decides by all images: exits are counted
        in full."""
        if network.exits:
            return measure(network, task)
        n_images, drop = self._counted(network, task)
        return Metrics(
            lowered(task.metric, self.baseline_score, drop.value),
            "validation",
            n_images,
            cost(network, task.example_input()),
            half_width=drop.half_width / task.metric.scale,
            chance=task.metric.chance(task.data.validation.labels),
            metric=task.metric.name,
        )

    def _counted(self, network: Network, task: Task) -> tuple[int, Interval]:
        """Images counted and the drop on them, at the first look that makes it clear."""
        counts = looks(len(self.values), self.table.first_images)
        confidence = 1 - (1 - self.table.confidence) / len(counts)  # of all looks together (Bonferroni)
        n_images, drop = 0, Interval(0.0, 0.0, 0.0)
        for now in self._seen(network, task, counts):
            n_images, before = len(now), self.values[self._order[: len(now)]]
            drop = task.metric.drop_interval(before, now, len(self.values), confidence)
            if is_clear(drop, self.thresholds, self.margin):
                break
        return n_images, drop

    def _seen(self, network: Network, task: Task, counts: list[int]) -> Iterator[Tensor]:
        """At each look how well the images so far are answered, (n,)."""
        seen: list[Tensor] = []
        for start, end in zip([0, *counts], counts, strict=False):
            seen.append(evaluation.values(network, task, task.data.validation.subset(self._order[start:end])))
            yield torch.cat(seen)

    @cached_property
    def _order(self) -> Tensor:
        return torch.randperm(len(self.values), generator=torch.Generator().manual_seed(len(self.values)))


def subsets(baseline: CompressionState, task: Task, table: SearchTable) -> Subsets | None:
    """Return the meter of a search, or None if every image is counted.

    Its thresholds are the drops that decide something before an F, after which all images are counted: whether a chain
    may win, whether F is due, and whether nothing else is allowed.
    """
    fidelity, rules = table.fidelity, table.rules
    if not fidelity.subsets or len(task.data.validation) <= fidelity.min_images or baseline.network.exits:
        return None
    point = task.metric.point(baseline.metrics.chance)
    allowed = make_objective(table, point).max_drop
    points = {allowed, rules.finetune_due, rules.forced_factor * rules.finetune_due}
    thresholds = tuple(sorted(drop * point for drop in points))
    values = evaluation.values(baseline.network, task, task.data.validation)
    return Subsets(fidelity, thresholds, fidelity.margin * point, baseline.key, baseline.metrics.score, values)
