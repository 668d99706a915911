"""Charts as SVG in a page: colours are its variables, texts its own, and every mark says its value.

A mark holds its value as `<title>`, which browsers show without a script, and as its name for readers aloud; the page's
script moves through the marks of a chart by keys.
"""

from collections.abc import Sequence
from functools import partial

from nacdeploy.base.html import tag
from nacdeploy.reports.charts.chart import Bar, Bars, Chart, Colour, Mark, Plane, Row, Series, Shape, drawable
from nacdeploy.reports.charts.scales import Scale, Tick, scale_of

WIDTH = 420.0
_HEIGHT, _ROW_HEIGHT = 250.0, 26.0
_TOP, _RIGHT, _BOTTOM = 10.0, 12.0, 42.0
_LETTER_WIDTH = 7.0  # of a text of 12 units, about
_BAR_ROW, _BAR_TOP, _BAR_HEIGHT, _THIN = 34.0, 17.0, 11.0, 5.0
_N_LETTERS = 30  # of a label above its bar
_N_LETTERS_ON_AXIS = 9
_LETTERS_AT_LEFT = 4  # at least, so that charts below each other stand in line


def svg(chart: Chart, title: str) -> str:
    """Return a chart as an SVG element of the page's width."""
    return _plane(chart, title) if isinstance(chart, Plane) else _bars(chart, title)


def legend(chart: Chart) -> tuple[tuple[str, Colour, Shape], ...]:
    """Return what colours and shapes mean, in the chart's order; nothing where one kind stands alone."""
    if isinstance(chart, Bars):
        return tuple((name, colour, "square") for name, colour in chart.legend)
    found = tuple((each.name, each.colour, each.shape) for each in chart.series if each.name and each.marks)
    return found if len(found) > 1 else ()


def _plane(chart: Plane, title: str) -> str:
    marks = drawable(chart.marks, chart.x, chart.y)
    x = scale_of(chart.x, (value for m in marks for value in (m.x, m.low, m.high) if value is not None))
    y = scale_of(chart.y, (m.y for m in marks))
    if chart.n_rows is not None:
        x, y = Scale(chart.x, x.low - 0.4, x.high + 0.4), Scale(chart.y, chart.n_rows - 0.4, -0.6)
    frame = _Frame(x, y, _HEIGHT if chart.n_rows is None else chart.n_rows * _ROW_HEIGHT + _BOTTOM + _TOP)
    lines = [_branch(frame, branch.points, branch.is_strong) for branch in chart.branches]
    shown = [_series(frame, each, chart) for each in chart.series]
    return _root(frame.height, title, [_axes(frame), *lines, *shown])


class _Frame:
    """The places of a plane in units of the picture."""

    def __init__(self, x: Scale, y: Scale, height: float) -> None:
        self.x, self.y, self.height = x, y, height
        self.x_ticks, self.y_ticks = x.ticks(5), () if y.axis.is_silent else y.ticks(5)
        widest = max((len(tick.text) for tick in self.y_ticks), default=0)
        self.left = (
            12.0
            + max(widest, _LETTERS_AT_LEFT if self.y_ticks else 0) * _LETTER_WIDTH
            + (14.0 if y.axis.label else 0.0)
        )

    @property
    def bottom(self) -> float:
        return self.height - _BOTTOM

    def at(self, x: float, y: float) -> tuple[float, float]:
        across = self.left + self.x(x) * (WIDTH - _RIGHT - self.left)
        return across, self.bottom - self.y(y) * (self.bottom - _TOP)


def _axes(frame: _Frame) -> str:
    found = []
    for tick in frame.y_ticks:
        _, at = frame.at(frame.x.low, tick.value)
        found.append(_line(frame.left, at, WIDTH - _RIGHT, at, "grid"))
        found.append(_text(frame.left - 6, at + 4, tick.text, "end"))
    if frame.y.axis.label and not frame.y.axis.is_silent:
        middle = (_TOP + frame.bottom) / 2
        turned = {"transform": f"rotate(-90 12 {middle:.1f})"}
        found.append(tag("text", frame.y.axis.label, x="12", y=f"{middle:.1f}", text_anchor="middle", **turned))
    return "".join([*found, *_below(frame)])


