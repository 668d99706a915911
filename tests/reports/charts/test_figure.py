"""Charts as matplotlib figures: the same marks, whatever the chart holds."""

import io
import math

import pytest

from nacdeploy.reports.charts.chart import Axis, Bar, Bars, Branch, Chart, Mark, Plane, Row, Series
from nacdeploy.reports.charts.figure import figure_of

TREE = Plane(
    Axis("letters", names=("0", "1")),
    Axis(is_silent=True),
    (Series("new", "blue", (Mark(1, 0, letter="P"),)), Series("reused", "blue", (Mark(1, 1, letter="Q"),), "hollow")),
    (Branch(((0, 0), (0, 1), (1, 1)), is_strong=True),),
    n_rows=2,
)
FRONT = Plane(
    Axis("speed", is_log=True),
    Axis("accuracy"),
    (
        Series("front", "grey", (Mark(1, 90), Mark(2, 88)), "none", is_joined=True),
        Series("best", "red", (Mark(2, 88, low=1.8, high=2.2), Mark(math.nan, 88)), "ring"),
    ),
)
BARS = Bars(Axis("ms"), (Row("a", (Bar(2.0, "grey", "", limit=3.0), Bar(1.0, "blue", "", is_thin=True)), "note"),))


@pytest.mark.parametrize("charts", [(TREE,), (FRONT, BARS), (Plane(Axis(), Axis(), ()),), (Bars(Axis(), ()),)])
def test_every_kind_of_chart_becomes_a_picture(charts: tuple[Chart, ...]) -> None:
    figure, content = figure_of(charts), io.BytesIO()
    figure.savefig(content, format="png")
    assert content.getvalue().startswith(b"\x89PNG")
    assert len(figure.axes) == len(charts)


def test_axes_are_those_of_the_chart() -> None:
    above, below = figure_of((FRONT, BARS)).axes
    assert (above.get_xlabel(), above.get_xscale(), above.get_ylabel()) == ("speed", "log", "accuracy")
    assert [label.get_text() for label in above.get_legend().get_texts()] == ["front", "best"]
    assert [label.get_text() for label in below.get_yticklabels()] == ["a"]
