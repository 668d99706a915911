"""A budget for a transfer, and how much the letters may take so that its forecast holds it."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from nacdeploy.base.errors import UsageError
from nacdeploy.forecasts.forecast import Forecast
from nacdeploy.forecasts.scaling import MOST
from nacdeploy.metrics import named, shown_drop

N_TRIES = 4  # rehearsals between the chain as it is and the least that it may take
_N_TIMED = 6
_LEAST, _MOST = 1 / 16, 16.0
_AIM = 0.985  # of a time, so that another measurement of the same network is within it too


@dataclass(frozen=True)
class Budget:
    """The most that a transfer may lose, in the metric's own unit, and the most that one call may take."""

    max_drop: float | None = None
    target_ms: float | None = None


@dataclass(frozen=True)
class Asked:
    """The two questions to a factor on what letters take: the forecast of the chain, and its time alone, which needs no
    training; None where that factor cannot be applied."""

    told: Callable[[float], Forecast | None]
    ms: Callable[[float], float | None]


def factor_within(budget: Budget, asked: Asked) -> tuple[float, Forecast]:
    """Return the factor nearest to 1 whose forecast holds a budget, and this forecast.

    Raises:
        UsageError: no factor does; the range that can be reached is named.
    """
    factor = 1.0 if budget.target_ms is None else _fast_enough(budget.target_ms, asked.ms)
    told = asked.told(factor)
    if told is None:
        raise UsageError("the chain cannot be rehearsed with what the time asks of its letters")
    if budget.max_drop is None or told.drop.value <= budget.max_drop:
        return factor, told
    if factor > 1:
        raise UsageError(
            f"no parameters hold both: at {budget.target_ms:.4g} ms the drop would be {_lost(told)}; allow more of one"
        )
    found = _mild_enough(budget.max_drop, asked.told, told)
    if budget.target_ms is not None and (found[1].latency_ms is None or found[1].latency_ms.value > budget.target_ms):
        at_least = "" if found[1].latency_ms is None else f" takes {found[1].latency_ms.value:.4g} ms"
        raise UsageError(
            f"no parameters hold both: what loses {_lost(found[1])}{at_least}, and at {budget.target_ms:.4g} ms the "
            f"drop would be {_lost(told)}; allow more of one"
        )
    return found


def _fast_enough(target_ms: float, ms: Callable[[float], float | None]) -> float:
    """Return the least of some factors from 1 on that leaves at most a time."""
    now_ms = ms(1.0)
    if now_ms is None:
        raise UsageError("the time is not told here, and cannot be held: leave --target-ms and --speedup away")
    if now_ms <= target_ms:
        return 1.0
    low, high, best, least_ms = 1.0, _MOST, None, now_ms
    for _ in range(_N_TIMED):
        middle = math.sqrt(low * high)
        found = ms(middle)
        if found is not None and found > _AIM * target_ms:
            low = middle
        else:
            high, best = middle, best if found is None else middle
        least_ms = least_ms if found is None else min(least_ms, found)
    if best is None:
        raise UsageError(
            f"{target_ms:.4g} ms cannot be reached by what the letters take (at most {MOST:g} of the channels): "
            f"{least_ms:.4g} to {now_ms:.4g} ms can"
        )
    return best


def _mild_enough(max_drop: float, told: Callable[[float], Forecast | None], whole: Forecast) -> tuple[float, Forecast]:
    """Return the largest of some factors below 1 that loses at most a drop."""
    least = told(_LEAST)
    if least is None or least.drop.value > max_drop:
        reach = "" if least is None else f"{_lost(least)}, where they take a sixteenth, to "
        raise UsageError(
            f"a drop of {max_drop:g} cannot be held by what the letters take: {reach}{_lost(whole)} can be reached"
        )
    best, low, high = (_LEAST, least), _LEAST, 1.0
    for _ in range(N_TRIES):
        middle = math.sqrt(low * high)
        found = told(middle)
        if found is not None and found.drop.value <= max_drop:
            low, best = middle, (middle, found)
        else:
            high = middle
    return best


def _lost(told: Forecast) -> str:
    return shown_drop(named(told.metric), told.drop.value)
