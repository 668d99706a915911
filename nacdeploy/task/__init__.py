"""Task: a network, a data set and the metric that joins them."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nacdeploy import data as datasets
from nacdeploy import metrics, models
from nacdeploy.base.errors import UsageError
from nacdeploy.data import Dataset
from nacdeploy.metrics import ACCURACY, Metric
from nacdeploy.models import ModelSpec, pretrained
from nacdeploy.network.captured.capture import first_tensor
from nacdeploy.profile import Profile


@dataclass(frozen=True, eq=False)
class Task:
    """A network's specification, the data it answers for, and what its answers are scored by."""

    spec: ModelSpec
    data: Dataset
    metric: Metric = ACCURACY

    def build(self, seed: int) -> nn.Module:
        """The network in eval mode with weights drawn from `seed`; the global generator stays as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return self.spec.build().eval()

    def example_input(self) -> Tensor:
        """The first training image, normalised: float32 `(1, C, H, W)`."""
        return self.data.normalize(self.data.train.images[:1])


def make(model: str, data: str, profile: Profile) -> Task:
    """The task of a named model on a named data set, checked by running one image through it.

    Raises:
        NacdeployError: the data cannot be downloaded, or an optional package is missing.
        UsageError: a name is unknown, or the model does not turn one image into `(1, n_outputs)` numbers.
    """
    metric = metrics.named(profile.metric)
    dataset = datasets.load(data, pretrained.settled(model, profile.images), metric)
    spec = models.resolve(
        model,
        n_classes=dataset.n_outputs,
        channels=dataset.channels,
        input_size=dataset.input_size,
        width=profile.width,
    )
    task = Task(spec, dataset, metric)
    _check(task, profile.seed)
    return task


def _check(task: Task, seed: int) -> None:
    image = task.example_input()
    what = f"model '{task.spec.name}' on an image of shape {tuple(image.shape)}"
    model = task.build(seed)
    try:
        with torch.inference_mode():
            outputs = first_tensor(model(image))
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise UsageError(f"{what} fails: {type(error).__name__}: {reason}") from error
    if not isinstance(outputs, Tensor):
        raise UsageError(f"{what} returns no tensor; needed: logits of shape (1, {task.spec.n_classes}) first")
    if tuple(outputs.shape) != (1, task.spec.n_classes):
        raise UsageError(f"{what} returns shape {tuple(outputs.shape)}; needed: (1, {task.spec.n_classes})")
