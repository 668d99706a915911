"""The pictures of a search: what is drawn of which chain, and what a mark says of it."""

import pytest

from nacdeploy.reports.charts.chart import Bars, Mark, Plane, Series
from nacdeploy.reports.figures import Panel
from nacdeploy.reports.fronts import speed_words
from nacdeploy.reports.layers import LayerChange
from nacdeploy.reports.layers_panel import layers_panel
from nacdeploy.reports.search_panels import search_panels
from nacdeploy.strategies.search.journal import Evaluation
from nacdeploy.strategies.search.objective import BudgetObjective, Figures
from nacdeploy.strategies.search.search_result import SearchResult, result_of


def evaluation(chain: str, accuracy: float, ratio: float, *speed: float) -> Evaluation:
    value, low, high = speed or (None, None, None)
    figures = Figures(accuracy, 0.9, ratio, ratio, ratio, ratio, ratio, value, low, high)
    return Evaluation(chain, chain, figures)


@pytest.fixture
def timed() -> SearchResult:
    rows = (
        evaluation("", 0.9, 1.0, 1.0, 1.0, 1.0),
        evaluation("P", 0.89, 1.2, 1.4, 1.3, 1.5),
        evaluation("Q", 0.88, 16.0, 1.1, 1.0, 1.2),
        evaluation("PQ", 0.87, 20.0, 1.2, 1.1, 1.3),
    )
    return result_of(rows, BudgetObjective(5.0, "speed"))


def panel(found: SearchResult, name: str) -> Panel:
    return next(each for each in search_panels(found, found.best) if each.name == name)


def series(drawn: Panel, name: str) -> Series:
    chart = drawn.charts[0]
    assert isinstance(chart, Plane)
    return next(each for each in chart.series if each.name == name)


def points(marks: tuple[Mark, ...]) -> list[tuple[float, float]]:
    return [(mark.x, round(mark.y, 6)) for mark in marks]


def test_front_joins_what_no_other_beats_on_its_two_axes(timed: SearchResult) -> None:
    assert points(series(panel(timed, "front"), "front").marks) == [
        (20.0, 87.0),
        (16.0, 88.0),
        (1.2, 89.0),
        (1.0, 90.0),
    ]
    assert points(series(panel(timed, "front-speed"), "front").marks) == [(1.4, 89.0), (1.0, 90.0)]


def test_measured_speeds_have_their_intervals_and_others_none(timed: SearchResult) -> None:
    marks = {mark.tip.split("\n")[0]: mark for mark in series(panel(timed, "front-speed"), "not trained").marks}
    assert (marks["P"].low, marks["P"].high) == (1.3, 1.5)
    assert "speed 1.40x (1.30-1.50)" in marks["P"].tip
    assert all(mark.low is None for mark in series(panel(timed, "front"), "not trained").marks)


def test_search_that_timed_nothing_has_no_front_by_speed() -> None:
    found = result_of((evaluation("", 0.9, 1.0), evaluation("P", 0.9, 1.2)), BudgetObjective(1.0, "bitops"))
    assert "front-speed" not in {each.name for each in search_panels(found, found.best)}


def test_ring_says_whether_a_chain_is_best_or_only_nearest(timed: SearchResult) -> None:
    assert series(panel(timed, "front"), "best: P").marks[0].x == 1.2
    none = result_of(timed.evaluations, BudgetObjective(0.5, "speed"))
    drawn = next(each for each in search_panels(none, none.nearest) if each.name == "front")
    assert series(drawn, "nearest: P").marks


@pytest.mark.parametrize(
    ("speed", "words"), [((), ""), ((1.4, None, None), "1.40x"), ((1.4, 1.3, 1.5), "1.40x (1.30-1.50)")]
)
def test_speed_is_said_with_its_interval(speed: tuple[float, ...], words: str) -> None:
    figures = evaluation("P", 0.9, 1.0, *speed).figures
    assert figures is not None and speed_words(figures) == words


def test_layers_stand_before_and_after() -> None:
    chart = layers_panel([LayerChange("a", 2_000_000, 500_000, 8, "8-8 to 4-4 w8a8")]).charts[0]
    assert isinstance(chart, Bars)
    before, after = chart.rows[0].bars
    assert (before.end, after.end) == (2.0, 0.5)
    assert chart.legend == (("baseline", "grey"), ("8-bit weights", "green"))
