"""From values to places: the range of an axis, and the round numbers that stand on it."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from nacdeploy.reports.charts.chart import SMALLEST, Axis

_ROUND = (1.0, 2.0, 2.5, 5.0, 10.0)
_MARGIN = 0.06
_LEAST = 1e-9  # of a value: what is nearer stands at one place
_FEW = 3  # ticks, with which a logarithmic axis still shows where it is


@dataclass(frozen=True)
class Tick:
    """A number on an axis, as it is written."""

    value: float
    text: str


@dataclass(frozen=True)
class Scale:
    """An axis with its range, from `low` at 0 to `high` at 1."""

    axis: Axis
    low: float
    high: float

    def __call__(self, value: float) -> float:
        """Return the place of a value as a fraction of the range."""
        low, high, at = (self._linear(each) for each in (self.low, self.high, value))
        return (at - low) / (high - low)

    def ticks(self, n: int) -> tuple[Tick, ...]:
        """Return about `n` round numbers within the range, or the names of the axis."""
        if self.axis.names:
            return tuple(Tick(float(at), name) for at, name in enumerate(self.axis.names))
        powers = _powers(self.low, self.high, n) if self.axis.is_log else ()
        return powers if len(powers) >= _FEW else _even(self.low, self.high, n)

    def _linear(self, value: float) -> float:
        return math.log(value) if self.axis.is_log and not self.axis.names else value


def scale_of(axis: Axis, values: Iterable[float], *, from_zero: bool = False) -> Scale:
    """Return the scale that holds all values with a margin; a single value stands in the middle."""
    found = sorted(values) or [1.0]
    low, high = found[0], found[-1]
    if axis.names:
        return Scale(axis, -0.5, len(axis.names) - 0.5)
    if from_zero:
        return Scale(axis, 0.0, high * (1 + _MARGIN) or 1.0)
    if axis.is_log:
        by = (high / low) ** _MARGIN if high > low * (1 + _LEAST) else 1.5
        return Scale(axis, low / by, high * by)
    is_range = high - low > max(abs(high), abs(low), SMALLEST) * _LEAST
    by = (high - low) * _MARGIN if is_range else max(abs(high) / 4, SMALLEST) if high else 0.5
    return Scale(axis, low - by, high + by)


def _even(low: float, high: float, n: int) -> tuple[Tick, ...]:
    """Return round numbers at even distances."""
    raw = (high - low) / max(n, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * each for each in _ROUND if power * each >= raw * 0.999)
    digits = max(0, -math.floor(math.log10(step)) + (round(step / power, 1) == 2.5))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return tuple(Tick(k * step, _text(k * step, digits)) for k in range(first, last + 1))


def _powers(low: float, high: float, n: int) -> tuple[Tick, ...]:
    """Return 1, 2 and 5 times powers of ten; of many only the powers."""
    span = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        found = [factor * 10.0**power for power in span for factor in factors]
        within = [value for value in found if low <= value <= high]
        if len(within) <= n + 2:
            return tuple(Tick(value, _text(value, max(0, -math.floor(math.log10(value))))) for value in within)
    return tuple(Tick(value, f"{value:.0e}") for value in within[:: -(-len(within) // n)])


def _text(value: float, digits: int) -> str:
    """Print a number; with a letter for its size from ten thousand on."""
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= max(unit, 1e4):
            return f"{value / unit:g}{letter}"
    return f"{0.0 if value == 0 else value:.{digits}f}"
