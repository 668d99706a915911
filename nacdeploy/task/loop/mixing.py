"""Softened labels, and images that are mixed: batches of images (N, C, H, W) and shares of classes (N, K), or no labels
where a teacher teaches alone."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2

from nacdeploy.base.errors import UsageError
from nacdeploy.metrics import Metric, Softens
from nacdeploy.profile.tables.training import TrainTable

Batches = Callable[[int], Iterable[tuple[Tensor, Any]]]


def mixes(recipe: TrainTable) -> bool:
    """Tell whether a recipe mixes images."""
    return bool(recipe.mixup or recipe.cutmix)


def check(recipe: TrainTable, metric: Metric, are_images: bool, is_labelled: bool = True) -> None:
    """Check that a recipe which softens or mixes goes with a task; a teacher alone reads no labels.

    Raises:
        UsageError: the metric has no classes whose labels could be softened or mixed, or the inputs are no images.
    """
    if not isinstance(metric, Softens) and (is_labelled or recipe.label_smoothing):
        name = "label_smoothing, mixup and cutmix"
        alone = "leave them out, or let the float network teach alone, F(distill=1), which may mix"
        raise UsageError(f"{name} are for tasks with classes; metric '{metric.title}' has none: {alone}")
    if mixes(recipe) and not are_images:
        raise UsageError("mixup and cutmix are for images; this task's inputs are none: leave them out of the recipe")


def softened(batches: Batches, recipe: TrainTable, metric: Any, n_outputs: int) -> Batches:
    """Return batches as the recipe wants them: its label smoothing first, then mixup, cutmix, or one of both by lot
    (Szegedy et al., 2016; Zhang et al., 2018; Yun et al., 2019). What is drawn comes from torch's own generator."""
    mix = _mixer(recipe)

    def epoch_batches(epoch: int) -> Iterator[tuple[Tensor, Any]]:
        for images, labels in batches(epoch):
            shares = metric.softened(labels, n_outputs, recipe.label_smoothing)
            yield (images, shares) if mix is None else mix(images, shares)

    return epoch_batches


def mixed(batches: Batches, recipe: TrainTable) -> Batches:
    """Return batches whose images are mixed as the recipe wants it, without labels."""
    mix = _mixer(recipe)

    def epoch_batches(epoch: int) -> Iterator[tuple[Tensor, Any]]:
        for images, _ in batches(epoch):
            yield images if mix is None else mix(images, torch.zeros(len(images), 1))[0], None

    return epoch_batches


def _mixer(recipe: TrainTable) -> Any:
    kinds = [(recipe.mixup, v2.MixUp), (recipe.cutmix, v2.CutMix)]
    found = [made(alpha=alpha) for alpha, made in kinds if alpha]
    return None if not found else found[0] if len(found) == 1 else v2.RandomChoice(found)
