"""The outcome of a transfer, told before it trains, and afterwards how far that was off.

Size, BitOps and time are those of the rehearsed network (`rehearsal.py`): its structure is the one to come, up to
channels that the longer training may choose otherwise. The drop follows from what the rehearsal lost, and from what was
lost where the strategy was found (`losses.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nacdeploy.base import records
from nacdeploy.base.errors import UsageError
from nacdeploy.base.latency import Stopwatch
from nacdeploy.forecasts import losses
from nacdeploy.forecasts.losses import Rehearsal, Source
from nacdeploy.forecasts.ranges import Range, around
from nacdeploy.forecasts.rehearsal import Stage, rehearsed
from nacdeploy.forecasts.times import Watch
from nacdeploy.metrics import DEFAULT, Metric, named, number, scored
from nacdeploy.profile import Profile
from nacdeploy.sessions.session import Session
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.operators.finetune.settings import FinetuneTable
from nacdeploy.strategies.operators.prune.settings import PruneTable
from nacdeploy.strategies.search.objective import Figures, check_figures

WORTH_MACS = 1e13  # of the training to come: below, a rehearsal takes a quarter of the time and more
_OF_BACKWARD = 3  # MACs of a training step for one of a run
_OTHER_CHANNELS = 0.1  # of size, BitOps and time: a letter behind an F may choose otherwise than in the rehearsal
_OTHER_EXITS = 0.2  # of BitOps: which images leave early is learned in the training
_AGAIN = 0.06  # of a time: by what the same network differs when it is timed again


@scored
@dataclass(frozen=True)
class Forecast:
    """The outcome to come of a transfer on the new network.

    Attributes:
        chain: the chain that is to be applied.
        size_bytes: weights, scales and statistics at their bits.
        bitops: for one image; of a network with exits, what is expected.
        latency_ms: one call on the target; None if it is not timed here.
        drop: what is lost on validation, in the metric's own unit.
        source_drop: what was lost where the strategy was found; None if that is not known.
        stages: what the rehearsal lost after each letter.
        n_images: the training images of the rehearsal.
        share: these as a share of all.
        seconds: the time that the forecast took.
    """

    chain: str
    size_bytes: Range
    bitops: Range
    latency_ms: Range | None
    drop: Range
    source_drop: float | None
    stages: tuple[Stage, ...]
    n_images: int
    share: float
    seconds: float
    metric: str = DEFAULT

    @property
    def rehearsal(self) -> Rehearsal | None:
        """The loss of the rehearsal in the end; None if no letter applied."""
        return Rehearsal(self.stages[-1].lost, self.share) if self.stages else None

    def __str__(self) -> str:
        """Return the line that a user reads."""
        time = [] if self.latency_ms is None else [f"{_shown(self.latency_ms, '.3g')} ms"]
        metric, drop = named(self.metric), self.drop
        low, high = number(metric, drop.low), number(metric, drop.high)
        lost = f"drop {number(metric, drop.value)} {metric.drop_unit} ({low} to {high})"
        size = f"size {_shown(self.size_bytes, '.3g', 1e6)} MB"
        return ", ".join((size, f"{_shown(self.bitops, '.3g', 1e9)} GBitOps", *time, lost))

    @property
    def how(self) -> str:
        """Return how it was made, as a user reads it."""
        known = "" if self.source_drop is None else f", and {number(named(self.metric), self.source_drop)} lost there"
        return f"80 % each; from a rehearsal with {self.n_images} images in {self.seconds:.0f} s{known}"


@scored
@dataclass(frozen=True)
class Found:
    """The outcome of a transfer, on the scales of its forecast."""

    size_bytes: float
    bitops: float
    latency_ms: float | None
    drop: float
    metric: str = DEFAULT


def is_worth(session: Session, chain: Chain) -> bool:
    """Tell whether the training to come takes clearly longer than its rehearsal."""
    recipe = session.profile.of(FinetuneTable)
    n_epochs = sum(int(dict(link.parameters).get("epochs", recipe.epochs)) for link in chain if link.letter == "F")
    macs = session.baseline.metrics.cost.macs
    return _OF_BACKWARD * n_epochs * len(session.task.data.train) * macs >= WORTH_MACS


def forecast(
    session: Session, chain: Chain, source: Source | None, watch: Watch, skip_refused: bool = False
) -> Forecast:
    """Rehearse a chain and tell what it will give.

    Raises:
        RefusedError: a letter does not apply, without `skip_refused`.
    """
    stopwatch, task = Stopwatch(), session.task
    seen = rehearsed(chain, session.baseline, task, session.profile, skip_refused)
    cost, network, metric = seen.state.metrics.cost, seen.state.network, task.metric
    size, bitops, time = margins(chain, session.profile, bool(network.exits))
    ms = watch(network)
    point = metric.point(session.baseline.metrics.chance)
    rehearsal = Rehearsal(seen.lost, seen.n_images / len(task.data.train))
    lost = losses.to_come(rehearsal, len(task.data.validation), source)
    return Forecast(
        chain=str(chain),
        size_bytes=around(cost.bytes, size),
        bitops=around(cost.expected_bitops, bitops),
        latency_ms=None if ms is None else around(ms, time),
        drop=Range(*(point * each for each in (lost.value, lost.low, lost.high))),
        source_drop=None if source is None else point * source.lost,
        stages=seen.stages,
        n_images=seen.n_images,
        share=rehearsal.share,
        seconds=stopwatch.seconds(),
        metric=metric.name,
    )


def margins(chain: Chain, profile: Profile, has_exits: bool) -> tuple[float, float, float]:
    """Return the shares by which size, BitOps and time may come out otherwise than in the rehearsal."""
    other = _OTHER_CHANNELS if _is_chosen_after_training(chain, profile) else 0.0
    return other, other + (_OTHER_EXITS if has_exits else 0.0), other + _AGAIN


def source_of(origin: Mapping[str, Any], metric: Metric) -> Source | None:
    """Return what a strategy file records of the run in which it was found; None of another metric, or of nothing."""
    try:
        figures = records.from_data(Figures, origin.get("figures"))
        check_figures(figures)
        told = records.from_data(Forecast, origin["forecast"]) if origin.get("forecast") else None
    except UsageError:
        return None
    if figures.metric != metric.name:
        return None
    return Source(figures.drop_points, told.rehearsal if told else None)


def missed(told: Forecast, found: Found) -> str:
    """Return by how much a forecast missed what was found, and which of it lies outside the limits.

    >>> from nacdeploy.forecasts.ranges import Range
    >>> told = Forecast("PF", Range(100, 98, 102), Range(50, 49, 51), None, Range(1, 0, 2), None, (), 256, 0.1, 1.0)
    >>> missed(told, Found(101, 50, None, 2.5))
    '+1.0 % in size, +0.0 % in BitOps, +1.50 points of drop; drop outside its limits'
    """
    metric = named(found.metric)
    by_name = {
        "size": (told.size_bytes, found.size_bytes),
        "BitOps": (told.bitops, found.bitops),
        "time": (told.latency_ms, found.latency_ms),
    }
    known = {name: (t, f) for name, (t, f) in by_name.items() if t is not None and f is not None}
    parts = [f"{100 * (f / t.value - 1):+.1f} % in {name}" for name, (t, f) in known.items()]
    parts.append(f"{number(metric, found.drop - told.drop.value, '+')} {metric.drop_unit} of drop")
    outside = [name for name, (t, f) in {**known, "drop": (told.drop, found.drop)}.items() if not t.holds(f)]
    limits = f"{' and '.join(outside)} outside {'its' if len(outside) == 1 else 'their'} limits"
    return f"{', '.join(parts)}; {limits if outside else 'all within the limits'}"


def told_rows(told: Forecast | None, found: Found | None) -> tuple[tuple[str, str], ...]:
    """Return a forecast as rows of a report, and by how much it missed; none without a forecast."""
    if told is None:
        return ()
    missed_by = [("the forecast was off by", missed(told, found))] if found is not None else []
    return ("forecast on validation", f"{told}; {told.how}"), *missed_by


def _shown(told: Range, digits: str, unit: float = 1.0) -> str:
    """Print a value with its limits; without, where they are as near as the digits."""
    value, low, high = (f"{each / unit:{digits}}" for each in (told.value, told.low, told.high))
    return value if low == high else f"{value} ({low} to {high})"


def _is_chosen_after_training(chain: Chain, profile: Profile) -> bool:
    """Tell whether a letter whose sizes follow from trained weights comes behind an F: P over all layers at once, the
    ranks of D, the codes of C."""
    behind = chain.links[chain.word.index("F") + 1 :] if "F" in chain.word else ()
    scope = profile.of(PruneTable).scope
    is_free = any(link.letter == "P" and dict(link.parameters).get("scope", scope) == "global" for link in behind)
    return is_free or any(link.letter in "DC" for link in behind)
