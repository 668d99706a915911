"""Scales: every value has its place within the range, and the numbers on an axis are round."""

import math

from hypothesis import given
from hypothesis import strategies as st

from nacdeploy.reports.charts.chart import Axis
from nacdeploy.reports.charts.scales import scale_of

values = st.lists(st.floats(min_value=1e-6, max_value=1e12), min_size=1, max_size=8)


@given(values, st.booleans())
def test_values_lie_within_the_range_and_ticks_beside_them(found: list[float], is_log: bool) -> None:
    scale = scale_of(Axis(is_log=is_log), found)
    assert all(-1e-9 <= scale(value) <= 1 + 1e-9 for value in found)
    ticks = scale.ticks(5)
    assert len(ticks) <= 12
    assert all(-1e-6 <= scale(tick.value) <= 1 + 1e-6 for tick in ticks)
    assert len({tick.text for tick in ticks}) == len(ticks) or max(found) / min(found) < 1 + 1e-9


@given(values)
def test_order_of_values_is_that_of_their_places(found: list[float]) -> None:
    scale = scale_of(Axis(), found, from_zero=True)
    assert [scale(value) for value in sorted(found)] == sorted(scale(value) for value in found)
    assert scale(0.0) == 0.0


def test_ticks_are_round() -> None:
    assert [tick.text for tick in scale_of(Axis(), [0.0, 100.0]).ticks(5)] == ["0", "25", "50", "75", "100"]
    assert [tick.text for tick in scale_of(Axis(is_log=True), [1.0, 16.0]).ticks(5)] == ["1", "2", "5", "10"]
    assert [tick.text for tick in scale_of(Axis(is_log=True), [0.95, 1.05]).ticks(5)][:2] == ["0.950", "0.975"]


def test_single_value_stands_in_the_middle() -> None:
    assert math.isclose(scale_of(Axis(), [0.05])(0.05), 0.5)
    assert scale_of(Axis(), [0.05]).low > 0
    assert math.isclose(scale_of(Axis(is_log=True), [3.0])(3.0), 0.5)


def test_names_stand_in_place_of_numbers() -> None:
    scale = scale_of(Axis(names=("FP32", "P")), [0.0, 1.0])
    assert [(tick.value, tick.text) for tick in scale.ticks(5)] == [(0.0, "FP32"), (1.0, "P")]
    assert [scale(0.0), scale(1.0)] == [0.25, 0.75]
