"""The baseline: the trained FP32 network to compare with, and its control row."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

from nacdeploy.base.progress import nobody
from nacdeploy.network.network import Network, content
from nacdeploy.profile import Profile
from nacdeploy.profile.tables.training import TrainTable
from nacdeploy.strategies.operators.finetune.settings import FinetuneTable
from nacdeploy.strategies.operators.quantize.settings import QuantizeTable
from nacdeploy.strategies.state import CompressionState, measure
from nacdeploy.task import Task, training, trainings
from nacdeploy.task import evaluate as evaluation
from nacdeploy.task.distillation import Distillation
from nacdeploy.task.loop.unfinished import Unfinished

Fitting = Callable[..., training.Fit]
Keep = Callable[[Network, Task, TrainTable, int], Unfinished]


def plain_network(task: Task, profile: Profile) -> Network:
    """Make the untrained network of the task on the grid of the profile's target, initialised from the profile's
    seed."""
    grid = profile.target.grid(profile.of(QuantizeTable).grid)
    return Network(task.build(profile.seed), grid, task.spec.input_shape).eval()


def initial_state(network: Network, task: Task) -> CompressionState:
    """Return the state before any letter."""
    metrics = measure(network, task)
    return CompressionState(network, metrics, metrics)


@dataclass(frozen=True)
class Teacher:
    """A trained network whose answers a smaller one learns from, and how."""

    network: Network
    how: Distillation


def train_network(
    network: Network,
    task: Task,
    recipe: TrainTable,
    seed: int,
    report: training.Report = nobody,
    teacher: Teacher | None = None,
    unfinished: Unfinished | None = None,
    fit: Fitting = trainings.fit,
) -> training.Fit:
    """Train in place by `recipe`, by the labels or with a teacher, and keep the best epoch on the validation split.

    `fit` trains (with the arguments of `trainings.fit`): here, or in several processes.
    """

    def score() -> float:
        return evaluation.evaluate(network, task, task.data.validation).score

    other, how = (teacher.network, teacher.how) if teacher else (None, None)
    start = copy.deepcopy(content(network)) if task.trainer else {}
    done = fit(network, task, recipe, seed, score, report, other, how, unfinished)
    if start and done.best_epoch == 0:  # a loop of the user's own ends where it ends
        network.load_state_dict(start)
    return done


def control(
    baseline: CompressionState,
    n_epochs: int,
    task: Task,
    profile: Profile,
    report: training.Report = nobody,
    keep: Keep | None = None,
    fit: Fitting = trainings.fit,
) -> CompressionState:
    """Train the FP32 baseline for `n_epochs` more of the finetune recipe: the honest opponent of a chain that
    trained.

    `keep` says where the training is kept while it is under way, by network, task, recipe and seed.
    """
    network = copy.deepcopy(baseline.network)
    recipe = profile.of(FinetuneTable).model_copy(update={"epochs": n_epochs, "early_stop_patience": None})
    seed = training.seed_of(profile.seed, baseline.key, "control")
    unfinished = keep(network, task, recipe, seed) if keep is not None else None
    train_network(network, task, recipe, seed, report, unfinished=unfinished, fit=fit)
    return initial_state(network, task)
