"""Gates: requirements such as `speedup>=1.2` that the figures of a bench's table hold or miss, for pipelines."""

import math
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from nacdeploy.base.errors import NacdeployError, UsageError, unknown
from nacdeploy.exporters.bench import Row, Table
from nacdeploy.metrics import Metric, drop, named

_MIB = 2**20
_N_DIGITS = 9  # 100 * (0.90 - 0.885) is a drop of 1.5, not of 1.5000000000000013
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_FORM = re.compile(r"\s*([A-Za-z_]\w*)\s*([<>=!~]*)\s*(.*?)\s*")


def _lost(row: Row, baseline: Row) -> float:
    return drop(named(row.metric), baseline.score, row.score)


def _device_ms(row: Row, baseline: Row) -> float | None:
    return row.device_latency.p50_ms if row.device_latency else None


def _device_speedup(row: Row, baseline: Row) -> float | None:
    return row.device_speed.value if row.device_speed else None


# The figures of a row beside its baseline, in the units that the table prints; None where nothing was measured.
FIGURES: dict[str, Callable[[Row, Row], float | None]] = {
    "speedup": lambda row, baseline: row.speed.value,
    "speedup_low": lambda row, baseline: row.speed.low,
    "speedup_high": lambda row, baseline: row.speed.high,
    "drop": _lost,
    "score": lambda row, baseline: named(row.metric).scale * row.score,
    "ms": lambda row, baseline: row.latency.p50_ms,
    "p50_ms": lambda row, baseline: row.latency.p50_ms,
    "p90_ms": lambda row, baseline: row.latency.p90_ms,
    "mean_ms": lambda row, baseline: row.latency.mean_ms,
    "throughput_per_s": lambda row, baseline: row.latency.throughput_per_s,
    "size_kib": lambda row, baseline: row.model_bytes / 1024,
    "size_mb": lambda row, baseline: row.model_bytes / 1e6,
    "size_mib": lambda row, baseline: row.model_bytes / _MIB,
    "size_ratio": lambda row, baseline: row.size_ratio,
    "device_ms": _device_ms,
    "device_speedup": _device_speedup,
}


@dataclass(frozen=True)
class Requirement:
    """A bound for one figure: its name, one of `>= <= > <`, and a number in the unit of the table."""

    figure: str
    comparison: str
    bound: float

    def __str__(self) -> str:
        return f"{self.figure}{self.comparison}{self.bound:g}"

    def holds(self, value: float | None) -> bool:
        """Tell whether a figure holds the bound; one that is no number, or was not measured, does not."""
        return value is not None and _COMPARE[self.comparison](round(value, _N_DIGITS), self.bound)


class GateError(NacdeployError):
    """Artifacts miss requirements; `table` holds what was measured."""

    def __init__(self, text: str, table: Table) -> None:
        super().__init__(text)
        self.table = table


def parse(text: str) -> Requirement:
    """Read a requirement such as `drop<=1`.

    Raises:
        UsageError: it names no figure, no comparison or no finite number.
    """
    if not isinstance(text, str) or not (found := _FORM.fullmatch(text)):
        raise _unreadable(text, "it names no figure")
    figure, comparison, number = found.groups()
    if figure not in FIGURES:
        raise unknown("figure in --require", figure, FIGURES)
    if comparison not in _COMPARE:
        said = f"'{comparison}' is no comparison" if comparison else "it has no comparison"
        raise _unreadable(text, f"{said}; known: {' '.join(_COMPARE)}")
    try:
        bound = float(number)
    except ValueError:
        bound = math.nan
    if not math.isfinite(bound):
        raise _unreadable(text, f"'{number[:40]}' is no finite number")
    return Requirement(figure, comparison, bound)


def _unreadable(text: object, why: str) -> UsageError:
    return UsageError(f"the requirement {str(text)[:60]!r} cannot be read: {why}; write it as 'speedup>=1.2'")


def parsed(texts: Sequence[str] | str) -> tuple[Requirement, ...]:
    """Read the requirements of a command; one text is one requirement."""
    return tuple(map(parse, [texts] if isinstance(texts, str) else texts))


def check(requirements: Sequence[Requirement], metric: Metric) -> None:
    """Check before anything is timed that bounds are meant in the units of the table.

    Raises:
        UsageError: the bound of a score in percent is a fraction, which every network holds, or none.
    """
    for each in requirements:
        if each.figure == "score" and metric.scale == 100 and 0 < abs(each.bound) <= 1:
            raise UsageError(
                f"the requirement '{each}' is on a score in percent, as the table prints it; write "
                f"'score{each.comparison}{100 * each.bound:g}'"
            )


def judge(table: Table, requirements: Sequence[Requirement]) -> None:
    """Hold every row of every artifact but the baseline against the requirements.

    Raises:
        UsageError: the table holds the baseline alone, so that there is nothing to judge.
        GateError: a row misses a requirement; one line names each miss.
    """
    baselines = {_turn(row): row for row in table.rows if row.artifact == table.baseline}
    judged = [row for row in table.rows if row.artifact != table.baseline]
    if requirements and not judged:
        raise UsageError(f"{table.baseline} is the baseline itself, so that --require has no artifact to judge")
    misses = [
        f"{row.artifact} at batch {row.latency.batch_size}{_graph(row)}: {_missed(each, value)}"
        for row in judged
        for each in requirements
        if not each.holds(value := FIGURES[each.figure](row, baselines[_turn(row)]))
    ]
    if misses:
        n_total = len(judged) * len(requirements)
        raise GateError(f"{len(misses)} of {n_total} requirements are missed: {'; '.join(misses)}", table)


def _turn(row: Row) -> tuple[int, bool]:
    return row.latency.batch_size, row.cuda_graph


def _graph(row: Row) -> str:
    return " with a CUDA graph" if row.cuda_graph else ""


def _missed(requirement: Requirement, value: float | None) -> str:
    wanted = f"{requirement.comparison} {requirement.bound:g} is required"
    if value is None:
        return f"{requirement.figure} was not measured (there is no GPU's own time), {wanted}"
    return f"{requirement.figure} is {value:.6g}, {wanted}"
