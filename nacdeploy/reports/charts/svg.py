"""Charts as SVG in a page: colours are its variables, texts its own, and every mark says its value.

A mark holds its value as `<title>`, which browsers show without a script, and as its name for readers aloud; the page's
script moves through the marks of a chart by keys.
"""

from nacdeploy.reports.charts.bars import bars_svg
from nacdeploy.reports.charts.chart import Bars, Chart, Colour, Plane, Shape
from nacdeploy.reports.charts.plane import plane_svg


def svg(chart: Chart, title: str) -> str:
    """Return a chart as an SVG element of the page's width."""
    return plane_svg(chart, title) if isinstance(chart, Plane) else bars_svg(chart, title)


def legend(chart: Chart) -> tuple[tuple[str, Colour, Shape], ...]:
    """Return what colours and shapes mean, in the chart's order; nothing where one kind stands alone."""
    if isinstance(chart, Bars):
        return tuple((name, colour, "square") for name, colour in chart.legend)
    found = tuple((each.name, each.colour, each.shape) for each in chart.series if each.name and each.marks)
    return found if len(found) > 1 else ()
