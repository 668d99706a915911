"""How an answer is read in plain Python, for whoever has an artifact and no nacdeploy: a metric may say it."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from nacdeploy.metrics.base import Metric


@dataclass(frozen=True)
class Reading:
    """Lines of Python over numpy, as `np`.

    Attributes:
        answer: prints the answer that the array `answer` (K,) gives, with `names`, the class names or an empty list.
        confidence: the body of a function of `values` (K,) that returns how sure they are, as `Metric.confidence` does;
            "" if no exit may answer.
    """

    answer: str
    confidence: str = ""


NUMBERS = Reading("print(answer)")


@runtime_checkable
class Readable(Protocol):
    """A metric that says how its answers are read.

    >>> from nacdeploy.metrics import named
    >>> [name for name in ("accuracy", "f1", "mae") if isinstance(named(name), Readable)]
    ['accuracy', 'f1']
    """

    @property
    def reading(self) -> Reading: ...


def reading(metric: Metric) -> Reading:
    """Return how answers are read: as the metric says, or as numbers."""
    return metric.reading if isinstance(metric, Readable) else NUMBERS
