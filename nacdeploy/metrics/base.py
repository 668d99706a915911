"""Metric: the question that a task asks of a network, and the quality of the answers.

An answer is one row of a network's outputs `(N, K)`. A score is one number for a whole split, a value one for an image.
Three scales meet here: the score as files hold it (an accuracy of 0.97, an error of 0.31), the drop as people give and
read it (`points`, or the target's own unit), and the quality that searches plan with: more is better, 1 is perfect.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor


@dataclass(frozen=True)
class Interval:
    """A drop, in the metric's own unit, and the limits between which the drop of the whole split lies."""

    value: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        return max(self.high - self.value, self.value - self.low)


class Metric(Protocol):
    """The question of a task and the scale of its answers: labels, loss, score, direction, chance and agreement.

        >>> import torch
        >>> from nacdeploy.metrics import named
        >>> metric: Metric = named("accuracy")
        >>> outputs, labels = torch.eye(4), torch.tensor([0, 1, 2, 0])
        >>> metric.score(outputs, labels)
        0.75
        >>> shown(metric, 0.75), shown_drop(metric, drop(metric, 0.80, 0.75))
        ('75.00 %', '5.00 points')

    Attributes:
        name: the key of the score in files and profiles, an identifier.
        title: the name of the score in a sentence.
        column: the name of the score above a column.
        unit: the text behind a printed score; "" for none.
        scale: the factor from a score to the printed score.
        drop_unit: the text behind a printed difference of scores.
        n_digits: the format of a printed number, such as ".2f".
        higher_is_better: the direction.
        bounds: the least and the largest possible score.
        answer: the noun for one row of outputs, in singular and plural.
        agreement: the meaning of `agrees`, in words.
        no_exits: the reason why no exit can answer early; "" if `confidence` can rate answers.
        version: part of the keys of a search's memory; raise it when loss or score come out differently.
    """

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def column(self) -> str: ...
    @property
    def unit(self) -> str: ...
    @property
    def scale(self) -> float: ...
    @property
    def drop_unit(self) -> str: ...
    @property
    def n_digits(self) -> str: ...
    @property
    def higher_is_better(self) -> bool: ...
    @property
    def bounds(self) -> tuple[float, float]: ...
    @property
    def answer(self) -> tuple[str, str]: ...
    @property
    def agreement(self) -> str: ...
    @property
    def no_exits(self) -> str: ...
    @property
    def version(self) -> int: ...

    def labels(self, classes: Tensor, class_names: tuple[str, ...]) -> tuple[Tensor, tuple[str, ...]]:
        """Return the labels, `(N,)` or `(N, K)`, and the names of the network's outputs (none for `K` numbers), from
        the classes `(N,)` that a source read.

        Raises:
            UsageError: the data have no such labels.
        """
        ...

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the loss that training minimises: a scalar of outputs `(N, K)`, with a gradient."""
        ...

    def values(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Rate the answer to each image, float64 `(N,)`, in the direction of the score."""
        ...

    def score(self, outputs: Tensor, labels: Tensor) -> float:
        """Return the score of a whole split."""
        ...

    def chance(self, labels: Tensor) -> float:
        """Return the score of the best answer that looks at no image."""
        ...

    def is_near_chance(self, score: float, chance: float, n_images: int) -> bool:
        """Tell whether an answer that looks at no image may have this score on `n_images` images."""
        ...

    def quality(self, score: float, chance: float) -> float:
        """Map a score to the scale that searches plan with: more is better, 1 is perfect, a hundredth is a point."""
        ...

    def of_quality(self, quality: float, chance: float) -> float:
        """Map a quality back to its score."""
        ...

    def point(self, chance: float) -> float:
        """Return the drop, in `drop_unit`, of one point: a hundredth of the quality."""
        ...

    def drop_interval(self, before: Tensor, now: Tensor, n_total: int, confidence: float) -> Interval:
        """Estimate the drop on `n_total` images from the values `(n,)` of a random part of them, before and now."""
        ...

    def agrees(self, reference: Tensor, outputs: Tensor, noise: float | None = None) -> Tensor:
        """Tell for each row `(N,)` whether two runs give the same answer.

        `noise` is the standard deviation of the noise between the runs; with it, answers that differ by no more than
        noise
        explains agree too.
        """
        ...

    def confidence(self, outputs: Tensor) -> Tensor:
        """Rate how sure each answer is, `(N,)` from 0 to 1; called only if `no_exits` is empty."""
        ...


def is_better(metric: Metric, one: float, other: float) -> bool:
    """Tell whether the first score is better; a score that is not a number is never better."""
    if one != one or other != other:
        return one == one
    return one > other if metric.higher_is_better else one < other


def is_surely_better(metric: Metric, one: Tensor, other: Tensor) -> bool:
    """Tell whether the first values, `(N,)`, exceed the second by more than the standard error of their summed
    difference.

    For values 0 and 1 the standard error is the square root of the number of images on which they differ (McNemar,
    1947).
    """
    gain = one - other if metric.higher_is_better else other - one
    return float(gain.sum()) > float(gain.square().sum().sqrt())


def drop(metric: Metric, before: float, now: float) -> float:
    """Return the loss between two scores, in `drop_unit`; negative for a gain."""
    return metric.scale * (before - now if metric.higher_is_better else now - before)


def lowered(metric: Metric, score: float, lost: float) -> float:
    """Return the score that is worse by `lost` (in `drop_unit`), within the bounds."""
    low, high = metric.bounds
    worse = score - lost / metric.scale if metric.higher_is_better else score + lost / metric.scale
    return min(high, max(low, worse))


def number(metric: Metric, value: float, sign: str = "") -> str:
    """Print a score or drop without its unit."""
    return f"{value:{sign}{metric.n_digits}}"


def cell(metric: Metric, score: float) -> str:
    """Print a score for a column whose head names the unit."""
    return number(metric, metric.scale * score)


def shown(metric: Metric, score: float) -> str:
    """Print a score with its unit."""
    return f"{cell(metric, score)} {metric.unit}".rstrip()


def shown_drop(metric: Metric, lost: float, sign: str = "") -> str:
    """Print a drop with its unit."""
    return f"{number(metric, lost, sign)} {metric.drop_unit}"


def axis(metric: Metric) -> str:
    """Return the label of an axis of scores on validation, as they are printed."""
    named = f"{metric.title} on validation" + (f" ({metric.unit})" if metric.unit else "")
    return named if metric.higher_is_better else f"{named}, lower is better"


@runtime_checkable
class AsksBaseline(Protocol):
    """A metric that can take a network's answers for labels: it does where `asks_baseline` is set.

    >>> from nacdeploy.metrics import named
    >>> [named(name).asks_baseline for name in ("accuracy", "agreement")]
    [False, True]
    """

    @property
    def asks_baseline(self) -> bool: ...

    def answers(self, outputs: Tensor) -> Tensor:
        """Return the answers of outputs as labels."""
        ...


def asks_the_baseline(metric: Metric) -> bool:
    """Tell whether a metric compares answers with those of the network that a chain starts from, not with labels."""
    return isinstance(metric, AsksBaseline) and metric.asks_baseline
