"""Charts as SVG: each mark once with its value, within the picture; nothing of what cannot be drawn."""

import math
import xml.etree.ElementTree as ElementTree

import pytest

from nacdeploy.reports.charts.chart import Axis, Bar, Bars, Chart, Mark, Plane, Row, Series
from nacdeploy.reports.charts.elements import WIDTH
from nacdeploy.reports.charts.svg import legend, svg


def plane(*marks: Mark, is_log: bool = False, names: tuple[str, ...] = ()) -> Plane:
    return Plane(Axis("x", is_log, names), Axis("y"), (Series("a", "blue", marks, is_joined=True),))


def parsed(chart: Chart) -> ElementTree.Element:
    return ElementTree.fromstring(svg(chart, "a <chart>"))


def tips(root: ElementTree.Element) -> list[str]:
    return [each.attrib["data-tip"] for each in root.iter() if "data-tip" in each.attrib]


def test_each_mark_says_its_value_to_eyes_and_ears() -> None:
    root = parsed(plane(Mark(1, 2, "one\n<2>"), Mark(3, 4, "other")))
    assert tips(root) == ["one\n<2>", "other"]
    assert [each.text for each in root.iter("title")] == tips(root)
    assert [each.attrib["aria-label"] for each in root.iter() if "data-tip" in each.attrib] == tips(root)
    assert root.attrib["aria-label"] == "a <chart>"


def test_points_stand_where_their_values_are() -> None:
    root = parsed(plane(Mark(1, 10, "a"), Mark(2, 20, "b"), Mark(3, 20, "c")))
    hits = [each for each in root.iter("circle") if each.attrib["class"] == "hit"]
    x, y = [float(each.attrib["cx"]) for each in hits], [float(each.attrib["cy"]) for each in hits]
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.2)
    assert y[1] == y[2] < y[0]  # up is more


@pytest.mark.parametrize("names", [(), ("FP32", "P(ratio=0.25)", "Q" * 40)])
@pytest.mark.parametrize("is_log", [False, True])
def test_everything_lies_within_the_picture(is_log: bool, names: tuple[str, ...]) -> None:
    chart = plane(Mark(1, -5, "a", low=0.5, high=2.0), Mark(2, 1e6, "b"), is_log=is_log, names=names)
    root = parsed(chart)
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    places = [(each, key) for each in root.iter() for key in ("cx", "x", "x1", "x2") if key in each.attrib]
    assert all(0 <= float(each.attrib[key]) <= width == WIDTH for each, key in places)
    heights = [(each, key) for each in root.iter() for key in ("cy", "y", "y1", "y2") if key in each.attrib]
    assert all(0 <= float(each.attrib[key]) <= height for each, key in heights)


@pytest.mark.parametrize("x", [math.nan, math.inf, 0.0, -1.0, 1e308, 1e-320])
def test_value_that_has_no_place_is_left_out(x: float) -> None:
    root = parsed(plane(Mark(x, 1, "nowhere"), Mark(2, 1, "there"), is_log=True))
    assert tips(root) == ["there"]


@pytest.mark.parametrize("values", [(1e-320, 2e-320), (1e14, 1e14 + 1), (0.0, 0.0), (-5e14, 5e14), (1.0, 1.0 + 1e-15)])
def test_values_of_any_size_are_drawn(values: tuple[float, float]) -> None:
    assert len(tips(parsed(plane(*(Mark(each, each, "a") for each in values))))) == 2


@pytest.mark.parametrize("end", [math.inf, math.nan, 1e308, 1e-320, 0.0, -1.0])
def test_bar_of_any_length_leaves_the_others_in_place(end: float) -> None:
    rows = (Row("odd", (Bar(end, "blue", "odd", limit=end),)), Row("even", (Bar(5.0, "blue", "even"),)))
    root = parsed(Bars(Axis("ms"), rows))
    assert "even" in tips(root) and {"odd", "even"} <= {each.text for each in root.iter("text")}
    assert max(float(each.attrib["width"]) for each in root.iter("rect")) > WIDTH / 2


def test_chart_without_marks_is_drawn() -> None:
    assert parsed(plane()).tag == "svg"
    assert parsed(Bars(Axis("ms"), ())).tag == "svg"


def test_bars_are_as_long_as_their_values() -> None:
    rows = (Row("a", (Bar(10.0, "grey", "ten", limit=12.0),)), Row("b", (Bar(5.0, "blue", "five"),), "half"))
    root = parsed(Bars(Axis("ms"), rows))
    long, short = [float(each.attrib["width"]) for each in root.iter("rect")]
    assert long == pytest.approx(2 * short, abs=0.2)
    assert {"a", "b", "half", "ms"} <= {each.text for each in root.iter("text")}


def test_long_names_keep_what_tells_them_apart() -> None:
    names = [f"encoder.layers.encoder_layer_{at}.self_attention.output_projection" for at in range(12)]
    rows = tuple(Row(name, (Bar(1.0, "blue", name),), "768-3072 to 768-1024 w8a8") for name in names)
    texts = [each.text or "" for each in parsed(Bars(Axis("ms"), rows)).iter("text") if each.get("class") == "name"]
    assert len({*texts}) == len(names) and max(map(len, texts)) <= 42


def test_names_on_an_axis_keep_their_beginning() -> None:
    steps = ("FP32", "P(ratio=0.25,importance=answers)", "Q(min_snr_db=30)")
    chart = plane(*(Mark(at, at, "a") for at in range(3)), names=steps)
    texts = [each.text or "" for each in parsed(chart).iter("text")]
    assert [text for text in texts if text.startswith(("F", "P", "Q"))] == ["FP32", "P(ratio=…", "Q(min_sn…"]


def test_legend_names_kinds_where_there_are_several() -> None:
    one = Series("a", "blue", (Mark(1, 1),))
    assert legend(Plane(Axis(), Axis(), (one, Series("b", "red", ())))) == ()
    both = legend(Plane(Axis(), Axis(), (one, Series("b", "red", (Mark(1, 1),), "ring"))))
    assert both == (("a", "blue", "dot"), ("b", "red", "ring"))
