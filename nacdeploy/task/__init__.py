"""Task: a network, a data set and the metric that joins them, by name or of the user's own."""

import torch
from torch import Tensor

from nacdeploy import data as datasets
from nacdeploy import metrics, models
from nacdeploy.base.errors import UsageError
from nacdeploy.models import from_onnx, pretrained
from nacdeploy.network.captured.capture import first_tensor
from nacdeploy.profile import Profile
from nacdeploy.task import graph_file, own
from nacdeploy.task.task import Task

__all__ = ["Task", "make"]


def make(model: str, data: str, profile: Profile) -> Task:
    """Make the task of a named model on a named data set, and check it by running one image through the model; or open
    a task of the user's own, which is named twice.

    Raises:
        NacdeployError: the data cannot be downloaded, or an optional package is missing.
        UsageError: a name is unknown, or the model does not turn one image into `(1, n_outputs)` numbers.
    """
    if own.is_own(model, data):
        return own.opened(model, profile)
    if from_onnx.is_onnx(model):
        return graph_file.opened(model, data, profile)
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
