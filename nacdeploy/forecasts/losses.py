"""The drop to come, from what a rehearsal lost and what was lost where the strategy was found. Numbers only.

A rehearsal trains on a share of the images, and what it loses shrinks by a power law when the training is whole. How
far the run at the source was from that law moves the next one in the same direction. Everything here is in points of
quality: hundredths of a perfect score.

The constants were chosen by hand on half of the transfers of `make bench-transfer` to five networks; docs/benchmarks.md
says how often the limits held on the others, and on two networks that were met blind.
"""

import math
from dataclasses import dataclass

from nacdeploy.forecasts.ranges import Range

EIGHTH = 0.125  # of the images: what the law was found with; less is left of it for a larger share
FACTOR, POWER = 0.46, 0.8  # of the law: what is lost in the end of what a rehearsal lost
_LUCK, _OF_LUCK = 1.0, 0.2  # points that a rehearsal gains by luck, and what is left of them; more than that stays
CARRIED = 0.5  # of the source's distance from the law
KNOWN_ALONE = 0.25  # of the source's drop, where it had no rehearsal
_FARTHEST = 5.0  # points that a source moves a forecast by
STEADY, GROWING = 0.3, 0.22  # the half width: points, and for each point of the drop
_SWAPPED = 0.01  # of the images: those whose answers change with no change for the better or the worse
_OF_80_PERCENT = 1.28  # standard deviations


@dataclass(frozen=True)
class Rehearsal:
    """The loss of a rehearsal, and the share of the training images that it used."""

    lost: float
    share: float = EIGHTH


@dataclass(frozen=True)
class Source:
    """The run in which a strategy was found: what was lost in the end, and its own rehearsal if it had one."""

    lost: float
    rehearsal: Rehearsal | None = None


def to_come(rehearsal: Rehearsal, n_images: int, source: Source | None) -> Range:
    """Return the loss to come on so many validation images.

    >>> to_come(Rehearsal(8.0), 2000, None)
    Range(value=2.43, low=1.55, high=3.31)
    >>> to_come(Rehearsal(8.0), 2000, Source(3.2, Rehearsal(8.0))).value  # the law says 2.43 there too
    2.81
    """
    law = in_the_end(rehearsal)
    value = law + _moved_by(source, law)
    noise = _OF_80_PERCENT * 100.0 * math.sqrt(_SWAPPED / n_images)
    half = math.hypot(STEADY + GROWING * abs(law), noise)
    return Range(*(round(each, 2) for each in (value, value - half, value + half)))


def in_the_end(rehearsal: Rehearsal) -> float:
    """Return what is lost after a whole training, by the law; all of it if the rehearsal was whole.

    >>> [round(in_the_end(Rehearsal(8.0, share)), 2) for share in (0.125, 0.5, 1.0)]
    [2.43, 5.38, 8.0]
    """
    lost, part = rehearsal.lost, min(1.0, max(0.0, math.log(rehearsal.share) / math.log(EIGHTH)))
    if lost <= 0:  # beyond luck, the baseline was not trained to its end
        return max(lost, -_LUCK) * float(_OF_LUCK**part) + min(0.0, lost + _LUCK)
    return float(FACTOR**part * lost ** (1 - part * (1 - POWER)))


def _moved_by(source: Source | None, law: float) -> float:
    if source is None:
        return 0.0
    if source.rehearsal is None:
        moved = KNOWN_ALONE * (source.lost - law)
    else:
        moved = CARRIED * (source.lost - in_the_end(source.rehearsal))
    return max(-_FARTHEST, min(_FARTHEST, moved))
