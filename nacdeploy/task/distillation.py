"""Distillation: the answers of a teacher as targets beside the labels, or in their place (Hinton et al., 2015)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nacdeploy.data import ImageSet
from nacdeploy.metrics import Metric, distilled
from nacdeploy.network.network import Network
from nacdeploy.task import Task, training
from nacdeploy.task import evaluate as evaluation

Changed = Callable[[training.Batches], training.Batches]
KEPT_BYTES = 256 * 2**20  # of answers; more are asked for batch by batch


@dataclass(frozen=True)
class Distillation:
    """The weight of the teacher's part in the loss (0: none, 1: no label is read), and the temperature of its
    answers."""

    weight: float
    temperature: float


def loss(metric: Metric, how: Distillation) -> training.Loss:
    """Return the loss of outputs and of targets `(labels, answers)`; with the teacher alone, labels are None."""

    def blended(outputs: Any, targets: tuple[Tensor | None, Any]) -> Tensor:
        labels, answers = targets
        taught = distilled(metric, outputs, answers, how.temperature)
        return taught if labels is None else (1 - how.weight) * metric.loss(outputs, labels) + how.weight * taught

    return blended


def labels_for(images: ImageSet, how: Distillation) -> Tensor | None:
    """Return the labels of a training, None where the teacher teaches alone: they are then not even looked for."""
    return None if how.weight == 1 else images.labels


def batches(
    task: Task, teacher: Network, how: Distillation, batch_size: int, seed: int, changed: Changed | None = None
) -> training.Batches:
    """Return the batches of a training on the training split, with the teacher's answers to the same images.

    Images that no augmentation changes are answered once, if the answers are small enough. `changed` softens labels and
    mixes images; the teacher answers what the network sees.
    """
    data, images = task.data, task.data.train
    if data.epochs is not None or changed is not None:
        own = training.image_batches(data, images, batch_size, seed)
        return _own_batches(own if changed is None else changed(own), teacher, how)
    answers = _answers(teacher, task, images) if data.augment == "none" else None
    plain = training.image_batches(data, images, batch_size, seed, (labels_for(images, how), answers))
    if answers is not None:
        return plain

    def answered(epoch: int) -> Iterator[tuple[Tensor, Any]]:
        with evaluation.accelerated(teacher) as device:
            for inputs, (labels, _) in plain(epoch):
                yield inputs, (labels, _answer(teacher, inputs.to(device)))

    return answered


def _own_batches(own: training.Batches, teacher: Network, how: Distillation) -> training.Batches:
    """Return the batches of a user's own loader, which are others in each epoch, with the teacher's answers."""

    def answered(epoch: int) -> Iterator[tuple[Tensor, Any]]:
        with evaluation.accelerated(teacher) as device:
            for inputs, labels in own(epoch):
                yield inputs, (None if how.weight == 1 else labels, _answer(teacher, inputs.to(device)))

    return answered


def _answers(teacher: Network, task: Task, images: ImageSet) -> Tensor | None:
    """Return the teacher's answers to all images, (N, ...), or None if they are no small tensor."""
    with evaluation.accelerated(teacher) as device:
        first = _answer(teacher, next(evaluation.batches(task.data, images, 1, device)))
        if not isinstance(first, Tensor) or len(first) != 1 or first.nbytes * len(images) > KEPT_BYTES:
            return None
        parts = [_answer(teacher, x).cpu() for x in evaluation.batches(task.data, images, device=device)]
    return torch.cat(parts)


def _answer(teacher: Network, inputs: Tensor) -> Any:
    was_training = teacher.training
    teacher.eval()
    with torch.no_grad():  # not in inference mode, whose tensors no gradient may be computed with
        answer = teacher(inputs)
    teacher.train(was_training)
    return answer
