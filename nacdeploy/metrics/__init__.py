"""The metrics by name. Adding one: its own file and one line of METRICS, or an entry point of another package."""

from importlib.metadata import EntryPoint

from nacdeploy.base import plugins
from nacdeploy.base.errors import UsageError, unknown
from nacdeploy.base.scores import DEFAULT, schema, scored, spelled
from nacdeploy.metrics import custom
from nacdeploy.metrics.absolute_error import Mae
from nacdeploy.metrics.accuracy import AGREEMENT, Accuracy
from nacdeploy.metrics.base import (
    AsksBaseline,
    Interval,
    Metric,
    asks_the_baseline,
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
from nacdeploy.metrics.custom import Custom
from nacdeploy.metrics.distillation import Distils, Softens, distilled
from nacdeploy.metrics.f1 import F1
from nacdeploy.metrics.gating import Gated, gate_of
from nacdeploy.metrics.reading import Readable, Reading, reading

__all__ = [
    "ACCURACY",
    "AGREEMENT",
    "DEFAULT",
    "METRICS",
    "AsksBaseline",
    "Custom",
    "Distils",
    "Gated",
    "Interval",
    "Metric",
    "Readable",
    "Reading",
    "Softens",
    "asks_the_baseline",
    "axis",
    "cell",
    "distilled",
    "drop",
    "gate_of",
    "is_better",
    "is_surely_better",
    "lowered",
    "named",
    "number",
    "problems",
    "reading",
    "schema",
    "scored",
    "shown",
    "shown_drop",
    "spelled",
]

ACCURACY = Accuracy()
METRICS: tuple[Metric, ...] = (ACCURACY, Mae(), AGREEMENT, F1())
GROUP = "nacdeploy.metrics"
_KNOWN: dict[str, Metric] = {metric.name: metric for metric in METRICS}


def named(name: str) -> Metric:
    """Return a metric by its name: this package's own first, then those of the entry point group `nacdeploy.metrics`,
    or the facts of a task's own metric, spelled as `NAME:higher:UNIT`.

    Of other packages only the named metric is loaded.

    Raises:
        UsageError: there is no metric of that name, or it does not load; the text names its package.
    """
    if not isinstance(name, str):
        raise UsageError(f"a metric has a name, not {str(name)[:40]}")
    if name in _KNOWN:  # a search asks some hundred thousand times
        return _KNOWN[name]
    if custom.SPELLED.fullmatch(name):
        return Custom(name)
    found = {entry.name: entry for entry in plugins.entries(GROUP)}
    if name not in found:
        raise unknown("metric", name, [*_KNOWN, *found])
    _KNOWN[name] = _loaded(found[name])
    return _KNOWN[name]


def problems() -> tuple[str, ...]:
    """Load all metrics of other packages and describe what is wrong with them, one line each."""
    found: list[str] = []
    taken = {metric.name for metric in METRICS}
    for entry in plugins.entries(GROUP):
        try:
            if entry.name in taken:
                raise UsageError(f"{plugins.called('metric', entry)} is left out: the name is taken")
            _loaded(entry)
        except UsageError as error:
            found.append(str(error))
        taken.add(entry.name)
    return tuple(found)


def _loaded(entry: EntryPoint) -> Metric:
    try:
        metric: Metric = plugins.load(entry)
        if getattr(metric, "name", None) != entry.name:
            raise UsageError(f"{entry.value} is no metric of this name")
    except UsageError as error:
        raise UsageError(f"{plugins.called('metric', entry)} is left out: {error}") from error
    return metric