def _below(frame: _Frame) -> list[str]:
    """Return the axis x. Names too long to stand beside each other are turned."""
    ticks: Sequence[Tick] = frame.x_ticks
    room = (WIDTH - _RIGHT - frame.left) / max(len(ticks), 1)
    is_tight = max((len(t.text) for t in ticks), default=0) * _LETTER_WIDTH > room
    every = 1 if not is_tight or len(ticks) < 2 else -(-len(ticks) * 14 // int(WIDTH - frame.left))
    found = []
    for tick in ticks[::every]:
        across, _ = frame.at(tick.value, frame.y.low)
        found.append(_line(across, _TOP, across, frame.bottom, "grid"))
        if is_tight and frame.x.axis.names:
            turned = f"rotate(-35 {across:.1f} {frame.bottom + 12:.1f})"
            text = _shortened(tick.text, _N_LETTERS_ON_AXIS)
            found.append(_text(across + 3, frame.bottom + 13, text, "end", transform=turned))
        else:
            found.append(_text(across, frame.bottom + 15, tick.text, "middle"))
    found.append(_line(frame.left, frame.bottom, WIDTH - _RIGHT, frame.bottom, "axis"))
    middle = (frame.left + WIDTH - _RIGHT) / 2
    return [*found, _text(middle, frame.height - 8, frame.x.axis.label, "middle")]


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
        whisker = _line(low, y, high, y, "whisker")
    letter = _text(x, y + 4, mark.letter, "middle", klass="letter") if mark.letter else ""
    hit = tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r="10", klass="hit")
    return _named(mark.tip, f"mark {shape} {colour}", hit + whisker + drawn + letter)


def _named(tip: str, klass: str, content: str) -> str:
    """Return a group that says its value; one without a value is part of the picture alone."""
    if not tip:
        return tag("g", raw=content, klass=klass)
    return tag("g", raw=tag("title", tip) + content, klass=klass, role="img", aria_label=tip, data_tip=tip)


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


def _bars(chart: Bars, title: str) -> str:
    scale = scale_of(chart.axis, [chart.end], from_zero=True)
    height = len(chart.rows) * _BAR_ROW + _BOTTOM
    place = partial(_across, scale)
    found = []
    for tick in scale.ticks(5):
        found.append(_line(place(tick.value), 4, place(tick.value), height - _BOTTOM + 4, "grid"))
        anchor = "middle" if tick.value else "start"
        found.append(_text(place(tick.value), height - _BOTTOM + 18, tick.text, anchor))
    found.append(_text(WIDTH / 2, height - 8, chart.axis.label, "middle"))
    found += [_bar_row(scale, row, at * _BAR_ROW) for at, row in enumerate(chart.rows)]
    return _root(height, title, found)


def _across(scale: Scale, value: float) -> float:
    return 10 + scale(value) * (WIDTH - 22)


def _bar_row(scale: Scale, row: Row, top: float) -> str:
    room = max(0, int((WIDTH - 20) / _LETTER_WIDTH) - min(len(row.label), _N_LETTERS) - 2)
    texts = [_text(10, top + 12, _shortened(row.label, _N_LETTERS), "start", klass="name")]
    texts.append(_text(WIDTH - 12, top + 12, _shortened(row.note, room), "end"))
    return "".join([*texts, *(_bar(scale, bar, top + _BAR_TOP) for bar in row.bars)])


def _bar(scale: Scale, bar: Bar, top: float) -> str:
    thickness = _THIN if bar.is_thin else _BAR_HEIGHT
    start, end = _across(scale, bar.start), _across(scale, bar.end)
    shape = tag(
        "rect",
        x=f"{start:.1f}",
        y=f"{top + (_BAR_HEIGHT - thickness) / 2:.1f}",
        width=f"{max(end - start, 1.0):.1f}",
        height=f"{thickness:g}",
        klass="shape",
    )
    limit = "" if bar.limit is None else _line(end, top + 5.5, _across(scale, bar.limit), top + 5.5, "whisker")
    return _named(bar.tip, f"mark bar {bar.colour}", shape + limit)


def _root(height: float, title: str, parts: Sequence[str]) -> str:
    box = f"0 0 {WIDTH:g} {height:g}"
    return tag("svg", raw="".join(parts), viewBox=box, role="group", aria_label=title, klass="chart")


def _line(x1: float, y1: float, x2: float, y2: float, klass: str) -> str:
    return tag("line", x1=f"{x1:.1f}", y1=f"{y1:.1f}", x2=f"{x2:.1f}", y2=f"{y2:.1f}", klass=klass)


def _text(x: float, y: float, text: str, anchor: str, **more: str) -> str:
    return tag("text", text, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor, **more) if text else ""


def _shortened(text: str, n: int) -> str:
    """Return a text that fits; of a long one the end, which tells layers of one network apart."""
    if len(text) <= n:
        return text
    return f"…{text[len(text) - n + 1 :]}" if n > 1 else ""
