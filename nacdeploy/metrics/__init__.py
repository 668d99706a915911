"""The metrics by name. Adding one: its own file and one line of METRICS."""

from nacdeploy.errors import unknown
from nacdeploy.metrics.absolute_error import Mae
from nacdeploy.metrics.accuracy import Accuracy
from nacdeploy.metrics.base import (
    Interval,
    Metric,
    axis,
    cell,
    drop,
    is_better,
    is_surely_better,
    lowered,
    number,
    shown,
    shown_drop,
)
from nacdeploy.scores import DEFAULT, schema, scored, spelled

__all__ = [
    "ACCURACY",
    "DEFAULT",
    "METRICS",
    "Interval",
    "Metric",
    "axis",
    "cell",
    "drop",
    "is_better",
    "is_surely_better",
    "lowered",
    "named",
    "number",
    "schema",
    "scored",
    "shown",
    "shown_drop",
    "spelled",
]

ACCURACY = Accuracy()
METRICS: tuple[Metric, ...] = (ACCURACY, Mae())


def named(name: str) -> Metric:
    """A metric by its name.

    Raises:
        UsageError: there is none of that name.
    """
    known = {metric.name: metric for metric in METRICS}
    if name not in known:
        raise unknown("metric", name, known)
    return known[name]
