"""The drop to come, from what a rehearsal lost and what was lost where the strategy was found. Numbers only.

A rehearsal trains on an eighth of the images, and what it loses shrinks by a power law when the training is whole. How
far the run at the source was from that law moves the next one in the same direction. Everything here is in points of
quality: hundredths of a perfect score.

The constants were chosen on half of the transfers of `make bench-transfer`; docs/benchmarks.md says how often the
limits held on the other half.
"""

import math
from dataclasses import dataclass

from nacdeploy.forecasts.ranges import Range

FACTOR, POWER = 0.46, 0.8  # of the law: what is lost in the end of what a rehearsal lost
CARRIED = 0.5  # of the source's distance from the law
KNOWN_ALONE = 0.25  # of the source's drop, where it had no rehearsal
_FARTHEST = 5.0  # points that a source moves a forecast by
STEADY, GROWING = 0.3, 0.22  # the half width: points, and for each point of the drop
_SWAPPED = 0.01  # of the images: those whose answers change with no change for the better or the worse
_OF_80_PERCENT = 1.28  # standard deviations


@dataclass(frozen=True)
class Source:
    """The run in which a strategy was found: what was lost in the end, and what its own rehearsal lost (None: it had
    none)."""

    lost: float
    rehearsed: float | None = None


def to_come(rehearsed: float, n_images: int, source: Source | None) -> Range:
    """Return the loss to come on so many validation images.

    >>> to_come(8.0, 2000, None)
    Range(value=2.43, low=1.55, high=3.31)
    >>> to_come(8.0, 2000, Source(3.2, rehearsed=8.0)).value  # the law says 2.43 there too
    2.81
    """
    law = in_the_end(rehearsed)
    value = law + _moved_by(source, law)
    noise = _OF_80_PERCENT * 100.0 * math.sqrt(_SWAPPED / n_images)
    half = math.hypot(STEADY + GROWING * max(0.0, law), noise)
    return Range(*(round(each, 2) for each in (value, value - half, value + half)))


def in_the_end(rehearsed: float) -> float:
    """Return what is lost after a whole training, by the law; a gain of a rehearsal is mostly luck."""
    return float(FACTOR * rehearsed**POWER) if rehearsed > 0 else FACTOR * rehearsed / 2


def _moved_by(source: Source | None, law: float) -> float:
    if source is None:
        return 0.0
    if source.rehearsed is None:
        moved = KNOWN_ALONE * (source.lost - law)
    else:
        moved = CARRIED * (source.lost - in_the_end(source.rehearsed))
    return max(-_FARTHEST, min(_FARTHEST, moved))
