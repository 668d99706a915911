"""The loss that teaches a network the answers of another one: a metric's own, or one for outputs of any form; softened
labels."""

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from nacdeploy.base.errors import UsageError
from nacdeploy.metrics.base import Metric

# Part of the keys of trainings that distil: raise it when a loss of this package comes out differently.
VERSION = 1
_LEAST_SPREAD = 0.01  # of the answers, as a share of their size: a batch may hold a single number


@runtime_checkable
class Distils(Protocol):
    """A metric with a distillation loss of its own.

    >>> from nacdeploy.metrics import named
    >>> [name for name in ("accuracy", "mae") if isinstance(named(name), Distils)]
    ['accuracy', 'mae']
    """

    def distilled(self, outputs: Any, answers: Any, temperature: float) -> Tensor:
        """Return the loss, a scalar with a gradient, of outputs against the teacher's answers, of the same form."""
        ...


@runtime_checkable
class Softens(Protocol):
    """A metric whose loss also takes softened labels: mixed with one another, or smoothed.

    >>> from nacdeploy.metrics import named
    >>> [name for name in ("accuracy", "mae") if isinstance(named(name), Softens)]
    ['accuracy']
    """

    def softened(self, labels: Tensor, n_outputs: int, smoothing: float) -> Tensor:
        """Return labels as shares of classes (N, K), of which `smoothing` is spread over all of them."""
        ...


def distilled(metric: Metric, outputs: Any, answers: Any, temperature: float) -> Tensor:
    """Return the distillation loss of outputs against the teacher's answers: the metric's own, or `squared_error`."""
    if isinstance(metric, Distils):
        return metric.distilled(outputs, answers, temperature)
    return squared_error(outputs, answers)


def squared_error(outputs: Any, answers: Any) -> Tensor:
    """Return the mean squared error over trees of tensors; each tensor's is counted in variances of the answers.

    Tensors of integers and other leaves (boxes' classes, names) teach nothing and are passed over.

    Raises:
        UsageError: outputs and answers differ in form or shape, or hold no floating-point tensor.
    """
    (own, form), (wanted, answered) = tree_flatten(outputs), tree_flatten(answers)
    pairs = [(a, b) for a, b in zip(own, wanted, strict=False) if isinstance(a, Tensor) and a.is_floating_point()]
    if form != answered or any(not isinstance(b, Tensor) or a.shape != b.shape for a, b in pairs):
        raise UsageError(
            "distillation needs a network whose outputs in training have the form of its outputs in evaluation; "
            "a metric with a method 'distilled' of its own, or distill = 0, would work"
        )
    if not pairs:
        raise UsageError("distillation needs outputs with floating-point tensors; these have none")
    return torch.stack([_error(a, b) for a, b in pairs]).mean()


def _error(outputs: Tensor, answers: Tensor) -> Tensor:
    variance, size = answers.detach().var(correction=0), answers.detach().square().mean()
    scale = variance.clamp(min=float(_LEAST_SPREAD**2 * size))
    return (outputs - answers).square().mean() / torch.where(scale > 0, scale, 1.0)
