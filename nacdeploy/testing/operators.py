"""The laws of an operator, as functions that raise if a law is broken; for the operators of other packages too.

Each takes the inputs of one trial of the operator: a link (the letter with its parameters), a state that is not
changed, its task and profile. The numbers are those of the laws in docs/architecture.md.
"""

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from nacdeploy.base import records
from nacdeploy.base.errors import NacdeployError, RefusedError
from nacdeploy.network.cost import cost
from nacdeploy.network.network import Network, content, no_grad_eval
from nacdeploy.profile import Profile
from nacdeploy.strategies.chain import Link
from nacdeploy.strategies.state import CompressionState, state_key
from nacdeploy.strategies.steps import checkpoint, letters
from nacdeploy.strategies.steps.advance import advance
from nacdeploy.task import Task

Figure = Callable[[CompressionState, CompressionState], bool]


class BrokenLawError(AssertionError):
    """An operator broke a law; the text says which and how."""


def check_perform_is_deterministic(link: Link, state: CompressionState, task: Task, profile: Profile) -> None:
    """Law 1: `perform` twice from one network gives equal structure and weights, and leaves that network alone."""
    operator = letters.make(link, profile)
    before = state.key
    decision = operator.decide(state, task)
    first, second = (operator.perform(state.network, decision) for _ in range(2))
    require(state_key(first) == state_key(second), f"{link}: perform twice from one network gives two networks")
    require(str(first) == str(second), f"{link}: perform twice from one network gives two structures")
    require(state.key == before, f"{link}: decide or perform changed the network that they were given")


def check_replay_gives_the_same_shapes(link: Link, state: CompressionState, task: Task, profile: Profile) -> None:
    """Law 2: replaying the steps on a freshly built network gives the same shapes, before any value is loaded."""
    after = advance(state, link, task, profile)
    replayed = checkpoint.rebuild(task.spec, after.network.grid.name, profile, after.steps)
    require(_shapes(replayed) == _shapes(after.network), f"{link}: its steps replayed give other shapes")
    require(str(replayed) == str(after.network), f"{link}: its steps replayed give another structure")


def check_decision_survives_json(link: Link, state: CompressionState, task: Task, profile: Profile) -> None:
    """Law 3: a decision that went through JSON text is the same, and so is its result."""
    operator = letters.make(link, profile)
    decision = operator.decide(state, task)
    read: Any = records.from_data(operator.decision_type, json.loads(json.dumps(records.to_data(decision))))
    require(read == decision, f"{link}: the decision is another after JSON: {read} instead of {decision}")
    performed = (operator.perform(state.network, each) for each in (decision, read))
    require(len({state_key(network) for network in performed}) == 1, f"{link}: performing it after JSON differs")


def check_advance_leaves_its_input(link: Link, state: CompressionState, task: Task, profile: Profile) -> None:
    """Law 4: the network that is advanced from stays bit-identical, its mode and its attachments included."""
    key, text, training = state.key, str(state.network), state.network.training
    kept = {name: tensor.clone() for name, tensor in content(state.network).items()}
    after = advance(state, link, task, profile)
    now = content(state.network)
    changed = [name for name in kept if name not in now or not torch.equal(kept[name], now[name])]
    require(not changed and kept.keys() == now.keys(), f"{link}: advance changed the values {changed} of its input")
    require((state.key, str(state.network)) == (key, text), f"{link}: advance changed the structure of its input")
    require(state.network.training == training, f"{link}: advance changed the mode of its input")
    require(len(after.steps) == len(state.steps) + 1, f"{link}: advance did not append one step")


def check_refused_step_changes_nothing(link: Link, state: CompressionState, task: Task, profile: Profile) -> str:
    """Law 5: in a state where the operator refuses, advance raises with its reason and changes nothing.

    Returns:
        The reason.
    """
    reason = letters.refusal(letters.make(link, profile), state)
    require(bool(reason), f"{link}: not refused after '{state.chain}'")
    key = state.key
    try:
        advance(state, link, task, profile)
    except RefusedError as error:
        require(str(reason) in str(error), f"{link}: refused with '{error}', which does not give the reason '{reason}'")
    else:
        raise BrokenLawError(f"{link}: refusal says '{reason}', but advance went on")
    require(state.key == key, f"{link}: a refused step changed the network")
    return str(reason)


