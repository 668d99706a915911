"""The only evaluation: outputs and score of a network on a split, exits and their gate included."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import TypeVar

import torch
from torch import Tensor, nn

from nacdeploy.data import Dataset, ImageSet
from nacdeploy.network.attachments.early_exit import take_exits
from nacdeploy.network.network import Network, no_grad_eval
from nacdeploy.task import Task

LARGEST_BATCH = 256
_PIXELS_AT_ONCE = 2**19  # tensors above 32 MiB are mapped and unmapped anew by malloc every time, at twice the cost
T = TypeVar("T")


@dataclass(frozen=True)
class Outcome:
    """The task's score, and the fraction of images that left at each exit (the network's own end last)."""

    score: float
    exit_fractions: tuple[float, ...]


@contextmanager
def accelerated(module: nn.Module) -> Iterator[torch.device]:
    """Move the module to the GPU, if there is one, and back at the end of the block."""
    former = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    device = torch.device("cuda") if torch.cuda.is_available() else torch.device("cpu")
    module.to(device)
    try:
        yield device
    finally:
        module.to(former)


def batch_size(images: ImageSet) -> int:
    """Return how many images to run at once: memory grows with the pixels, and larger batches of large images are not
    faster."""
    shape = images.images.shape[1:]
    n_pixels = prod(shape[1:]) if len(shape) > 1 else -(-shape[0] // 3)
    return min(LARGEST_BATCH, max(1, 1 << (max(1, _PIXELS_AT_ONCE // n_pixels).bit_length() - 1)))


def batches(
    data: Dataset, images: ImageSet, size: int | None = None, device: torch.device | None = None
) -> Iterator[Tensor]:
    """Yield normalised images (n, C, H, W) in order, on `device`: `size` at once, or as many as their pixels allow."""
    for part in images.images.split(size or batch_size(images)):
        yield data.normalize(part).to(device)


def predict(network: Network, data: Dataset, images: ImageSet) -> Tensor:
    """Return the outputs (N, K) of the network's own end."""
    return torch.cat([outputs.cpu() for outputs in _map(network, data, images, network)])


def own_score(network: Network, task: Task, images: ImageSet) -> float:
    """Return the score of the network's own end."""
    return task.metric.score(predict(network, task.data, images), images.labels)


def values(network: Network, task: Task, images: ImageSet) -> Tensor:
    """Rate the answers of the network's own end to each image, (N,)."""
    return task.metric.values(predict(network, task.data, images), images.labels)


def predict_exits(network: Network, data: Dataset, images: ImageSet) -> tuple[Tensor, ...]:
    """Return the outputs (N, K) of every exit in order of execution, the network's own last."""
    parts = _map(network, data, images, network.forward_exits)
    return tuple(torch.cat(column).cpu() for column in zip(*parts, strict=True))


def evaluate(network: Network, task: Task, images: ImageSet) -> Outcome:
    """Score the answers of the deployed network: with exits, the answers that the gate lets through."""
    if not network.exits:
        return Outcome(own_score(network, task, images), (1.0,))
    outputs = predict_exits(network, task.data, images)
    thresholds = [float(head.threshold) for head in network.heads.values()]
    answer, taken = take_exits(outputs, thresholds, task.metric.confidence)
    fractions = torch.bincount(taken, minlength=len(outputs)).double() / len(taken)
    return Outcome(task.metric.score(answer, images.labels), tuple(fractions.tolist()))


def _map(network: Network, data: Dataset, images: ImageSet, call: Callable[[Tensor], T]) -> list[T]:
    with no_grad_eval(network), accelerated(network) as device:
        return [call(x) for x in batches(data, images, device=device)]
