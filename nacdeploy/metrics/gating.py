"""The rule by which a metric's answers leave early, for gates that run without torch: a metric may name it."""

from typing import Protocol, runtime_checkable

from nacdeploy.metrics.base import Metric


@runtime_checkable
class Gated(Protocol):
    """A metric whose `confidence` is one of the rules of `cascades.confidence`.

    >>> from nacdeploy.metrics import named
    >>> [gate_of(named(name)) for name in ("accuracy", "f1", "mae")]
    ['softmax', 'labels', '']
    """

    @property
    def gate(self) -> str: ...


def gate_of(metric: Metric) -> str:
    """Return the name of the rule that a metric's `confidence` is, or "" if it is one of its own."""
    return metric.gate if isinstance(metric, Gated) else ""