def check_output_shape_is_kept(link: Link, state: CompressionState, task: Task, profile: Profile) -> None:
    """Law 6: `network(x)` keeps its shape, whatever is attached; the values are finite."""
    after = advance(state, link, task, profile)
    images = task.data.normalize(task.data.train.images[:3])
    before, now = _answer(state.network, images), _answer(after.network, images)
    require(now.shape == before.shape, f"{link}: logits of shape {tuple(before.shape)} became {tuple(now.shape)}")
    require(bool(now.isfinite().all()), f"{link}: the logits are not finite")


def check_figure_moves(link: Link, state: CompressionState, task: Task, profile: Profile, figure: Figure) -> None:
    """Law 7: the operator's own figure moves the right way; `figure(before, after)` tells whether it does."""
    after = advance(state, link, task, profile)
    name = getattr(figure, "__name__", str(figure))
    was, now = state.metrics, after.metrics
    require(figure(state, after), f"{link}: not {name}: {was.cost} at {was.score} became {now.cost} at {now.score}")


def check_pair_works_or_refuses(
    first: Link, second: Link, state: CompressionState, task: Task, profile: Profile
) -> tuple[CompressionState, str | None]:
    """Law 8: two letters in a row work, or one refuses with a reason; nothing else is raised.

    Returns:
        The last state that was reached, and the reason where a letter was refused.
    """
    for link in (first, second):
        try:
            state = advance(state, link, task, profile)
        except RefusedError as error:
            require(len(str(error)) > len(str(link)), f"{link} after '{state.chain}': refused without a reason")
            return state, str(error)
        except NacdeployError:
            raise
        except Exception as error:
            raise BrokenLawError(f"{link} after '{state.chain}': {type(error).__name__}: {error}") from error
    return state, None


def macs_fall(before: CompressionState, after: CompressionState) -> bool:
    """P, D: fewer MACs and fewer parameters."""
    was, now = before.metrics.cost, after.metrics.cost
    return now.macs < was.macs and now.n_parameters < was.n_parameters


def bitops_fall(before: CompressionState, after: CompressionState) -> bool:
    """Q: fewer BitOps and memory bits from the same MACs."""
    was, now = before.metrics.cost, after.metrics.cost
    return now.macs == was.macs and now.bitops < was.bitops and now.memory_bits < was.memory_bits


def memory_falls(before: CompressionState, after: CompressionState) -> bool:
    """S, C: fewer stored bits."""
    return after.metrics.cost.memory_bits < before.metrics.cost.memory_bits


def exits_are_charged(before: CompressionState, after: CompressionState) -> bool:
    """E: each way out is dearer than the one before, and the heads cost MACs and memory of their own."""
    network = after.network
    n_ways = len(network.exits) + 1
    ways = [cost(network, network.example_input(), way).expected_macs for way in torch.eye(n_ways).tolist()]
    was, now = before.metrics.cost, after.metrics.cost
    rising = n_ways > 1 and all(a < b for a, b in pairwise(ways))
    return rising and now.macs > was.macs and now.memory_bits > was.memory_bits and ways[-1] == now.macs


def only_score_moves(before: CompressionState, after: CompressionState) -> bool:
    """F: the score on the validation split never gets worse, and the network costs what it did."""
    was, now = before.metrics, after.metrics
    same = (was.cost.macs, was.cost.bitops, was.cost.memory_bits) == (
        now.cost.macs,
        now.cost.bitops,
        now.cost.memory_bits,
    )
    return same and now.quality >= was.quality


def require(holds: bool, text: str) -> None:
    """Raise `BrokenLawError` with this text unless something holds."""
    if not holds:
        raise BrokenLawError(text)


def _shapes(network: Network) -> dict[str, Any]:
    return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in content(network).items()}


def _answer(network: Network, images: Tensor) -> Tensor:
    with no_grad_eval(network):
        return network(images)
