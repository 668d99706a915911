"""Data and example inputs of a user's script, in the form that operators look at."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from nacdeploy.base.errors import UsageError
from nacdeploy.data import ImageSet

T = TypeVar("T")
CPU = torch.device("cpu")

# Sides of images that networks are made for, tried where nobody says.
SIDES = (32, 28, 64, 16, 8, 224, 96, 128, 14, 20, 24, 48, 299, 256)


@dataclass(frozen=True, eq=False)
class Given:
    """Inputs (N, ...) as the model takes them, and labels (N,); what a data set is to `settle` and to importances."""

    train: ImageSet
    split_seed: int = 0
    augment: str = "none"
    calibration: ImageSet | None = None
    epochs: None = None

    @property
    def validation(self) -> ImageSet:
        """The same: a script's own validation is its `evaluator`."""
        return self.train

    def normalize(self, images: Tensor) -> Tensor:
        """Return the inputs as they are."""
        return images


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's parameters."""
    return next((parameter.device for parameter in model.parameters()), CPU)


@contextmanager
def placed(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Place the model on a device, and back where it was at the end of the block; its parameters stay the same
    objects."""
    former = device_of(model)
    model.to(device)
    try:
        yield
    finally:
        model.to(former)


def at_home(function: Callable[[nn.Module], T] | None, device: torch.device) -> Callable[[nn.Module], T] | None:
    """Return a script's function of a model, called with the model on the script's own device."""
    if function is None:
        return None

    def call(model: nn.Module) -> T:
        with placed(model, device):
            return function(model)

    return call


def collected(batches: Iterable[tuple[Tensor, Tensor]]) -> Given:
    """Return all batches as one set.

    Raises:
        UsageError: there is none, or they are no pairs of tensors.
    """
    try:
        inputs, labels = zip(*((x.detach().cpu(), y.detach().cpu()) for x, y in batches), strict=True)
    except (TypeError, ValueError, AttributeError) as error:
        raise UsageError("data must give batches of inputs (N, ...) and labels (N,), two tensors each") from error
    return Given(ImageSet(torch.cat(inputs), torch.cat(labels)))


def blank(example: Tensor) -> Given:
    """Two empty inputs, for what looks at weights alone."""
    return Given(ImageSet(torch.zeros(2, *example.shape[1:]), torch.zeros(2, dtype=torch.long)))


def example_of(model: nn.Module, dummy_input: Tensor | None, given: Given | None) -> Tensor:
    """Return an input (1, ...) that the model takes: the one given, one of the data, or the first guess that runs.

    Raises:
        UsageError: no guess runs.
    """
    if dummy_input is not None:
        return dummy_input[:1].detach().cpu()
    if given is not None:
        return given.train.images[:1]
    for shape in _guesses(model):
        if _runs(model, torch.zeros(1, *shape)):
            return torch.zeros(1, *shape)
    raise UsageError("the shape of the model's input cannot be guessed: create_compressor(..., dummy_input=a tensor)")


def _guesses(model: nn.Module) -> Iterator[tuple[int, ...]]:
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)), None)
    if isinstance(first, nn.Conv2d):
        yield from ((first.in_channels, side, side) for side in SIDES)
    elif isinstance(first, nn.Linear):
        yield (first.in_features,)
        for channels in (1, 3):
            side = round((first.in_features / channels) ** 0.5)
            if channels * side * side == first.in_features:
                yield (channels, side, side)


def _runs(model: nn.Module, x: Tensor) -> bool:
    was_training, device = model.training, device_of(model)
    model.eval()
    try:
        with torch.no_grad():
            model(x.to(device))
    except Exception:  # whatever the user's forward raises, the guess was wrong
        return False
    finally:
        model.train(was_training)
    return True
