"""The drop to come, from what a rehearsal lost and what was lost where the strategy was found. Numbers only.

Everything here is in points of quality: hundredths of a perfect score.
"""

from dataclasses import dataclass

from nacdeploy.forecasts.ranges import Range


@dataclass(frozen=True)
class Source:
    """The run in which a strategy was found: what was lost in the end, and what its own rehearsal lost (None: it had
    none)."""

    lost: float
    rehearsed: float | None = None


def to_come(rehearsed: float, error: float, source: Source | None) -> Range:
    """Return the loss to come, of a network that errs in `error` points before anything is taken from it."""
    return Range(rehearsed / 3, rehearsed / 3 - 1, rehearsed / 3 + 1)
