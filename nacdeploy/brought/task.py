"""Task: a network, data, a loss and a metric of the user's own, as they are."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from nacdeploy.base.errors import UsageError
from nacdeploy.brought.sources import Unpack, by_convention
from nacdeploy.brought.training import Budget, TrainingSettings


@dataclass(frozen=True)
class Measure:
    """A metric by its facts: the function, its name and unit, and its direction.

    `function` takes predictions and targets of a whole split and returns a number; or it is a torchmetrics metric, of
    whose answers `key` picks one (`MeanAveragePrecision` gives "map" and others).

        >>> from nacdeploy import Measure
        >>> error = lambda found, wanted: (found - wanted).square().mean().sqrt()
        >>> rmse = Measure(error, "rmse", "m", lower_is_better=True)
        >>> rmse.name, rmse.unit
        ('rmse', 'm')
    """

    function: Any
    name: str
    unit: str = ""
    lower_is_better: bool = False
    key: str | None = None


@dataclass(frozen=True, eq=False)
class Task:
    """A task of one's own: modules, datasets and loaders as they are, no base class.

        >>> import torch
        >>> from torch import nn
        >>> import nacdeploy
        >>> images, labels = torch.rand(96, 1, 8, 8), torch.arange(96) % 4
        >>> model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4))
        >>> part = lambda a, b: (images[a:b], labels[a:b])
        >>> task = nacdeploy.Task(model, train=part(0, 32), validation=part(32, 64), test=part(64, 96))
        >>> result = nacdeploy.transfer(strategy="Q", task=task, profile="tiny.toml", wandb=False)
        >>> type(result.network).__name__
        'Network'

    Attributes:
        model: the network with its trained values.
        train: data for F, and for calibration if there are no others: a torch `DataLoader` or `Dataset`, a tuple of
            tensors, a list of batches, any iterable of batches that can be walked through again. F walks through a
            loader as it is, so that its shuffling, augmentation and workers are the user's.
        validation: data for every decision.
        test: data for the scores at the end, read once; without them the scores at the end are validation's.
        calibration: inputs for Q's ranges and for statistics, instead of the training data; targets are not read.
        loss: `loss(outputs, targets)`, a scalar with a gradient; cross entropy if targets are classes.
        metric: a `Measure`, a torchmetrics metric or a function `(predictions, targets) -> number`, more being better
            unless it says otherwise; accuracy if targets are classes.
        postprocess: from the network's outputs to the predictions that the metric takes. It is no part of artifacts.
        deployable: from the network to the module that is compressed and exported, such as a detector without its
            decoding; that module's outputs are what `loss` and `postprocess` take.
        unpack: from a batch to `(inputs, targets)`; by default `sources.by_convention`.
        trainer: `trainer(model, settings, budget)`, a training loop of one's own in place of ours wherever networks are
            trained; it trains `model` in place, called as the network is, with the quantizers and masks of the moment
            in its `forward`. `settings` are `TrainingSettings`, `budget` is a `Budget`.
        class_names: the names of the classes, if the outputs are classes.
        name: the name of the task in messages and records.
    """

    model: nn.Module
    train: Any = None
    validation: Any = None
    test: Any = None
    calibration: Any = None
    loss: Callable[[Any, Any], Any] | None = None
    metric: Any = None
    postprocess: Callable[[Any], Any] | None = None
    deployable: Callable[[nn.Module], nn.Module] | None = None
    unpack: Unpack | None = None
    trainer: Callable[[nn.Module, TrainingSettings, Budget], Any] | None = None
    class_names: Sequence[str] = ()
    name: str = ""
    _deployed: list[nn.Module] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.model, nn.Module):
            raise UsageError(f"Task(model) takes a torch.nn.Module, not {type(self.model).__name__}")
        if self.validation is None:
            raise UsageError("Task(validation=) is missing: every decision is made on validation data")
        if self.train is None and self.calibration is None:
            raise UsageError("Task(train=) or Task(calibration=) is missing: ranges are found on such data")
        for key in ("loss", "postprocess", "deployable", "unpack", "trainer"):
            if getattr(self, key) is not None and not callable(getattr(self, key)):
                raise UsageError(f"Task({key}=) takes a function, not {type(getattr(self, key)).__name__}")

    def network(self) -> nn.Module:
        """Return the module that is compressed and exported, in evaluation mode.

        Raises:
            UsageError: `deployable` fails or returns no module.
        """
        if not self._deployed:
            made = self.model if self.deployable is None else self._made()
            self._deployed.append(made.eval())
        return self._deployed[0]

    def _made(self) -> nn.Module:
        assert self.deployable is not None
        try:
            made = self.deployable(self.model)
        except Exception as error:
            raise UsageError(f"Task(deployable=) fails: {type(error).__name__}: {str(error)[:300]}") from error
        if not isinstance(made, nn.Module):
            raise UsageError(f"Task(deployable=) returns {type(made).__name__}; needed: a torch.nn.Module")
        return made

    @property
    def arguments(self) -> tuple[str, ...]:
        """The names of the arguments of the deployed network's `forward`."""
        named: Any = getattr(self.network(), "input_names", None)
        if named is not None:
            return tuple(named)
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        parameters = inspect.signature(self.network().forward).parameters.values()
        return tuple(each.name for each in parameters if each.kind in (*kinds, inspect.Parameter.KEYWORD_ONLY))

    @property
    def unpacking(self) -> Unpack:
        """The way from a batch to inputs and targets."""
        return self.unpack or by_convention(self.arguments)
