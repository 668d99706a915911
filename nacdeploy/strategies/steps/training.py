"""The trainings of a step: of the backbone, by labels or by a teacher, and of the exit heads."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nacdeploy.data import ImageSet
from nacdeploy.metrics import distillation, is_better
from nacdeploy.network.network import Network
from nacdeploy.profile import Profile
from nacdeploy.profile.tables.training import TrainTable
from nacdeploy.strategies.settle import settle_trained
from nacdeploy.strategies.state import Step, plain_key
from nacdeploy.strategies.steps import processes
from nacdeploy.task import Task, training
from nacdeploy.task import distillation as distillations
from nacdeploy.task import evaluate as evaluation
from nacdeploy.task.distillation import Distillation
from nacdeploy.task.loop.unfinished import Unfinished


@dataclass(frozen=True)
class Lesson:
    """A training that is taught by another network."""

    teacher: Network
    how: Distillation

    @property
    def context(self) -> dict[str, Any]:
        """The facts that decide the training besides those that decide any training."""
        return {"teacher": plain_key(self.teacher), "how": vars(self.how), "distillation": distillation.VERSION}


def trained_backbone(
    network: Network,
    recipe: TrainTable,
    lesson: Lesson | None,
    task: Task,
    profile: Profile,
    seed: int,
    report: training.Report,
    unfinished: Unfinished | None = None,
    steps: Sequence[Step] = (),
) -> tuple[Network, int]:
    """Train a copy, to which `steps` lead from the task's network, and settle it; return it, or `network` if that is
    better on validation, and the epochs run."""

    def score_of(candidate: Network) -> float:
        return evaluation.own_score(candidate, task, task.data.validation)

    trained = copy.deepcopy(network)
    teacher, how = (lesson.teacher, lesson.how) if lesson else (None, None)
    where = processes.Place(profile, steps)
    given = trained, task, recipe, seed, lambda: score_of(trained), report, teacher, how, unfinished
    done = processes.fit(*given, where)
    settle_trained(trained, task, profile)
    better = network if is_better(task.metric, score_of(network), score_of(trained)) else trained
    return better, done.n_epochs


def train_heads(network: Network, recipe: TrainTable, taught: Distillation | None, task: Task, seed: int) -> None:
    """Train every head anew on the features it reads, the backbone in evaluation mode and out of reach.

    Where F distils, the answers of the network's own end teach the heads.
    """
    train, validation = task.data.train, task.data.validation
    (inputs, answers), (held_out, _), truth = (
        _read(network, task, train),
        _read(network, task, validation),
        validation.labels,
    )
    targets = (distillations.labels_for(train, taught), answers) if taught else train.labels
    loss = distillations.loss(task.metric, taught) if taught else None
    for node, head in network.heads.items():
        head.reset(seed, inputs[node])

        def score(part: nn.Module = head.classifier, features: Tensor = held_out[node]) -> float:
            place = next(part.parameters()).device
            with torch.no_grad():
                return task.metric.score(part(features.to(place)).cpu(), truth)

        batches = training.tensor_batches(inputs[node], targets, recipe.batch_size, seed)
        training.fit(head.classifier, batches, score, task.metric, recipe, seed, loss=loss)


def _read(network: Network, task: Task, images: ImageSet) -> tuple[dict[str, Tensor], Tensor]:
    """Return the inputs of each head's classifier, (N, ...) by node, and the answers of the network's own end
    (N, K)."""
    parts: dict[str, list[Tensor]] = {node: [] for node in network.heads}
    answers: list[Tensor] = []
    with torch.no_grad(), evaluation.accelerated(network) as device:
        for x in evaluation.batches(task.data, images, device=device):
            values, answer = network.features(x)
            answers.append(answer.cpu())
            for node, head in network.heads.items():
                parts[node].append(head.reduced(values[node]).cpu())
    return {node: torch.cat(values) for node, values in parts.items()}, torch.cat(answers)
