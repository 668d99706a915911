"""Wishes of a transfer that nothing could hold are refused before any work."""

from typing import Any

import pytest

from nacdeploy.base.errors import UsageError
from nacdeploy.forecasts.plan import Wish


@pytest.mark.parametrize("wish", [
    {"target_ms": float("nan")}, {"target_ms": 0.0}, {"target_ms": float("inf")},
    {"max_drop": float("nan")}, {"max_drop": -1.0},
    {"speedup": float("nan")}, {"speedup": 0.5},
])  # fmt: skip
def test_number_that_is_no_budget_is_refused(wish: dict[str, Any]) -> None:
    (name,) = wish
    with pytest.raises(UsageError, match=f"--{name.replace('_', '-')} .* is no budget: give a number"):
        Wish(adapt=True, **wish).check()
