"""The only evaluation: logits and accuracy of a network on a split, exits and their gate included."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from nacdeploy import task as tasks
from nacdeploy.data import Dataset, ImageSet
from nacdeploy.layers.early_exit import take_exits
from nacdeploy.layers.network import Network, no_grad_eval

LARGEST_BATCH = 256
_PIXELS_AT_ONCE = 2**19  # tensors above 32 MiB are mapped and unmapped anew by malloc every time, at twice the cost
T = TypeVar("T")


@dataclass(frozen=True)
class Outcome:
    """Accuracy as a fraction, and the fraction of images that left at each exit (the network's own end last)."""

    accuracy: float
    exit_fractions: tuple[float, ...]


@contextmanager
def accelerated(module: nn.Module) -> Iterator[torch.device]:
    """The module on the GPU where there is one, and back where it was at the end of the block."""
    former = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    device = torch.device("cuda") if torch.cuda.is_available() else torch.device("cpu")
    module.to(device)
    try:
        yield device
    finally:
        module.to(former)


def batch_size(images: ImageSet) -> int:
    """How many images are run at once: what a network holds of them grows with their pixels, and larger batches of
    large images are not faster."""
    height, width = images.images.shape[-2:]
    return min(LARGEST_BATCH, max(1, 1 << (max(1, _PIXELS_AT_ONCE // (height * width)).bit_length() - 1)))


def batches(
    data: Dataset, images: ImageSet, size: int | None = None, device: torch.device | None = None
) -> Iterator[Tensor]:
    """Normalised images (n, C, H, W) in order, on `device`; as many at once as their size allows, or `size`."""
    for part in images.images.split(size or batch_size(images)):
        yield data.normalize(part).to(device)


def predict(network: Network, data: Dataset, images: ImageSet) -> Tensor:
    """The network's own logits (N, K)."""
    return torch.cat([logits.cpu() for logits in _map(network, data, images, network)])


def correct(network: Network, data: Dataset, images: ImageSet) -> Tensor:
    """Which images (N,) the network's own end names rightly."""
    return predict(network, data, images).argmax(1) == images.labels


def predict_exits(network: Network, data: Dataset, images: ImageSet) -> tuple[Tensor, ...]:
    """The logits (N, K) of every exit in order of execution, the network's own last."""
    parts = _map(network, data, images, network.forward_exits)
    return tuple(torch.cat(column).cpu() for column in zip(*parts, strict=True))


def evaluate(network: Network, data: Dataset, images: ImageSet) -> Outcome:
    """The accuracy of what the deployed network answers: with exits, of what the gate lets through."""
    if not network.exits:
        return Outcome(_accuracy(predict(network, data, images), images.labels), (1.0,))
    logits = predict_exits(network, data, images)
    answer, taken = take_exits(logits, [float(head.threshold) for head in network.heads.values()])
    fractions = torch.bincount(taken, minlength=len(logits)).double() / len(taken)
    return Outcome(_accuracy(answer, images.labels), tuple(fractions.tolist()))


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    return tasks.n_correct(logits, labels) / len(labels)


def _map(network: Network, data: Dataset, images: ImageSet, call: Callable[[Tensor], T]) -> list[T]:
    with no_grad_eval(network), accelerated(network) as device:
        return [call(x) for x in batches(data, images, device=device)]
