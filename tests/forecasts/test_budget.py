"""The factor on what letters take that holds a budget, with made-up forecasts."""

import pytest

from nacdeploy.base.errors import UsageError
from nacdeploy.forecasts.budget import Asked, Budget, factor_within
from nacdeploy.forecasts.forecast import Forecast
from nacdeploy.forecasts.ranges import Range, around


def told(factor: float) -> Forecast:
    """Twice as much taken is twice the drop and half the time."""
    drop = Range(2.0 * factor, factor, 3.0 * factor)
    return Forecast("P", around(1e6, 0), around(1e9, 0), around(8.0 / factor, 0.1), drop, None, (), 256, 0.125, 1.0)


def ms(factor: float) -> float | None:
    return None if factor > 10 else 8.0 / factor  # more cannot be taken


ASKED = Asked(told, ms)


def test_chain_that_holds_the_budget_stays() -> None:
    factor, forecast = factor_within(Budget(max_drop=2.0, target_ms=8.0), ASKED)
    assert (factor, forecast.drop.value) == (1.0, 2.0)


def test_drop_is_held_by_taking_less() -> None:
    factor, forecast = factor_within(Budget(max_drop=1.0), ASKED)
    assert 0.35 < factor <= 0.5
    assert forecast.drop.value <= 1.0


def test_time_is_held_by_taking_more_and_no_more_than_needed() -> None:
    factor, forecast = factor_within(Budget(target_ms=2.0), ASKED)
    assert 4.0 <= factor < 4.4
    assert forecast.latency_ms is not None
    assert forecast.latency_ms.value <= 2.0


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        (Budget(target_ms=0.5), "0.5 ms cannot be reached"),
        (Budget(max_drop=0.1), "0.12 points, where they take a sixteenth, to 2.00 points"),
        (Budget(max_drop=3.0, target_ms=2.0), "no parameters hold both: at 2 ms the drop would be 8"),
        (Budget(max_drop=1.0, target_ms=8.0), "no parameters hold both: what loses"),
    ],
)
def test_budget_out_of_reach_is_refused_with_the_range(budget: Budget, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        factor_within(budget, ASKED)


def test_time_is_refused_where_none_is_told() -> None:
    with pytest.raises(UsageError, match="is not told here"):
        factor_within(Budget(target_ms=1.0), Asked(told, lambda factor: None))


def test_what_cannot_be_rehearsed_counts_as_too_much() -> None:
    asked = Asked(lambda factor: told(factor) if factor in (1.0, 1 / 16) else None, ms)
    assert factor_within(Budget(max_drop=1.0), asked)[0] == 1 / 16
