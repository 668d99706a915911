"""A: a ceiling on what every ReLU writes, found in data and trained by F."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from clipping.ceiling import Ceiling
from clipping.settings import ClipTable
from nacdeploy.network.attachments.placement import kind_of_node
from nacdeploy.network.network import Network, Simulation, no_grad_eval
from nacdeploy.profile import Profile
from nacdeploy.strategies.chain import Value
from nacdeploy.strategies.operators.base import Recovery, with_parameters
from nacdeploy.strategies.settle import calibration_images
from nacdeploy.strategies.state import CompressionState
from nacdeploy.task import Task
from nacdeploy.task import evaluate as evaluation


@dataclass(frozen=True)
class ClipDecision:
    """The nodes that get a ceiling, each with its number of channels, or None for one ceiling."""

    ceilings: dict[str, int | None]


@dataclass(frozen=True)
class Clip:
    letter: ClassVar[str] = "A"
    name: ClassVar[str] = "Clip"
    version: ClassVar[int] = 1
    decision_type: ClassVar[type] = ClipDecision
    table: ClipTable

    @classmethod
    def configure(cls, profile: Profile, parameters: Mapping[str, Value]) -> Self:
        return cls(with_parameters(cls.letter, profile.of(ClipTable), parameters))

    def refusal(self, state: CompressionState) -> str | None:
        found = _activations(state.network)
        if not found:
            return "the network has no ReLU that a captured graph shows"
        return None if _free(state.network) else f"all {len(found)} activations have a ceiling"

    def decide(self, state: CompressionState, task: Task) -> ClipDecision:
        nodes = _free(state.network)
        if not self.table.by_channel:
            return ClipDecision(dict.fromkeys(nodes))
        seen = _seen(state.network, nodes, state.network.example_input())
        return ClipDecision({node: seen[node].shape[1] if seen[node].dim() == 4 else None for node in nodes})

    def perform(self, network: Network, decision: ClipDecision) -> Network:
        clipped = copy.deepcopy(network)
        for node, n_channels in decision.ceilings.items():
            clipped.attach(node, Ceiling(n_channels))
        return clipped

    def refit(self, network: Network, former: Network, decision: ClipDecision, task: Task) -> None:
        """Put the new ceilings where the table's percentile of the training images' values lies."""
        images = calibration_images(task.data, self.table.n_images).images
        new = [each for key, each in network.attached.items() if key not in former.attached]
        with evaluation.accelerated(network) as device, torch.no_grad():
            x = task.data.normalize(images).to(device)
            seen = _seen(network, [each.node for each in new], x)
            for each in new:
                rows = seen[each.node].movedim(1, 0).flatten(1) if each.by_channel else seen[each.node].reshape(1, -1)
                at = max(1, int(self.table.percentile / 100 * rows.shape[1]))
                each.ceiling.copy_(rows.kthvalue(at, dim=1).values.reshape(each.ceiling.shape))

    def recovery(self, profile: Profile) -> Recovery | None:
        return None

    def explain(self, decision: ClipDecision) -> str:
        n = sum(n or 1 for n in decision.ceilings.values())
        return f"{n} ceilings at the {self.table.percentile:g}th percentile: {', '.join(decision.ceilings)}"


def _activations(network: Network) -> list[str]:
    """The nodes that compute a ReLU, in order of execution."""
    nodes = network.graph.nodes if network.graph is not None else ()
    return [node.name for node in nodes if kind_of_node(node, network.backbone) in ("relu", "relu6")]


def _free(network: Network) -> list[str]:
    taken = {each.node for each in network.attached.values()}
    return [node for node in _activations(network) if node not in taken]


def _seen(network: Network, nodes: list[str], x: Tensor) -> dict[str, Tensor]:
    """What the nodes compute for images `x`."""
    seen: dict[str, Tensor] = {}
    with no_grad_eval(network):
        network.run(x, Simulation(network), lambda node, value: seen.update({node: value.clone()}), set(nodes))
    return seen
