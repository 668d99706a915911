"""Charts as one matplotlib figure below each other, for notebooks and picture files."""

from collections.abc import Sequence
from typing import Any

from nacdeploy.reports.charts.chart import Bar, Bars, Chart, Colour, Plane, Series, drawable, is_drawable
from nacdeploy.reports.charts.scales import Scale, scale_of

WIDTH_INCHES = 5.2
_HEIGHT_INCHES, _ROW_INCHES = 3.4, 0.24
_COLOURS: dict[Colour, str] = {name: f"tab:{name}" for name in ("blue", "orange", "green", "red", "purple", "pink")} | {
    "grey": "darkgrey"
}
# A legend above a picture covers nothing of it.
_ABOVE: dict[str, Any] = {"fontsize": 7, "loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": 4, "frameon": False}
_MARKERS = {"dot": "o", "hollow": "o", "ring": "o", "cross": "x", "square": "s", "triangle": "^", "none": ""}


def figure_of(charts: Sequence[Chart]) -> Any:
    """Return the figure of charts, the first one on top."""
    from matplotlib.figure import Figure

    heights = [_height(chart) for chart in charts]
    figure = Figure(figsize=(WIDTH_INCHES, sum(heights)), layout="constrained")
    frames = figure.subplots(len(charts), squeeze=False, height_ratios=heights)[:, 0]
    for axes, chart in zip(frames, charts, strict=True):
        axes.grid(alpha=0.3)
        _plane(axes, chart) if isinstance(chart, Plane) else _bars(axes, chart)
    return figure


def _height(chart: Chart) -> float:
    if isinstance(chart, Bars):
        return len(chart.rows) * _ROW_INCHES + 1.2
    return _HEIGHT_INCHES if chart.n_rows is None else chart.n_rows * _ROW_INCHES * 0.8 + 1.4


def _plane(axes: Any, chart: Plane) -> None:
    for branch in chart.branches:
        x, y = zip(*branch.points, strict=True)
        colour, width = ("tab:red", 1.6) if branch.is_strong else ("lightgrey", 0.8)
        axes.plot(x, y, color=colour, linewidth=width, zorder=1)
    for series in chart.series:
        _series(axes, series, chart)
    marks = drawable(chart.marks, chart.x, chart.y)
    _axis(axes.xaxis, axes.set_xscale, scale_of(chart.x, (m.x for m in marks)))
    _axis(axes.yaxis, axes.set_yscale, scale_of(chart.y, (m.y for m in marks)))
    if chart.n_rows is not None:
        axes.set_ylim(chart.n_rows - 0.3, -0.7)
    if len([series for series in chart.series if series.name and series.marks]) > 1:
        axes.legend(**_ABOVE)


def _series(axes: Any, series: Series, chart: Plane) -> None:
    marks = drawable(series.marks, chart.x, chart.y)
    x, y, colour = [m.x for m in marks], [m.y for m in marks], _COLOURS[series.colour]
    if series.is_joined:
        axes.plot(x, y, color=colour, linewidth=1, label=None if series.shape != "none" else series.name or None)
    for mark in marks:
        if mark.low is not None and mark.high is not None:
            axes.hlines(mark.y, mark.low, mark.high, color=colour, linewidth=1)
    if not marks or series.shape == "none":
        return
    size = 110 if series.shape == "ring" else 80 if any(m.letter for m in marks) else 22
    is_open = series.shape in ("hollow", "ring")
    face = {"facecolors": "white" if series.shape == "hollow" else "none", "edgecolors": colour}
    marker, face = _MARKERS[series.shape], face if is_open else {"c": colour}
    axes.scatter(x, y, s=size, marker=marker, label=series.name or None, zorder=2, **face)
    for mark in marks:
        colour = "black" if series.shape == "hollow" else "white"
        axes.annotate(
            mark.letter, (mark.x, mark.y), ha="center", va="center", fontsize=6, color=colour, zorder=3, clip_on=True
        )


def _axis(axis: Any, set_scale: Any, scale: Scale) -> None:
    told = scale.axis
    axis.axes.set(**{f"{axis.axis_name}label": told.label})
    if told.is_silent:
        axis.set_ticks([])
    elif told.names:
        turned = 45 if any(len(name) > 4 for name in told.names) else 0
        axis.set_ticks(range(len(told.names)), told.names, rotation=turned)
    elif told.is_log:
        set_scale("log")
        ticks = scale.ticks(5)
        axis.set_ticks([tick.value for tick in ticks], [tick.text for tick in ticks])
        axis.set_ticks([], minor=True)


def _bars(axes: Any, chart: Bars) -> None:
    for at, row in enumerate(chart.rows):
        for bar in filter(lambda bar: is_drawable(bar.end), row.bars):
            _bar(axes, at, bar)
        axes.annotate(row.note, (0, at), xytext=(3, 0), textcoords="offset points", va="center", fontsize=7)
    axes.set_yticks(range(len(chart.rows)), [row.label for row in chart.rows], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel(chart.axis.label)
    for name, colour in chart.legend:
        axes.barh([0], [0], color=_COLOURS[colour], alpha=0.6, label=name)
    if chart.legend:
        axes.legend(**_ABOVE)


def _bar(axes: Any, at: int, bar: Bar) -> None:
    height, alpha = (0.5, 0.7) if bar.is_thin else (0.8, 0.5)
    axes.barh([at], [bar.end - bar.start], left=bar.start, color=_COLOURS[bar.colour], height=height, alpha=alpha)
    if bar.limit is not None and is_drawable(bar.limit):
        axes.hlines(at, bar.end, bar.limit, color="black", linewidth=1)
