"""Task: a network, a data set and the metric that joins them."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nacdeploy.brought.training import Trainer
from nacdeploy.data import Dataset
from nacdeploy.metrics import ACCURACY, Metric
from nacdeploy.models import ModelSpec
from nacdeploy.task.clock import Clock
from nacdeploy.task.original import Original


@dataclass(frozen=True, eq=False)
class Task:
    """A network's specification, its data, and the metric of its answers; the ONNX file that it came from, and where
    its networks are timed, and the loop that trains them in place of ours."""

    spec: ModelSpec
    data: Dataset
    metric: Metric = ACCURACY
    original: Original | None = None
    clock: Clock | None = None
    trainer: Trainer | None = None

    @property
    def is_own(self) -> bool:
        """Whether the task is the user's own: its network comes with its values."""
        return self.spec.ports is not None

    def build(self, seed: int) -> nn.Module:
        """Build the network in eval mode with weights drawn from `seed`; the global generator keeps its state."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return self.spec.build().eval()

    def example_input(self) -> Tensor:
        """Return the first training image, normalised: float32 `(1, C, H, W)`."""
        return self.data.normalize(self.data.train.images[:1])
