"""Trainings of whole networks: by the loop of the task's own, or by ours, with a teacher or without."""

from collections.abc import Callable
from dataclasses import replace

from nacdeploy.base.progress import nobody
from nacdeploy.brought import TrainingSettings, own_loop
from nacdeploy.brought.reading import Epochs
from nacdeploy.metrics import is_better
from nacdeploy.network.network import Network
from nacdeploy.profile.tables.training import TrainTable
from nacdeploy.task import Task, distillation, training
from nacdeploy.task import evaluate as evaluation
from nacdeploy.task.distillation import Distillation
from nacdeploy.task.loop import mixing
from nacdeploy.task.loop.together import Together
from nacdeploy.task.loop.unfinished import Unfinished

_NOT_FOLLOWED = ("minutes", "processes")  # a budget, and the processes of our loop
_FOLLOWED = tuple(key for key in TrainTable.later if key not in _NOT_FOLLOWED)


def fit(
    network: Network,
    task: Task,
    recipe: TrainTable,
    seed: int,
    score: Callable[[], float],
    report: training.Report = nobody,
    teacher: Network | None = None,
    how: Distillation | None = None,
    unfinished: Unfinished | None = None,
    together: Together | None = None,
) -> training.Fit:
    """Train a network in place; ours leaves it at its best epoch by `score`, a task's own loop where that loop ends.

    Ours goes on from the last epoch of what is `unfinished`; a task's own loop begins anew.

    Raises:
        UsageError: a task's own loop did what it must not.
        DivergedError: the loss or a value is no number.
    """
    if task.trainer is not None:
        start = score()
        settings = settings_of(recipe, seed, teacher, how)
        budget = task.trainer.budget(recipe.epochs, recipe.minutes)
        n_epochs = own_loop.fit(network, task.trainer, budget, settings, evaluation.accelerated)
        now = score()
        report(n_epochs, recipe.epochs, now)
        is_kept = is_better(task.metric, now, start)
        return training.Fit(n_epochs, n_epochs if is_kept else 0, now if is_kept else start)
    if teacher is None or how is None:
        batches, loss = batches_of(task, recipe, seed), None
    else:
        changed = _changed(task, recipe, is_labelled=how.weight < 1)
        batches = distillation.batches(task, teacher, how, recipe.batch_size, seed, changed)
        loss = distillation.loss(task.metric, how)
    if unfinished is not None and isinstance(task.data.epochs, Epochs):
        unfinished = replace(unfinished, generators=task.data.epochs.generators)
    how_kept = None, loss, unfinished, together
    return training.fit(network, batches, score, task.metric, recipe, seed, report, *how_kept)


def batches_of(task: Task, recipe: TrainTable, seed: int) -> training.Batches:
    """Return the batches of a training on the training split, softened and mixed as its recipe says.

    Raises:
        UsageError: that does not go with the task.
    """
    changed, plain = _changed(task, recipe), training.image_batches
    batches = plain(task.data, task.data.train, recipe.batch_size, seed)
    return batches if changed is None else changed(batches)


def _changed(task: Task, recipe: TrainTable, is_labelled: bool = True) -> distillation.Changed | None:
    """Return what a recipe makes of batches beyond augmentation, None if nothing; a teacher alone reads no labels.

    Raises:
        UsageError: it does not go with the task.
    """
    if not (recipe.label_smoothing or mixing.mixes(recipe)):
        return None
    ports = task.spec.ports
    are_images = len(task.data.input_shape) == 3 and (ports is None or not ports.packs)
    mixing.check(recipe, task.metric, are_images, is_labelled)
    if not is_labelled:
        return lambda batches: mixing.mixed(batches, recipe)
    return lambda batches: mixing.softened(batches, recipe, task.metric, task.data.n_outputs)


def settings_of(recipe: TrainTable, seed: int, teacher: Network | None, how: Distillation | None) -> TrainingSettings:
    """Return a recipe as a loop of the user's own gets it."""
    return TrainingSettings(
        optimizer=recipe.optimizer,
        learning_rate=recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        batch_size=recipe.batch_size,
        schedule=recipe.schedule,
        **{key: getattr(recipe, key) for key in _FOLLOWED},
        seed=seed,
        teacher=None if teacher is None else own_loop.frozen(teacher),
        distill=0.0 if how is None else how.weight,
        temperature=1.0 if how is None else how.temperature,
    )
