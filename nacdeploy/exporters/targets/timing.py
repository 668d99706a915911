"""Timing serialised models against each other on the target that is present: what decides precision."""

from collections.abc import Callable, Mapping
from functools import partial

from numpy.typing import NDArray

from nacdeploy import latency
from nacdeploy.exporters.targets.openvino.runner import OpenVinoRunner
from nacdeploy.exporters.targets.ort.runner import OnnxRunner
from nacdeploy.exporters.targets.runtime import Runtime
from nacdeploy.latency import Comparison
from nacdeploy.profile.deployment import BenchTable

Timer = Callable[[Mapping[str, bytes], str], Comparison]
"""Times serialised models by name, in turns, and gives their ratios to the named baseline."""


def onnx_timer(images: NDArray, table: BenchTable, n_rounds: int) -> Timer:
    """A timer of ONNX models in ONNX Runtime on the CPU, for one batch of images (N, C, H, W)."""
    return _timer(partial(OnnxRunner, threads=table.threads), images, table, n_rounds)


def openvino_timer(images: NDArray, table: BenchTable, n_rounds: int) -> Timer:
    """A timer of ONNX models in OpenVINO on the CPU, for one batch of images (N, C, H, W)."""
    return _timer(partial(OpenVinoRunner, threads=table.threads), images, table, n_rounds)


def _timer(runtime: Runtime, images: NDArray, table: BenchTable, n_rounds: int) -> Timer:
    def compare(models: Mapping[str, bytes], baseline: str) -> Comparison:
        return latency.compare(
            {name: runtime(model).subject(images) for name, model in models.items()},
            baseline=baseline,
            batch_size=len(images),
            threads=table.threads,
            n_rounds=n_rounds,
            round_ms=table.round_ms,
        )

    return compare
