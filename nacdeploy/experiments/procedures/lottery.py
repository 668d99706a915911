"""Lottery tickets: prune what is small after training, go back to the first weights, train again (Frankle & Carbin,
2019)."""

import copy
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from nacdeploy.experiments.procedures.run import LEVEL, Run, units
from nacdeploy.network.network import Network
from nacdeploy.strategies.baseline import plain_network
from nacdeploy.strategies.settle import choose_statistics, settle
from nacdeploy.strategies.state import CompressionState, measure

N_ITERATIONS = 3


def compress(run: Run) -> CompressionState:
    """Rounds of S, rewinding and training: after k of n rounds the share 1 - (1 - s)^(k/n) is zero.

    The first weights are those that the profile's seed draws, or those after `rewind_epochs` of training (Frankle et
    al., 2020). Training is by the profile's `train` recipe.
    """
    shares, n_rounds = units(run, LEVEL).shares, run.setting("prune_iterations", N_ITERATIONS)
    first = _first_weights(run)
    recipe = {"finetune": run.profile.train.model_dump(mode="json")}
    state = run.start
    for k in range(1, n_rounds + 1):
        state = run.pruned(state, {name: 1 - (1 - share) ** (k / n_rounds) for name, share in shares.items()}, LEVEL)
        if run.setting("reset_weights", True):
            state = _rewound(run, state, first)
        state = run.follow(state, "F", recipe)
    return state


def _first_weights(run: Run) -> dict[str, Tensor]:
    network = plain_network(run.task, run.profile)
    n_epochs = run.setting("rewind_epochs", 0)
    if n_epochs:
        recipe = run.profile.train.model_dump(mode="json") | {"epochs": n_epochs, "early_stop_patience": None}
        start = replace(run.start, network=network, metrics=measure(network, run.task), steps=())
        network = run.quietly().follow(start, "F", {"finetune": recipe}).network
    return dict(network.backbone.state_dict())


def _rewound(run: Run, state: CompressionState, first: dict[str, Tensor]) -> CompressionState:
    network = _with_weights_of(state, first)
    choose_statistics(network, run.task, run.profile)
    settle(network, run.task, run.profile)
    return replace(state, network=network, metrics=measure(network, run.task))


def _with_weights_of(state: CompressionState, values: Mapping[str, torch.Tensor]) -> Network:
    """Return a copy of a state's network with other backbone values of the same shapes; masks and quantizers stay."""
    network = copy.deepcopy(state.network)
    network.backbone.load_state_dict(dict(values))
    return network
