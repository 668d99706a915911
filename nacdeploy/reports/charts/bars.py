"""Bars as SVG: the name of a row above its bars, so that both have the width of a phone."""

from functools import partial
from itertools import takewhile

from nacdeploy.base.html import tag
from nacdeploy.reports.charts.chart import Bar, Bars, Row, is_drawable
from nacdeploy.reports.charts.elements import LETTER_WIDTH, WIDTH, ending, line, root, valued, words
from nacdeploy.reports.charts.scales import Scale, scale_of

_ROW, _TOP, _HEIGHT, _THIN = 34.0, 17.0, 11.0, 5.0
_BOTTOM = 42.0
_LEFT, _RIGHT = 10.0, 12.0
_N_LETTERS = int((WIDTH - _LEFT - _RIGHT) / LETTER_WIDTH)
_N_OF_NAME = 42  # at most: the note beside it keeps its end


def bars_svg(chart: Bars, title: str) -> str:
    """Return bars as an SVG element."""
    scale = scale_of(chart.axis, [chart.end], from_zero=True)
    height = len(chart.rows) * _ROW + _BOTTOM
    place = partial(_across, scale)
    found = []
    for tick in scale.ticks(5):
        found.append(line(place(tick.value), 4, place(tick.value), height - _BOTTOM + 4, "grid"))
        anchor = "middle" if tick.value else "start"
        found.append(words(place(tick.value), height - _BOTTOM + 18, tick.text, anchor))
    found.append(words(WIDTH / 2, height - 8, chart.axis.label, "middle"))
    names = _names([row.label for row in chart.rows])
    found += [_row(scale, row, name, at * _ROW) for at, (row, name) in enumerate(zip(chart.rows, names, strict=True))]
    return root(height, title, found)


def _names(labels: list[str]) -> list[str]:
    """Return names that fit; where one is too long, without the modules that all have in front."""
    if max(map(len, labels), default=0) > _N_OF_NAME:
        parts = [label.split(".") for label in labels]
        columns = zip(*(each[:-1] for each in parts), strict=False)
        n_shared = len([*takewhile(lambda column: len({*column}) == 1, columns)])
        labels = [".".join(each[n_shared:]) for each in parts]
    return [ending(label, _N_OF_NAME) for label in labels]


def _across(scale: Scale, value: float) -> float:
    return _LEFT + scale(value) * (WIDTH - _LEFT - _RIGHT)


def _row(scale: Scale, row: Row, name: str, top: float) -> str:
    note = ending(row.note, max(0, _N_LETTERS - len(name) - 2))
    texts = [words(_LEFT, top + 12, name, "start", klass="name"), words(WIDTH - _RIGHT, top + 12, note, "end")]
    return "".join([*texts, *(_bar(scale, bar, top + _TOP) for bar in row.bars if is_drawable(bar.end))])


def _bar(scale: Scale, bar: Bar, top: float) -> str:
    thickness = _THIN if bar.is_thin else _HEIGHT
    start, end = _across(scale, bar.start), _across(scale, bar.end)
    shape = tag(
        "rect",
        x=f"{start:.1f}",
        y=f"{top + (_HEIGHT - thickness) / 2:.1f}",
        width=f"{max(end - start, 1.0):.1f}",
        height=f"{thickness:g}",
        klass="shape",
    )
    middle = top + _HEIGHT / 2
    is_limited = bar.limit is not None and is_drawable(bar.limit)
    limit = (
        "" if bar.limit is None or not is_limited else line(end, middle, _across(scale, bar.limit), middle, "whisker")
    )
    return valued(bar.tip, f"mark bar {bar.colour}", shape + limit)
