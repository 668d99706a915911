"""ADMM pruning: training draws the weights towards sparse ones before they are cut (Zhang et al., 2018)."""

import copy
import itertools
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from nacdeploy.experiments.procedures.run import LEVEL, Run, units
from nacdeploy.network.attachments import sparsity
from nacdeploy.network.attachments.sparsity import ELEMENT, Sparsity
from nacdeploy.network.network import Network
from nacdeploy.strategies.chain import Link
from nacdeploy.strategies.operators.finetune.operator import FinetuneDecision
from nacdeploy.strategies.operators.finetune.settings import FinetuneTable
from nacdeploy.strategies.settle import choose_statistics, settle
from nacdeploy.strategies.state import CompressionState, Step, measure
from nacdeploy.surgery.channels import channel_groups, channel_importance
from nacdeploy.surgery.channels.channel_choice import PRODUCER, Group, Member
from nacdeploy.task import training, trainings

N_ITERATIONS, N_EPOCHS, ROW = 30, 5, 1e-4
Weights = dict[str, Tensor]


def compress(run: Run) -> CompressionState:
    """ADMM training, then one S or P at the shares that it trained for, then F."""
    algorithm = run.setting("base_algo", "l1")
    shares = units(run, algorithm).shares
    n_iterations, n_epochs = run.setting("num_iterations", N_ITERATIONS), run.setting("training_epochs", N_EPOCHS)
    state = regularised(run, run.start, shares, algorithm, n_iterations, n_epochs)
    return run.pruned(state, shares, algorithm, "F")


def regularised(
    run: Run, state: CompressionState, shares: Mapping[str, float], algorithm: str, n_iterations: int, n_epochs: int
) -> CompressionState:
    """Return the state after training with penalty rho / 2 ||W - Z + U||^2, in turns with Z = projection(W + U) and U =
    U + W - Z (Zhang et al., 2018, eq. 7 to 9). In its chain it is one F.

    Args:
        shares: what is to be zero of each layer (`level`), or of each group's channels by its root.
    """
    network = copy.deepcopy(state.network)
    project = _Projection(network, shares, algorithm)
    u = {name: torch.zeros_like(w) for name, w in project.weights().items()}
    z = project(project.weights(), u)
    recipe = run.profile.of(FinetuneTable).model_copy(update={"epochs": n_epochs, "early_stop_patience": None})
    for iteration in range(n_iterations):
        seed = training.seed_of(run.profile.seed, state.key, f"admm {iteration}")
        batches = trainings.batches_of(run.task, recipe, seed)
        metric = run.task.metric  # the last epoch counts as the best: the penalty moves on with it
        newest = itertools.count(0, 1 if metric.higher_is_better else -1).__next__
        training.fit(network, batches, newest, metric, recipe, seed, penalty=_Penalty(z, u, _row(run)))
        w = project.weights()
        z = project(w, u)
        u = {name: u[name] + w[name] - z[name] for name in w}
    choose_statistics(network, run.task, run.profile)
    settle(network, run.task, run.profile)
    metrics = measure(network, run.task)
    run.report(metrics.quality)
    total = n_iterations * n_epochs
    step = Step(Link("F", (("epochs", total),)), FinetuneDecision(recipe.model_copy(update={"epochs": total})), total)
    return replace(state, network=network, metrics=metrics, steps=(*state.steps, step))


def _row(run: Run) -> float:
    return float(run.setting("row", ROW))


class _Penalty:
    """rho / 2 times the squared distance of the backbone's weights to Z - U."""

    def __init__(self, z: Weights, u: Weights, rho: float) -> None:
        self._goal, self._rho = {name: z[name] - u[name] for name in z}, rho

    def __call__(self, module: nn.Module) -> Tensor:
        terms = []
        for name, goal in self._goal.items():
            weight: Tensor = module.get_submodule(f"backbone.{name}").weight  # type: ignore[assignment]
            terms.append((weight - goal.to(weight.device)).square().sum())
        return self._rho / 2 * torch.stack(terms).sum()


class _Projection:
    """The nearest weights with the asked share of zeros: of elements layer by layer, or of whole channels, the same in
    all layers that share them, least L1 norm first."""

    def __init__(self, network: Network, shares: Mapping[str, float], algorithm: str) -> None:
        self._network, self._shares, self._is_level = network, shares, algorithm == LEVEL
        self._groups: list[Group] = []
        if not self._is_level:
            self._groups = [g for g in channel_groups.groups(network) if g.root in shares]

    def weights(self) -> Weights:
        """Return the weights (O, ...) of the layers that are drawn, by layer."""
        names = (
            self._shares if self._is_level else [m.layer for g in self._groups for m in _producers(g, self._network)]
        )
        backbone = self._network.backbone
        return {n: backbone.get_submodule(n).weight.detach().cpu().clone() for n in names}  # type: ignore[operator]

    def __call__(self, w: Weights, u: Weights) -> Weights:
        moved = {name: w[name] + u[name] for name in w}
        return self._elements(moved) if self._is_level else self._channels(moved)

    def _elements(self, moved: Weights) -> Weights:
        rules = {name: Sparsity(ELEMENT, share) for name, share in self._shares.items()}
        return {name: moved[name] * sparsity.mask(moved[name], rule) for name, rule in rules.items()}

    def _channels(self, moved: Weights) -> Weights:
        projected = {name: weight.clone() for name, weight in moved.items()}
        for group in self._groups:
            members = _producers(group, self._network)
            scores = torch.zeros(group.n_channels)
            for m in members:
                scores += channel_importance.per_channel(
                    channel_importance.filter_l1(moved[m.layer]), m, group.n_channels
                )
            gone = scores.argsort(stable=True)[: int(self._shares[group.root] * group.n_channels)]
            for m in members:
                index = torch.tensor(m.indices).reshape(group.n_channels, -1)[gone].flatten()
                projected[m.layer][index] = 0.0
        return projected


def _producers(group: Group, network: Network) -> list[Member]:
    known = network.layers
    return [m for m in group.members if m.role == PRODUCER and m.layer in known]
