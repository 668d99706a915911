"""The worth of residual branches, in the unit of a channel's importance.

A criterion by slopes puts one gate on the output of a branch, as it puts one on a channel. By any other criterion a
branch is worth what the channels within it are worth together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from nacdeploy.network.captured.graph import Interpreter
from nacdeploy.network.network import Network
from nacdeploy.surgery.channels.channel_choice import Group
from nacdeploy.surgery.channels.channel_importance import SLOPES, Evidence
from nacdeploy.surgery.depth.branches import Branch, branches


def droppable(network: Network, groups: Sequence[Group], name: str) -> tuple[Branch, ...]:
    """Return the branches of a network whose worth a criterion tells, with the groups of channels within each.

    Each is as valuable as these together: a branch without such a group has a worth by slopes alone.
    """
    every = tuple(_placed(branch, groups) for branch in branches(network))
    return tuple(branch for branch in every if branch.inner or name in SLOPES)


def weighed(found: Sequence[Branch], name: str, known: Evidence) -> tuple[Branch, ...]:
    """Return branches with their importance by a criterion of slopes."""
    worth = _by_slopes(found, name, known)
    return tuple(replace(branch, importance=worth[branch.output]) for branch in found)


def _placed(branch: Branch, groups: Sequence[Group]) -> Branch:
    inner = [group for group in groups if all(branch.block.holds(each.layer) for each in group.members)]
    return replace(
        branch,
        inner=tuple(group.root for group in inner),
        importance=float(sum(sum(group.importance) for group in inner)),
    )


def _by_slopes(found: Sequence[Branch], name: str, known: Evidence) -> Mapping[str, float]:
    """Sum squared slopes by a gate on the output of each branch, over images."""
    totals = {branch.output: 0.0 for branch in found}
    for images, measure in SLOPES[name](known) if found else ():
        gated = _Gated(known, set(totals), len(images))
        slopes = torch.autograd.grad(measure(gated.run(images)), list(gated.gates.values()), allow_unused=True)
        for output, slope in zip(gated.gates, slopes, strict=True):
            totals[output] += 0.0 if slope is None else float(slope.double().square().sum())
    return totals


class _Gated(Interpreter):
    """A network with a gate of one on the values of some nodes, one for each image."""

    def __init__(self, known: Evidence, nodes: set[str], n_images: int) -> None:
        super().__init__(known.backbone, known.captured)
        self._nodes, self.gates = nodes, dict[str, Tensor]()
        self._n_images = n_images

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.name not in self._nodes:
            return value
        self.gates[n.name] = torch.ones(self._n_images, device=value.device, requires_grad=True)
        return value * self.gates[n.name].reshape(-1, *[1] * (value.dim() - 1)).to(value)
