"""A chart as data: what it shows, apart from how it is drawn (`svg` in a page, `figure` elsewhere)."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

Colour = Literal["blue", "orange", "green", "red", "purple", "pink", "grey"]
Shape = Literal["dot", "hollow", "ring", "cross", "square", "triangle", "none"]


# What a file says may be any number; a picture holds those that a measurement can give.
LARGEST, SMALLEST = 1e15, 1e-12


@dataclass(frozen=True)
class Axis:
    """One axis. `names` stand at 0, 1, 2, ... in place of numbers; a silent axis has neither."""

    label: str = ""
    is_log: bool = False
    names: tuple[str, ...] = ()
    is_silent: bool = False


@dataclass(frozen=True)
class Mark:
    """One point. `tip` is its value in words, line by line; `letter` is written on it; `low` to `high` is an interval
    of x."""

    x: float
    y: float
    tip: str = ""
    letter: str = ""
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Series:
    """Marks of one kind. The legend holds the named ones; joined marks have a line between them."""

    name: str
    colour: Colour
    marks: tuple[Mark, ...]
    shape: Shape = "dot"
    is_joined: bool = False


@dataclass(frozen=True)
class Branch:
    """A line of a tree under the marks: its corners, and whether it leads to the answer."""

    points: tuple[tuple[float, float], ...]
    is_strong: bool = False


@dataclass(frozen=True)
class Plane:
    """Series over two axes. With `n_rows` the height follows from that number of rows, counted from the top."""

    x: Axis
    y: Axis
    series: tuple[Series, ...]
    branches: tuple[Branch, ...] = ()
    n_rows: float | None = None

    @property
    def marks(self) -> Iterator[Mark]:
        """The marks of all series."""
        return (mark for series in self.series for mark in series.marks)


@dataclass(frozen=True)
class Bar:
    """A bar from `start` to `end`; a thin one lies over a thick one. `limit` is a mark beyond it (a percentile)."""

    end: float
    colour: Colour
    tip: str
    start: float = 0.0
    is_thin: bool = False
    limit: float | None = None


@dataclass(frozen=True)
class Row:
    """The bars of one thing, and a few words on it."""

    label: str
    bars: tuple[Bar, ...]
    note: str = ""


@dataclass(frozen=True)
class Bars:
    """Rows of bars over one axis that begins at 0. `legend` says what a colour means."""

    axis: Axis
    rows: tuple[Row, ...]
    legend: tuple[tuple[str, Colour], ...] = ()

    @property
    def end(self) -> float:
        """The largest value, 1 where all are 0."""
        ends = (end for row in self.rows for bar in row.bars for end in (bar.end, bar.limit or 0.0))
        largest = max(filter(is_drawable, ends), default=0.0)
        return largest if largest > SMALLEST else 1.0


Chart = Plane | Bars


def is_drawable(value: float) -> bool:
    """Tell whether a value has a place in a picture."""
    return math.isfinite(value) and abs(value) < LARGEST


def drawable(marks: Iterable[Mark], x: Axis, y: Axis) -> tuple[Mark, ...]:
    """Return the marks that lie on two axes: of drawable values, above 0 on a logarithmic one; without an interval that
    does not."""
    found = (mark for mark in marks if _is_on(x, mark.x) and _is_on(y, mark.y))
    return tuple(mark if _is_on(x, mark.low, mark.high) else replace(mark, low=None, high=None) for mark in found)


def _is_on(axis: Axis, *values: float | None) -> bool:
    least = SMALLEST if axis.is_log and not axis.names else -LARGEST
    return all(value is None or (is_drawable(value) and value > least) for value in values)
