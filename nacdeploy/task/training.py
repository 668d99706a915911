"""The only training loop: minimise the metric's loss, keep a real copy of the best epoch by validation."""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.utils._pytree import tree_map_only

from nacdeploy.base.errors import DivergedError, NacdeployError, UsageError
from nacdeploy.base.progress import nobody
from nacdeploy.data import Dataset, ImageSet, augmented
from nacdeploy.metrics import Metric, is_better
from nacdeploy.network.network import lay_out
from nacdeploy.profile.tables.training import TrainTable
from nacdeploy.task import evaluate as evaluation

_NARROW, _LARGE = 16, 44  # channels, pixels: see `_is_narrow`
VERSION = 1  # part of the keys of a search's memory: raise it when trainings come out differently

Batches = Callable[[int], Iterable[tuple[Tensor, Any]]]
Loss = Callable[[Any, Any], Tensor]
Report = Callable[[int, int, float], None]
Penalty = Callable[[nn.Module], Tensor]


@dataclass(frozen=True)
class Fit:
    """The outcome of a training: epochs run, the best epoch (0 is the start) and its score on validation."""

    n_epochs: int
    best_epoch: int
    score: float


def seed_of(run_seed: int, state_key: str, purpose: str) -> int:
    """Return a seed for one purpose in one state: nothing draws from a global stream."""
    return int.from_bytes(hashlib.sha256(f"{run_seed}/{state_key}/{purpose}".encode()).digest()[:6])


def fit(
    module: nn.Module,
    batches: Batches,
    score: Callable[[], float],
    metric: Metric,
    recipe: TrainTable,
    seed: int,
    report: Report = nobody,
    penalty: Penalty | None = None,
    loss: Loss | None = None,
) -> Fit:
    """Train `module` (inputs to outputs (N, K)) in place and leave it at its best epoch by `score`, the start included.

    A `penalty` of the module is added to the loss. The loss of outputs and targets (a tensor or a tree of tensors, as
    the batches yield them) is `loss`, or the metric's.

    Raises:
        DivergedError: the loss is not a number; the module is back at its best epoch.
    """
    with torch.random.fork_rng(devices=[]), evaluation.accelerated(module):
        torch.manual_seed(seed)
        return _fit(module, batches, score, metric, recipe, report, penalty, loss or metric.loss)


def _fit(
    module: nn.Module,
    batches: Batches,
    score: Callable[[], float],
    metric: Metric,
    recipe: TrainTable,
    report: Report,
    penalty: Penalty | None,
    loss: Loss,
) -> Fit:
    lay_out(module, torch.channels_last)  # a fifth faster on a CPU
    optimizer = _optimizer(module, recipe)
    schedule = _schedule(optimizer, recipe, metric)
    best, kept, epoch = Fit(0, 0, score()), _copy(module), 0
    for epoch in range(1, recipe.epochs + 1):
        try:
            _epoch(module, batches(epoch), loss, optimizer, penalty)
        except (DivergedError, RuntimeError, ValueError, OverflowError) as error:
            module.load_state_dict(kept)
            module.eval()
            if isinstance(error, DivergedError):
                raise
            raise NacdeployError(f"training fails in epoch {epoch}: {error}; see the recipe in the profile") from error
        now = score()
        report(epoch, recipe.epochs, now)
        if is_better(metric, now, best.score):
            best, kept = Fit(epoch, epoch, now), _copy(module)
        schedule(now)
        if recipe.early_stop_patience is not None and epoch - best.best_epoch > recipe.early_stop_patience:
            break
    module.load_state_dict(kept)
    lay_out(module, torch.contiguous_format)
    return Fit(epoch, best.best_epoch, best.score)


