"""The ONNX file that a task's network came from, and calls of it that were not calibrated with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from nacdeploy.models.from_onnx import Name, Parts

Call = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Original:
    """A file in parts, and its calls.

    Attributes:
        call: the inputs of the file, by name, at a call of the test data.
        n_calls: how many there are.
        states: the inputs of floats that do not have the batch first, as a state has not.
    """

    name: Name
    parts: Parts
    call: Callable[[int], Call]
    n_calls: int
    states: tuple[str, ...] = ()

    @property
    def batch(self) -> int | None:
        """The only batch that the file takes; None for any."""
        return self.parts.batch
