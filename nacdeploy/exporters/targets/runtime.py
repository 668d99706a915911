"""What every runner is, and what makes one of a graph."""

from collections.abc import Callable
from typing import Any, Protocol

from numpy.typing import NDArray

from nacdeploy.latency import Subject


class Runner(Protocol):
    """A model that runs: images (N, C, H, W) to all outputs, and the same call as what is timed."""

    output_names: tuple[str, ...]

    def run(self, images: NDArray[Any]) -> list[NDArray[Any]]: ...
    def subject(self, images: NDArray[Any]) -> Subject: ...


Runtime = Callable[[bytes], Runner]
"""Makes a runner of a serialised ONNX model."""
