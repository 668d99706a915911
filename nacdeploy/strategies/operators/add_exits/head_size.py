"""The grid of heads by what it gains: a linear least-squares probe on pooled features, before any head is trained.

A finer grid keeps where things are, and costs weights and time; the coarsest one that is as good, within the chance of
the images it was tried on, is taken.
"""

from collections.abc import Sequence
from math import sqrt

import torch
from torch import Tensor
from torch.nn import functional

from nacdeploy.data import ImageSet
from nacdeploy.metrics import drop
from nacdeploy.network.attachments.early_exit import ExitHead
from nacdeploy.network.network import Network, Simulation
from nacdeploy.task import Task
from nacdeploy.task import evaluate as evaluation

GRIDS = (1, 2, 4, 8)
N_PROBED = 1000  # images to fit a probe to, and to try it on
_RIDGE = 1e-2  # of the mean square of a feature


def grid_for(network: Network, nodes: Sequence[str], task: Task) -> int:
    """Return the coarsest grid with which a probe at every node scores as well as with the best one.

    Images of validation try what images of training were fitted to. "As well" is within the standard error of a share.
    """
    train, tried = (each.drawn(N_PROBED, task.data.split_seed) for each in (task.data.train, task.data.validation))
    fitted, held_out = (_tensors(network, nodes, task, images) for images in (train, tried))
    return max(_coarsest(fitted[node], held_out[node], train.labels, tried.labels, task) for node in nodes)


def _coarsest(fitted: Tensor, tried: Tensor, labels: Tensor, truth: Tensor, task: Task) -> int:
    """Return the coarsest grid that is good enough for one tensor (N, C, H, W) or (N, L, C)."""
    if fitted.dim() != 4:
        return GRIDS[0]
    useful = [grid for grid in GRIDS if grid <= min(fitted.shape[2:])] or [GRIDS[0]]
    wanted = _targets(labels, task.data.n_outputs)
    scores = {}
    for grid in useful:
        x, y = (_reduced(each, grid, task.data.n_outputs) for each in (fitted, tried))
        scores[grid] = task.metric.score(_probe(x, wanted, y) - 0.5, truth)
    best = min(scores.values(), key=lambda score: drop(task.metric, 0.0, score))
    chance = 100 * sqrt(0.25 / len(truth))
    return next(grid for grid in useful if drop(task.metric, best, scores[grid]) <= chance)


def _tensors(network: Network, nodes: Sequence[str], task: Task, images: ImageSet) -> dict[str, Tensor]:
    """Return the tensors at nodes for images, each (N, ...)."""
    parts: dict[str, list[Tensor]] = {node: [] for node in nodes}

    def note(node: str, value: Tensor) -> None:
        parts[node].append(value.detach().float())

    with torch.inference_mode():
        for x in evaluation.batches(task.data, images):
            network.run(x, Simulation(network), note, set(nodes))
    return {node: torch.cat(values).clone() for node, values in parts.items()}


def _reduced(x: Tensor, grid: int, n_classes: int) -> Tensor:
    return ExitHead("", "", tuple(x.shape), n_classes, grid).reduced(x)


def _targets(labels: Tensor, n_outputs: int) -> Tensor:
    """Return the answers wanted of outputs, (N, K), from 0 to 1."""
    return labels.double() if labels.dim() > 1 else functional.one_hot(labels, n_outputs).double()


def _probe(x: Tensor, wanted: Tensor, y: Tensor) -> Tensor:
    """Return what ridge regression of `wanted` (N, K) on features (N, F) says to other features (M, F)."""
    mean = x.double().mean(0)
    a, b = x.double() - mean, y.double() - mean
    gram = a @ a.T
    ridge = _RIDGE * gram.diagonal().mean() + 1e-12
    solved = torch.linalg.solve(gram + ridge * torch.eye(len(a), dtype=torch.float64), wanted - wanted.mean(0))
    return (b @ a.T @ solved + wanted.mean(0)).float()
