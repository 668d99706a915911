"""The metrics by name. Adding one: its own file and one line of METRICS, or an entry point of another package."""

from importlib.metadata import EntryPoint, entry_points

from nacdeploy.errors import UsageError, unknown
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
GROUP = "nacdeploy.metrics"
_KNOWN: dict[str, Metric] = {metric.name: metric for metric in METRICS}


def named(name: str) -> Metric:
    """A metric by its name, this package's own first, then those of the entry point group `nacdeploy.metrics`, of which
    only the one that is asked for is loaded.

    Raises:
        UsageError: there is none of that name, or it does not load; the text names its package.
    """
    if name not in _KNOWN:
        found = {entry.name: entry for entry in entry_points(group=GROUP)}
        if name not in found:
            raise unknown("metric", name, [*_KNOWN, *found])
        _KNOWN[name] = _loaded(found[name])
    return _KNOWN[name]


def _loaded(entry: EntryPoint) -> Metric:
    package = entry.dist.name if entry.dist is not None else "?"
    try:
        metric: Metric = entry.load()
        if metric.name != entry.name:
            raise UsageError(f"it calls itself '{metric.name}'")
    except Exception as error:
        raise UsageError(f"metric '{entry.name}' of package '{package}' does not load: {error}") from error
    return metric
