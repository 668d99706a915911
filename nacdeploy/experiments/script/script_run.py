"""A run with the user's own training and evaluation: the letters' choices and surgery are those of every chain."""

import copy
from collections.abc import Callable
from dataclasses import replace

from torch import nn

from nacdeploy.base.errors import RefusedError
from nacdeploy.base.progress import Say
from nacdeploy.experiments.procedures.run import Follower
from nacdeploy.network.cost import cost
from nacdeploy.network.network import Network
from nacdeploy.profile import Profile
from nacdeploy.strategies.chain import Chain, Link
from nacdeploy.strategies.settle import choose_statistics, settle
from nacdeploy.strategies.state import CompressionState, Metrics, Step
from nacdeploy.strategies.steps import letters
from nacdeploy.task import Task

Evaluator = Callable[[nn.Module], float]
Trainer = Callable[[nn.Module], None]


def initial(network: Network, evaluator: Evaluator | None) -> CompressionState:
    """Return the state before anything is done; without an evaluator its score is 0."""
    metrics = _measured(network, evaluator)
    return CompressionState(network, metrics, metrics)


def follower(task: Task, evaluator: Evaluator | None, trainer: Trainer | None, *, has_data: bool) -> Follower:
    """Return the follower of a chain: F is the trainer (nothing without one), batch norms are settled if there are
    data."""

    def follow(
        chain: Chain, state: CompressionState, profile: Profile, report: Callable[[float], None]
    ) -> CompressionState:
        for link in chain:
            state = _trained(state, link, trainer, profile) if link.letter == "F" else _cut(state, link, profile)
            state = replace(state, metrics=_measured(state.network, evaluator))
            report(state.metrics.score)
        return state

    def _cut(state: CompressionState, link: Link, profile: Profile) -> CompressionState:
        operator = letters.make(link, profile)
        reason = letters.refusal(operator, state)
        if reason is not None:
            raise RefusedError(f"{operator.letter} ({operator.name}) is refused: {reason}")
        decision = operator.decide(state, task)
        network = operator.perform(state.network, decision)
        if has_data:
            choose_statistics(network, task, profile)
            settle(network, task, profile)
        return replace(state, network=network, steps=(*state.steps, Step(link, decision)))

    return follow


def _trained(state: CompressionState, link: Link, trainer: Trainer | None, profile: Profile) -> CompressionState:
    if trainer is None:
        return state
    network = copy.deepcopy(state.network)
    trainer(network)
    decision = letters.make(link, profile).decide(state, None)  # type: ignore[arg-type]
    return replace(state, network=network.eval(), steps=(*state.steps, Step(link, decision)))


def _measured(network: Network, evaluator: Evaluator | None) -> Metrics:
    score = float(evaluator(network)) if evaluator is not None else 0.0
    return Metrics(score, "validation", 0, cost(network.eval(), network.example_input()))


def said_once(say: Say) -> Say:
    """Says each line once."""
    said: set[str] = set()

    def unless_said(line: str) -> None:
        if line not in said:
            said.add(line)
            say(line)

    return unless_said
