"""Timing serialised models against each other on the target that is present: the times that decide precision."""

from collections.abc import Callable, Mapping

from numpy.typing import NDArray

from nacdeploy.base import latency
from nacdeploy.base.latency import Comparison, Subject
from nacdeploy.exporters.targets.runtime import Maker
from nacdeploy.profile.tables.deployment import BenchTable

Timed = bytes | Callable[[Maker, NDArray], Subject]
"""A serialised model, or what makes the call to be timed, of a maker of runners and a batch of images."""

Timer = Callable[[Mapping[str, Timed], str], Comparison]
"""Times serialised models by name, in turns, and gives their ratios to the named baseline."""


def timer(make: Maker, images: NDArray, table: BenchTable, n_rounds: int, fastest: bool = False) -> Timer:
    """Return a timer of ONNX models in the runners of `make`, for one batch of images (N, C, H, W).

    With `fastest` a turn counts by its fastest call (`latency.compare`).
    """

    def compare(models: Mapping[str, Timed], baseline: str) -> Comparison:
        return latency.compare(
            {
                name: make(model).subject(images) if isinstance(model, bytes) else model(make, images)
                for name, model in models.items()
            },
            baseline=baseline,
            batch_size=len(images),
            threads=table.threads,
            n_rounds=n_rounds,
            round_ms=table.round_ms,
            fastest=fastest,
        )

    return compare
