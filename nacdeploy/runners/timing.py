"""Timing serialised models against each other on the target that is present: what decides precision."""

from collections.abc import Callable, Mapping
from functools import partial

from numpy.typing import NDArray

from nacdeploy import latency
from nacdeploy.latency import Comparison
from nacdeploy.profile import BenchTable
from nacdeploy.runners.onnx import OnnxRunner

Timer = Callable[[Mapping[str, bytes], str], Comparison]
"""Times serialised models by name, in turns, and gives their ratios to the named baseline."""


def onnx_timer(images: NDArray, table: BenchTable, n_rounds: int) -> Timer:
    """A timer of ONNX models in ONNX Runtime on the CPU, for one batch of images (N, C, H, W)."""

    def compare(models: Mapping[str, bytes], baseline: str) -> Comparison:
        runners = {name: OnnxRunner(model, threads=table.threads) for name, model in models.items()}
        return latency.compare(
            {name: partial(runner.run, images) for name, runner in runners.items()},
            baseline=baseline,
            batch_size=len(images),
            threads=table.threads,
            n_rounds=n_rounds,
            round_ms=table.round_ms,
        )

    return compare
