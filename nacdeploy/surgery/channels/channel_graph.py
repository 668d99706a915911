"""Channels that must fall together in a network without a captured graph, by torch-pruning (Fang et al., 2023,
DepGraph).

The library's only home.
"""

import logging
import math
import warnings
from collections import Counter
from typing import Any, TypeAlias

import torch
import torch_pruning as tp
from torch import Tensor, nn

from nacdeploy.base.errors import NacdeployError
from nacdeploy.network.captured.graph import CONVOLVING, WEIGHTED
from nacdeploy.network.network import Network
from nacdeploy.network.plain import plain_outputs
from nacdeploy.surgery.channels.channel_choice import NORM, PRODUCER, READER

ROOTS = WEIGHTED

_LOG = logging.getLogger(__name__)

Graph: TypeAlias = tp.DependencyGraph
Coupled: TypeAlias = tp.Group
Dependency: TypeAlias = tp.Dependency


class View(nn.Module):
    """The view of a network for the pruning library: plain, with its exit heads."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return plain_outputs(self.network, x)


def dependencies(model: nn.Module, example: Tensor) -> Graph:
    """Trace the dependencies between channels.

    Raises:
        NacdeployError: the library cannot.
    """
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return tp.DependencyGraph().build_dependency(model, example_inputs=example, verbose=False)
        except Exception as error:
            raise NacdeployError(f"the channel dependencies of this model cannot be traced ({error})") from error


def all_groups(graph: Graph, ignored: list[nn.Module | None]) -> list[Coupled]:
    """Return the groups of all convolutions and linear layers except the roots in `ignored`.

    If the library fails at a group, the groups before it are returned.
    """
    found: list[Coupled] = []
    try:
        found.extend(graph.get_all_groups(ignored_layers=ignored, root_module_types=list(ROOTS)))
    except Exception as error:  # its guesses about an operator may raise any error
        _LOG.info("torch-pruning stops at a group: %s", error)
    return found


def last_weighted(backbone: nn.Module, example: Tensor) -> nn.Module | None:
    """Return the classifier: the weighted layer that runs last."""
    called: list[nn.Module] = []
    layers = [m for m in backbone.modules() if isinstance(m, ROOTS)]
    handles = [m.register_forward_hook(lambda module, args, output: called.append(module)) for m in layers]
    try:
        with torch.no_grad():
            backbone(example)
    finally:
        for handle in handles:
            handle.remove()
    return called[-1] if called else None


def quantum(group: Coupled, n_channels: int) -> int:
    """Return how many channels must go together: one from each part of every grouped (not depthwise) convolution."""
    parts = [getattr(dependency.target.module, "groups", 1) for dependency, _ in group]
    together = math.lcm(*(n for n in parts if isinstance(n, int) and n < n_channels))
    return together if n_channels % together == 0 else 1


def by_channel(item: Any, n_channels: int) -> tuple[int, ...]:
    """Return the indices of one layer in the order of the group's channels, which the library does not keep.

    The result is empty if the channels have unequal shares.
    """
    ordered = sorted(zip(item.root_idxs, item.idxs, strict=True))
    shares = Counter(root for root, _ in ordered)
    is_even = len(shares) == n_channels and len(set(shares.values())) == 1
    return tuple(int(index) for _, index in ordered) if is_even else ()


def role(dependency: Dependency) -> tuple[str, Tensor | None]:
    """Return the role of a layer on the channels of its group, and the magnitude (n,) of its part per index."""
    layer = dependency.target.module
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor):
        return "", None
    if isinstance(layer, WEIGHTED):
        if dependency.handler.__name__ == "prune_in_channels" and getattr(layer, "groups", 1) == 1:
            return READER, weight.detach().abs().transpose(0, 1).flatten(1).amax(1)
        bias = layer.bias.detach().abs() if layer.bias is not None else 0.0
        return PRODUCER, weight.detach().abs().flatten(1).amax(1) + bias
    return NORM, weight.detach().abs()


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers that hold floating point numbers, by name."""
    return {name: t for name, t in (*model.named_parameters(), *model.named_buffers()) if t.is_floating_point()}


def cut(graph: Graph, root: nn.Module, channels: tuple[int, ...]) -> None:
    """Cut channels out of a root layer and all coupled layers, in place."""
    along = tp.prune_conv_out_channels if isinstance(root, CONVOLVING) else tp.prune_linear_out_channels
    graph.get_pruning_group(root, along, [*channels]).prune()


def magnitudes(group: Coupled) -> Tensor | None:
    """Return the L2 norm (n_channels,) of each channel over all coupled parameters, divided by its maximum (NAC's
    GroupNorm).

    None says that there is nothing to weigh.

    Raises:
        IndexError, RuntimeError: the library lost track of the channels, as it does where heads are split off.
    """
    found = tp.importance.GroupMagnitudeImportance(p=2, normalizer="max")(group)
    return None if found is None else found.detach()
