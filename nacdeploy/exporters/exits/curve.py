"""The curve of an artifact's exits: scores on validation against expected times, over thresholds of all exits together.

It lies in the artifact, so that thresholds can be moved without data; a point is chosen by a largest drop or time.
Thresholds flatter themselves on the images that chose them, most where these are few. So a part of the images is
answered by thresholds that the other parts chose, and a drop is held there too.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nacdeploy.base import records
from nacdeploy.cascades.cascade import NEVER, gated
from nacdeploy.cascades.confidence import Rule
from nacdeploy.cascades.thresholds import Point, Sampled, front
from nacdeploy.metrics import Metric, drop

_SLACK = 1e-7
N_SEARCHED = 10_000  # images that thresholds are searched on; what they do is counted on all
N_FOLDS = 4


@dataclass(frozen=True)
class Setting:
    """Thresholds and their behaviour on validation.

    Attributes:
        thresholds: one for each exit.
        score: of the answers.
        drop: against the network's own end, in the metric's unit.
        expected_ms: the mean time of an image.
        fractions: the share that leaves at each exit.
        held_out: the drop at this time on images that did not choose the thresholds; None if it was not found.
    """

    thresholds: tuple[float, ...]
    score: float
    drop: float
    expected_ms: float
    fractions: tuple[float, ...]
    held_out: float | None = None

    @property
    def expected_drop(self) -> float:
        """The drop to reckon with: the larger one of both."""
        return self.drop if self.held_out is None else max(self.drop, self.held_out)


@dataclass(frozen=True)
class Curve:
    """Settings of which none is both faster and better than another, the fastest first.

    Attributes:
        confidence: the gate's rule.
        n_images: the validation images that were counted.
        own_score: the score of the network's own end.
        settings: the settings.
        schema: see `base.records`.
    """

    confidence: str
    n_images: int
    own_score: float
    settings: tuple[Setting, ...]
    schema: int = records.SCHEMA_VERSION


@dataclass(frozen=True)
class Answers:
    """The outputs (N, K) of every exit for N validation images, the network's own end last, and their labels."""

    outputs: Sequence[NDArray[Any]]
    labels: Any
    metric: Metric
    rule: Rule

    def sampled(self, ways_ms: Sequence[float]) -> Sampled:
        sign = 1.0 if self.metric.higher_is_better else -1.0
        values = [sign * self.metric.values(torch.from_numpy(each), self.labels).numpy() for each in self.outputs]
        confidences = [self.rule(each) for each in self.outputs[:-1]]
        return Sampled(np.stack(confidences), np.stack(values), tuple(ways_ms))

    @property
    def own_score(self) -> float:
        return self.metric.score(torch.from_numpy(self.outputs[-1]), self.labels)

    def setting(self, thresholds: Sequence[float], ways_ms: Sequence[float]) -> Setting:
        """Return what thresholds do, by the metric itself."""
        answered = gated(self.outputs, thresholds, self.rule)
        shares = np.bincount(answered.exits, minlength=len(self.outputs)) / len(answered.exits)
        score = self.metric.score(torch.from_numpy(answered.outputs), self.labels)
        lost = drop(self.metric, self.own_score, score)
        expected_ms = float(shares @ np.array(ways_ms))
        return Setting(tuple(thresholds), score, lost, expected_ms, tuple(map(float, shares)))


def curve_of(answers: Answers, ways_ms: Sequence[float], confidence: str) -> Curve:
    """Return the curve of exits whose ways take `ways_ms`; that of no exit is on it."""
    sampled = answers.sampled(ways_ms)
    drawn = sampled.drawn(N_SEARCHED)
    found = [*(each.thresholds for each in front(drawn)), (NEVER,) * (len(ways_ms) - 1)]
    judged = _judged([answers.setting(each, ways_ms) for each in found], answers, sampled)
    return Curve(confidence, len(answers.labels), answers.own_score, _front(judged))


def _judged(settings: Sequence[Setting], answers: Answers, sampled: Sampled) -> tuple[Setting, ...]:
    """Return settings with what their times cost on images that did not choose: each fold of the images is answered by
    the thresholds of this time that the others choose."""
    n = sampled.confidences.shape[1]
    if n < 2 * N_FOLDS:
        return tuple(settings)
    folds = np.random.default_rng(0).permutation(n) % N_FOLDS
    fronts = [front(sampled.part(folds != fold).drawn(N_SEARCHED)) for fold in range(N_FOLDS)]

    def held_out(setting: Setting) -> float:
        if min(setting.thresholds) > 1:
            return 0.0
        answered = np.empty_like(answers.outputs[-1])
        for fold, points in enumerate(fronts):
            its = folds == fold
            chosen = max((p for p in points if p.expected_ms <= setting.expected_ms), key=_time, default=points[0])
            parts = [each[its] for each in answers.outputs]
            answered[its] = gated(parts, chosen.thresholds, answers.rule).outputs
        score = answers.metric.score(torch.from_numpy(answered), answers.labels)
        return drop(answers.metric, answers.own_score, score)

    return tuple(replace(each, held_out=held_out(each)) for each in settings)


def _time(found: Point | Setting) -> float:
    return found.expected_ms


def retimed(curve: Curve, ways_ms: Sequence[float]) -> Curve:
    """Return a curve with the times of other ways."""
    settings = [
        replace(each, expected_ms=float(np.array(each.fractions) @ np.array(ways_ms))) for each in curve.settings
    ]
    return replace(curve, settings=tuple(sorted(settings, key=_time)))


def within_drop(curve: Curve, max_drop: float) -> Setting | None:
    """Return the fastest setting that loses at most `max_drop`, on images that did not choose it too, or None."""
    held = [each for each in curve.settings if each.expected_drop <= max_drop + _SLACK]
    return min(held, key=_time, default=None)


def within_time(curve: Curve, latency_ms: float) -> Setting | None:
    """Return the best setting whose expected time is at most `latency_ms`, or None."""
    held = [each for each in curve.settings if each.expected_ms <= latency_ms]
    return min(held, key=lambda each: (each.expected_drop, each.expected_ms), default=None)


def _front(settings: Sequence[Setting]) -> tuple[Setting, ...]:
    kept: list[Setting] = []
    for each in sorted(settings, key=lambda s: (s.expected_ms, s.expected_drop, s.thresholds)):
        if not kept or each.expected_drop < kept[-1].expected_drop:
            kept.append(each)
    return tuple(kept)
