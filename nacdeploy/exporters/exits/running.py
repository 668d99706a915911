"""Runners as segments of a cascade: outputs by name, and batches in sizes that a runtime has compiled."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nacdeploy.base.errors import UsageError
from nacdeploy.cascades.cascade import NEVER
from nacdeploy.cascades.confidence import RULES, Rule
from nacdeploy.exporters.targets.runtime import Runner
from nacdeploy.metrics import Metric, gate_of

ALWAYS = -1.0  # a threshold that every confidence reaches


class SegmentRunner:
    """A runner as a `cascades.cascade.Segment`: the outputs that are named, in that order.

    Raises:
        UsageError: it has no such output.

    A runtime that compiles for each shape is given few of them: a compacted batch is filled up to the next of 1, 2, 3,
    4, 6, 8, 12, 16 and so on.
    """

    def __init__(self, runner: Runner, outputs: Sequence[str], *, is_first: bool = False) -> None:
        self._runner = runner
        given = list(runner.output_names)
        if missing := [name for name in outputs if name not in given]:
            raise UsageError(f"a segment has no output '{missing[0][:200]}', which goes on or answers: export again")
        self._places = [given.index(name) for name in outputs]
        self._fills = not is_first and getattr(runner, "compiles_shapes", False)

    def __call__(self, x: Any) -> list[NDArray[Any]]:
        n = len(x)
        if self._fills and (more := filled(n) - n):
            x = np.concatenate([x, np.repeat(x[-1:], more, axis=0)])
        found = self._runner.run(x)
        return [found[at][:n] if self._fills else found[at] for at in self._places]


def filled(n: int) -> int:
    """Return the next size of a batch that is a power of two, or one and a half times one."""
    size = 1 << max(n - 1, 0).bit_length()
    return size * 3 // 4 if size > 2 and n <= size * 3 // 4 else size


def forced(n_exits: int) -> list[tuple[float, ...]]:
    """Return thresholds with which all samples leave at one exit, for each exit, the network's own end last."""
    rows = [(*[NEVER] * at, ALWAYS, *[NEVER] * (n_exits - at - 1)) for at in range(n_exits)]
    return [*rows, (NEVER,) * n_exits]


def rule_of(name: str, metric: Metric) -> Rule:
    """Return the rule of a gate by its name, or the metric's own of torch."""
    name = name or gate_of(metric)
    if name in RULES:
        return RULES[name]

    def own(outputs: NDArray[Any]) -> NDArray[Any]:
        return metric.confidence(torch.from_numpy(np.ascontiguousarray(outputs))).numpy()

    return own
