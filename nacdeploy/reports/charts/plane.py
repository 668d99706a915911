"""A plane as SVG: two axes, lines, and marks that say their values."""

from collections.abc import Sequence
from dataclasses import dataclass

from nacdeploy.base.html import tag
from nacdeploy.reports.charts.chart import Colour, Mark, Plane, Series, Shape, drawable
from nacdeploy.reports.charts.elements import LETTER_WIDTH, WIDTH, beginning, line, root, valued, words
from nacdeploy.reports.charts.scales import Scale, Tick, scale_of

_HEIGHT, _ROW_HEIGHT = 250.0, 26.0
_TOP, _RIGHT, _BOTTOM, _BOTTOM_TURNED = 10.0, 12.0, 42.0, 66.0
_N_OF_NAME = 9  # letters of a name that is turned
_LETTERS_AT_LEFT = 4  # at least, so that charts below each other stand in line


def plane_svg(chart: Plane, title: str) -> str:
    """Return a plane as an SVG element."""
    frame = _frame(chart)
    lines = [_branch(frame, branch.points, branch.is_strong) for branch in chart.branches]
    shown = [_series(frame, each, chart) for each in chart.series]
    return root(frame.height, title, [*_beside(frame), *_below(frame), *lines, *shown])


@dataclass(frozen=True)
class _Frame:
    """The places of a plane in units of the picture. Names that are too long to stand beside each other are turned."""

    x: Scale
    y: Scale
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    left: float
    height: float
    is_turned: bool

    @property
    def bottom(self) -> float:
        return self.height - (_BOTTOM_TURNED if self.is_turned else _BOTTOM)

    @property
    def right(self) -> float:
        return WIDTH - _RIGHT

    def at(self, x: float, y: float) -> tuple[float, float]:
        across = self.left + self.x(x) * (self.right - self.left)
        return across, self.bottom - self.y(y) * (self.bottom - _TOP)


def _frame(chart: Plane) -> _Frame:
    marks = drawable(chart.marks, chart.x, chart.y)
    x = scale_of(chart.x, (value for m in marks for value in (m.x, m.low, m.high) if value is not None))
    y = scale_of(chart.y, (m.y for m in marks))
    if chart.n_rows is not None:
        x, y = Scale(chart.x, x.low - 0.4, x.high + 0.4), Scale(chart.y, chart.n_rows - 0.4, -0.6)
    x_ticks, y_ticks = x.ticks(5), () if chart.y.is_silent else y.ticks(5)
    n_letters = max((_LETTERS_AT_LEFT, *(len(tick.text) for tick in y_ticks))) if y_ticks else 0
    left = 12.0 + n_letters * LETTER_WIDTH + (14.0 if chart.y.label else 0.0)
    widest = max((len(tick.text) for tick in x_ticks), default=0) * LETTER_WIDTH
    is_turned = bool(chart.x.names) and widest > (WIDTH - _RIGHT - left) / max(len(x_ticks), 1)
    height = _HEIGHT if chart.n_rows is None else chart.n_rows * _ROW_HEIGHT + _BOTTOM + _TOP
    return _Frame(x, y, x_ticks, y_ticks, left, height + (_BOTTOM_TURNED - _BOTTOM) * is_turned, is_turned)


def _beside(frame: _Frame) -> list[str]:
    """Return the axis y."""
    found = []
    for tick in frame.y_ticks:
        _, at = frame.at(frame.x.low, tick.value)
        found.append(line(frame.left, at, frame.right, at, "grid"))
        found.append(words(frame.left - 6, at + 4, tick.text, "end"))
    middle = (_TOP + frame.bottom) / 2
    turned = {"transform": f"rotate(-90 12 {middle:.1f})"}
    return [*found, words(12, middle, frame.y.axis.label, "middle", **turned)]


def _below(frame: _Frame) -> list[str]:
    """Return the axis x; of very many names every second, third, ..."""
    found = []
    every = -(-len(frame.x_ticks) * 14 // int(WIDTH - frame.left))
    for tick in frame.x_ticks[::every]:
        across, _ = frame.at(tick.value, frame.y.low)
        found.append(line(across, _TOP, across, frame.bottom, "grid"))
        if frame.is_turned:
            turned = {"transform": f"rotate(-35 {across:.1f} {frame.bottom + 12:.1f})"}
            found.append(words(across + 3, frame.bottom + 13, beginning(tick.text, _N_OF_NAME), "end", **turned))
        else:
            found.append(words(across, frame.bottom + 15, tick.text, "middle"))
    found.append(line(frame.left, frame.bottom, frame.right, frame.bottom, "axis"))
    return [*found, words((frame.left + frame.right) / 2, frame.height - 8, frame.x.axis.label, "middle")]


def _series(frame: _Frame, series: Series, chart: Plane) -> str:
    marks = drawable(series.marks, chart.x, chart.y)
    found = []
    if series.is_joined and len(marks) > 1:
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in (frame.at(m.x, m.y) for m in marks))
        found.append(tag("polyline", points=points, klass=f"line {series.colour}"))
    shown = (_mark(frame, mark, series.colour, series.shape) for mark in marks if series.shape != "none")
    return "".join([*found, *shown])


def _mark(frame: _Frame, mark: Mark, colour: Colour, shape: Shape) -> str:
    x, y = frame.at(mark.x, mark.y)
    drawn = _SHAPES[shape](x, y, 8.0 if mark.letter else 5.0)
    whisker = ""
    if mark.low is not None and mark.high is not None:
        (low, _), (high, _) = frame.at(mark.low, mark.y), frame.at(mark.high, mark.y)
        whisker = line(low, y, high, y, "whisker")
    letter = words(x, y + 4, mark.letter, "middle", klass="letter") if mark.letter else ""
    hit = tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r="10", klass="hit")
    return valued(mark.tip, f"mark {shape} {colour}", hit + whisker + drawn + letter)


def _circle(x: float, y: float, r: float) -> str:
    return tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=f"{r:g}", klass="shape")


def _ring(x: float, y: float, r: float) -> str:
    return _circle(x, y, r + 4)


def _cross(x: float, y: float, r: float) -> str:
    return _path(f"M{x - r:.1f} {y - r:.1f}L{x + r:.1f} {y + r:.1f}M{x - r:.1f} {y + r:.1f}L{x + r:.1f} {y - r:.1f}")


def _square(x: float, y: float, r: float) -> str:
    return _path(f"M{x - r:.1f} {y - r:.1f}h{2 * r:g}v{2 * r:g}h{-2 * r:g}z")


def _triangle(x: float, y: float, r: float) -> str:
    return _path(f"M{x:.1f} {y - r - 1:.1f}l{r + 1:g} {2 * r:g}h{-2 * r - 2:g}z")


def _path(d: str) -> str:
    return tag("path", d=d, klass="shape")


_SHAPES = {
    "dot": _circle,
    "hollow": _circle,
    "ring": _ring,
    "cross": _cross,
    "square": _square,
    "triangle": _triangle,
    "none": _circle,
}


def _branch(frame: _Frame, points: Sequence[tuple[float, float]], is_strong: bool) -> str:
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in (frame.at(*point) for point in points))
    return tag("polyline", points=places, klass="branch strong" if is_strong else "branch")
