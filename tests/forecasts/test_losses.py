"""The law from what a rehearsal loses to what a run loses, and its limits."""

import pytest

from nacdeploy.forecasts.losses import Rehearsal, Source, in_the_end, to_come
from nacdeploy.forecasts.ranges import around


def width(rehearsed: float, n_images: int) -> float:
    told = to_come(Rehearsal(rehearsed), n_images, None)
    return told.high - told.low


def test_more_lost_in_rehearsal_is_more_lost_in_the_end_and_less_than_in_rehearsal() -> None:
    told = [to_come(Rehearsal(rehearsed), 2000, None).value for rehearsed in (-1.0, 0.0, 1.0, 5.0, 30.0)]
    assert told == sorted(told)
    assert told[1] == 0.0
    assert all(value < rehearsed for value, rehearsed in zip(told[2:], (1.0, 5.0, 30.0), strict=True))


@pytest.mark.parametrize(("lost", "direction"), [(0.0, -1), (9.0, 1)])
@pytest.mark.parametrize("there", [None, Rehearsal(6.0)])
def test_source_moves_the_forecast_towards_what_was_lost_there(
    lost: float, direction: int, there: Rehearsal | None
) -> None:
    without, known = (to_come(Rehearsal(6.0), 2000, source) for source in (None, Source(lost, there)))
    assert (known.value - without.value) * direction > 0
    assert known.high - known.low == pytest.approx(without.high - without.low, abs=0.02)


def test_source_that_followed_the_law_moves_nothing() -> None:
    source = Source(in_the_end(Rehearsal(20.0)), Rehearsal(20.0))
    assert to_come(Rehearsal(6.0), 2000, source) == to_come(Rehearsal(6.0), 2000, None)


def test_absurd_source_moves_the_forecast_by_little() -> None:
    assert to_come(Rehearsal(6.0), 2000, Source(1e9)).value < 10


def test_limits_are_wider_for_larger_drops_and_for_fewer_images() -> None:
    assert width(2.0, 2000) < width(20.0, 2000)
    assert width(2.0, 2000) < width(2.0, 100)


def test_range_holds_its_own_limits_whatever_rounding_does() -> None:
    told = around(0.1 + 0.2, 0.0)
    assert told.holds(0.3)
    assert not told.holds(0.3001)


def test_small_gain_is_luck_and_a_large_one_stays() -> None:
    assert -0.2 < in_the_end(Rehearsal(-0.5)) < 0
    assert in_the_end(Rehearsal(-10.0)) < -9
    assert width(-10.0, 2000) > width(-0.5, 2000)


def test_whole_rehearsal_is_the_run_itself() -> None:
    assert in_the_end(Rehearsal(6.0, 1.0)) == 6.0
    assert in_the_end(Rehearsal(-2.0, 1.0)) == -2.0
    assert in_the_end(Rehearsal(6.0, 0.125)) < in_the_end(Rehearsal(6.0, 0.5)) < 6.0
