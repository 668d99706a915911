"""The cascade: segments of a network in turn, each with an exit, and the gate between them on the host.

A sample that its exit is sure of goes no further. In a batch the rest is put together (compacted) before it goes on;
answers come back in the order of the samples.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

NEVER = 2.0  # a threshold that no confidence reaches

Segment = Callable[[Any], Sequence[NDArray[Any]]]
"""Runs one segment: outputs (N, K) of its exit and the tensor (N, ...) that goes on; the last one outputs alone."""


@dataclass(frozen=True)
class Answered:
    """The answers to N samples.

    Attributes:
        outputs: the outputs (N, K) that were answered with.
        exits: the exit that answered each sample, (N,), counted from 0; the network's own end is the last.
    """

    outputs: NDArray[Any]
    exits: NDArray[np.int64]


class Cascade:
    """Segments of a network, and for each exit but the network's own end the confidence from which it answers."""

    def __init__(
        self, segments: Sequence[Segment], thresholds: Sequence[float], rule: Callable[[NDArray[Any]], NDArray[Any]]
    ) -> None:
        if len(thresholds) != len(segments) - 1:
            raise ValueError(f"{len(segments)} segments need {len(segments) - 1} thresholds, not {len(thresholds)}")
        self.segments, self.thresholds, self.rule = tuple(segments), tuple(thresholds), rule

    def run(self, images: Any, thresholds: Sequence[float] | None = None) -> Answered:
        """Answer images (N, ...), by other thresholds than the cascade's where they are given."""
        n, limits = len(images), self.thresholds if thresholds is None else thresholds
        exits = np.full(n, len(limits), dtype=np.int64)
        answer, left, carried = None, None, images  # `left`: the places of the samples that go on; None for all
        for index, limit in enumerate(limits):
            outputs, carried = self.segments[index](carried)
            sure = self.rule(outputs) >= limit
            n_sure = np.count_nonzero(sure)
            if n_sure == 0:
                continue
            if n_sure == len(sure) and left is None:
                exits[:] = index
                return Answered(outputs, exits)
            answer = np.empty((n, *outputs.shape[1:]), outputs.dtype) if answer is None else answer
            left = np.arange(n) if left is None else left
            answer[left[sure]], exits[left[sure]] = outputs[sure], index
            if n_sure == len(sure):
                return Answered(answer, exits)
            left, carried = left[~sure], carried[~sure]
        (outputs,) = self.segments[-1](carried)
        if answer is None or left is None:
            return Answered(outputs, exits)
        answer[left] = outputs
        return Answered(answer, exits)

    def every(self, images: Any) -> list[NDArray[Any]]:
        """Return the outputs (N, K) of every exit for all images, the network's own end last."""
        found, carried = [], images
        for segment in self.segments[:-1]:
            outputs, carried = segment(carried)
            found.append(outputs)
        return [*found, *self.segments[-1](carried)]


def gated(
    outputs: Sequence[NDArray[Any]], thresholds: Sequence[float], rule: Callable[[NDArray[Any]], NDArray[Any]]
) -> Answered:
    """Return what the gate answers with where the outputs (N, K) of all exits are there, the own end last."""
    answer = outputs[-1].copy()
    exits = np.full(len(answer), len(thresholds), dtype=np.int64)
    for index in reversed(range(len(thresholds))):
        sure = rule(outputs[index]) >= thresholds[index]
        answer[sure], exits[sure] = outputs[index][sure], index
    return Answered(answer, exits)