def image_batches(data: Dataset, images: ImageSet, batch_size: int, seed: int, targets: Any = None) -> Batches:
    """Return a function from an epoch to shuffled, augmented, normalised batches, which follow from the seed and the
    epoch.

    `targets`, a tree of tensors (N, ...), stand in place of the labels.
    """
    own = data.epochs
    if own is not None:
        return lambda epoch: own(batch_size, seed, epoch)
    wanted = images.labels if targets is None else targets

    def epoch_batches(epoch: int) -> Iterator[tuple[Tensor, Any]]:
        generator = torch.Generator().manual_seed(seed + epoch)
        order = torch.randperm(len(images), generator=generator)
        for index in _whole_batches(order, batch_size):
            pictures = augmented(images.batch(index), data.augment, generator)
            yield data.normalize(pictures), _at(wanted, index)

    return epoch_batches


def tensor_batches(inputs: Tensor, targets: Any, batch_size: int, seed: int) -> Batches:
    """Return a function from an epoch to shuffled batches of tensors (N, ...) in memory, such as the features that an
    exit head reads, and of their targets, a tensor or a tree of tensors (N, ...)."""

    def epoch_batches(epoch: int) -> Iterator[tuple[Tensor, Any]]:
        order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed + epoch))
        for index in _whole_batches(order, batch_size):
            yield inputs[index], _at(targets, index)

    return epoch_batches


def _at(targets: Any, index: Tensor) -> Any:
    return tree_map_only(Tensor, lambda values: values[index], targets)


def _whole_batches(order: Tensor, batch_size: int) -> list[Tensor]:
    """Split into batches of `batch_size`; a last batch of one image joins its neighbour, since batch norm needs two."""
    parts = list(order.split(batch_size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def _epoch(
    module: nn.Module,
    batches: Iterable[tuple[Tensor, Any]],
    loss_of: Loss,
    optimizer: torch.optim.Optimizer,
    penalty: Penalty | None,
) -> None:
    module.train()
    device, is_narrow = next(module.parameters()).device, any(map(_is_narrow, module.modules()))
    for inputs, targets in batches:
        layout = torch.channels_last if inputs.dim() == 4 else torch.contiguous_format
        if is_narrow and inputs.dim() == 4 and max(inputs.shape[2:]) >= _LARGE:
            layout = torch.contiguous_format
            lay_out(module, layout)
        outputs = module(inputs.to(device).contiguous(memory_format=layout))
        loss = loss_of(outputs, tree_map_only(Tensor, lambda values: values.to(device), targets))
        if penalty is not None:
            loss = loss + penalty(module)
        if not math.isfinite(loss.item()):
            raise DivergedError("the loss is not a number; a lower learning_rate in the profile's recipe would work")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    module.eval()


def _is_narrow(layer: nn.Module) -> bool:
    """Tell whether torch would write beyond its memory in a layer's backward run, in the layout of channels last.

    Its 1x1 convolutions with a stride do so on a CPU (torch 2.14 with oneDNN 3.12 and AVX512) for up to ten input
    channels and images from 48 px on, and take the process with them. The bounds here leave some room.
    """
    if not isinstance(layer, nn.Conv2d):
        return False
    return max(layer.kernel_size) == 1 and max(layer.stride) > 1 and layer.in_channels < _NARROW


def _optimizer(module: nn.Module, recipe: TrainTable) -> torch.optim.Optimizer:
    """Make the optimizer; weight decay spares biases, norms and other vectors."""
    matrices = [p for p in module.parameters() if p.requires_grad and p.dim() > 1]
    vectors = [p for p in module.parameters() if p.requires_grad and p.dim() <= 1]
    if not matrices and not vectors:
        raise UsageError("the network has no trainable parameter")
    groups = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum)
    return torch.optim.AdamW(groups, lr=recipe.learning_rate)


def _schedule(optimizer: torch.optim.Optimizer, recipe: TrainTable, metric: Metric) -> Callable[[float], None]:
    if recipe.schedule == "plateau":
        mode: Literal["max", "min"] = "max" if metric.higher_is_better else "min"
        plateau = lr_scheduler.ReduceLROnPlateau(
            optimizer, mode=mode, factor=recipe.plateau_factor, patience=recipe.plateau_patience
        )
        return lambda score: plateau.step(score)
    if recipe.schedule == "cosine":
        cosine = lr_scheduler.CosineAnnealingLR(optimizer, max(recipe.epochs, 1))
        return lambda score: cosine.step()
    return lambda score: None


def _copy(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
