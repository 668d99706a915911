"""Equalization of channels: every channel of a tensor gets a factor that the layers around it undo.

A tensor has one scale, so a channel that is a thousand times as large as its neighbours leaves them no integers. Where
nothing but operators that pass factors through (ReLU, pooling, additions) lies between the layers that write a tensor
and those that read it, the factor of a channel goes into the weights in front, and its inverse into the weights behind
(cross-layer equalization: Nagel et al., 2019; with ranges of activations: SmoothQuant, Xiao et al., 2023). Factors are
powers of two, so that the float network answers bit for bit as before.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nacdeploy.network.attachments.placement import key_of, kind_of_node
from nacdeploy.network.captured.graph import CONVOLVING, carries_images, weighted_consumer
from nacdeploy.network.network import Network
from nacdeploy.strategies.range_search import Alone

# Operators through which a positive factor of a channel passes.
_PASSING = {"relu", "leaky_relu", "prelu", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "mean", "dropout"}
_PASSING |= {"feature_dropout", "identity", "contiguous", "upsample_nearest2d", "flatten", "reshape"}
IMAGES_AT_ONCE = 8
_MOST = 2.0**12
_MATTERS = 1 / 64  # of the largest product of activation and weight behind


@dataclass
class _Tensor:
    """Tensors of one factor per channel: the layers and norms that write them, and the layers that read them."""

    written: list[str] = field(default_factory=list)
    read: list[str] = field(default_factory=list)
    nodes: list[fx.Node] = field(default_factory=list)
    fixed: bool = False


Values = Mapping[str, "Magnitudes"]


@dataclass(frozen=True)
class Magnitudes:
    """The largest magnitude of every channel of a tensor (C,), and its number of axes."""

    largest: Tensor
    n_axes: int


def imbalance(network: Network, values: Values) -> float:
    """Return the largest quotient of the factors of two channels of one tensor that matter; 1 if all are alike."""
    found = [_factors(network, each, values, 0.5, _MATTERS) for each in _tensors(network, values)]
    return max((float(each.max() / each.min()) for each in found if each is not None), default=1.0)


def equalize(network: Network, values: Values, share: float) -> None:
    """Move factors in place. `share` says how much of the differences between activations goes into the weights behind:
    1 is all. `values` are those of the float network (`magnitudes`)."""
    found = [(each, _factors(network, each, values, share)) for each in _tensors(network, values)]
    with torch.no_grad():
        for each, factors in found:
            if factors is not None:
                _scale(network, each, factors)


def magnitudes(network: Network, x: Tensor) -> dict[str, Magnitudes]:
    """Return the magnitudes of the tensors (N, C, ...) that the images `x` (N, ...) lead to, by node."""
    found: dict[str, Magnitudes] = {}

    def tap(name: str, value: Any) -> None:
        if isinstance(value, Tensor) and value.dim() >= 2 and value.is_floating_point():
            largest = value.abs().transpose(0, 1).flatten(1).amax(1)
            former = found.get(name)
            if former is not None and former.largest.shape == largest.shape:
                largest = torch.maximum(former.largest, largest)
            found[name] = Magnitudes(largest, value.dim())

    with torch.no_grad():
        for part in x.split(IMAGES_AT_ONCE):
            network.run(part, Alone(network), tap)
    return found


def _tensors(network: Network, values: Values) -> list[_Tensor]:
    """Return the tensors that may have factors."""
    if network.graph is None:
        return []
    parent: dict[fx.Node, fx.Node] = {}

    def root(node: fx.Node) -> fx.Node:
        while parent.setdefault(node, node) is not node:
            node = parent[node]
        return node

    for node in network.graph.nodes:
        if _passes(node, network, values):
            for each in _images(node):
                parent[root(each)] = root(node)
    groups: dict[fx.Node, _Tensor] = {}
    tapped = set(network.heads) | {each.node for each in network.attached.values()}
    for node in network.graph.nodes:
        if node.op != "output" and carries_images(node):
            group = groups.setdefault(root(node), _Tensor())
            group.nodes.append(node)
            if not any(root(each) is root(node) for each in _images(node)):
                _writes(network, node, group)
            group.fixed |= node.name in tapped
        for source in _images(node):
            if root(source) is not root(node):
                _reads(network, node, groups[root(source)])
    shared = _called_twice(network)
    found = [each for each in groups.values() if not each.fixed and each.written and each.read]
    return [each for each in found if not shared & {*each.written, *each.read}]


def _passes(node: fx.Node, network: Network, values: Values) -> bool:
    """Tell whether the channels of a node are those of its inputs, factor by factor."""
    kind, inputs = kind_of_node(node, network.backbone), _images(node)
    if any(each.name not in values for each in (node, *inputs)) or not inputs:
        return False
    before, now = [values[each.name] for each in inputs], values[node.name]
    if kind == "add":
        return len(inputs) == len(node.all_input_nodes) and all(_alike(each, now) for each in before)
    if kind not in _PASSING or len(inputs) != 1:
        return False
    if kind in ("flatten", "reshape"):  # channel by channel, each several columns
        return now.n_axes == 2 and before[0].n_axes == 4 and len(now.largest) % len(before[0].largest) == 0
    if kind == "mean" and not set(_axes(node)) & {0, 1, -before[0].n_axes, 1 - before[0].n_axes}:
        return len(before[0].largest) == len(now.largest)
    return kind != "mean" and _alike(before[0], now)


def _axes(node: fx.Node) -> tuple[int, ...]:
    """Return the axes of a mean; all of them if it names none."""
    axes = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    return tuple(axes) if isinstance(axes, list | tuple) else (0,)


def _alike(one: Magnitudes, other: Magnitudes) -> bool:
    return len(one.largest) == len(other.largest) and one.n_axes == other.n_axes


def _writes(network: Network, node: fx.Node, group: _Tensor) -> None:
    """Note what writes a tensor: a layer or norm whose outputs may be scaled; any other writer fixes the tensor."""
    module = network.backbone.get_submodule(str(node.target)) if node.op == "call_module" else None
    is_layer = isinstance(module, nn.Conv2d | nn.Linear) and _is_plain(network, str(node.target))
    if is_layer or (isinstance(module, _BatchNorm) and module.affine):
        group.written.append(str(node.target))
    else:
        group.fixed = True


def _reads(network: Network, node: fx.Node, group: _Tensor) -> None:
    """Note a layer that reads a tensor and can undo its factors; any other reader fixes the tensor."""
    layer: Any = weighted_consumer(node, network.backbone)
    is_dense = layer is not None and getattr(layer, "groups", 1) in (1, layer.weight.shape[0])
    if is_dense and _is_plain(network, str(node.target)) and layer is not None and _pads_zeros(layer):
        group.read.append(str(node.target))
    else:
        group.fixed = True


def _is_plain(network: Network, name: str) -> bool:
    """Tell whether a layer's weight is a parameter of its own: not computed, shared or masked."""
    return name in network.layers and not network.captured.weights.get(name) and name not in network.sharing.layers


def _pads_zeros(layer: nn.Module) -> bool:
    return getattr(layer, "padding_mode", "zeros") == "zeros"


def _called_twice(network: Network) -> set[str]:
    seen: set[str] = set()
    assert network.graph is not None
    calls = [str(node.target) for node in network.graph.nodes if node.op == "call_module"]
    return {name for name in calls if name in seen or seen.add(name)}  # type: ignore[func-returns-value]


def _factors(network: Network, each: _Tensor, values: Values, share: float, matters: float = 0.0) -> Tensor | None:
    """Return the factor of every channel, or None if no layer can undo them or nothing would change.

    Channels whose product of activation and weight behind is below the share `matters` of the largest keep 1.
    """
    n = {len(network.backbone.get_submodule(name).weight) for name in each.written}  # type: ignore[arg-type]
    channels = n.pop()
    rounded = [node for node in each.nodes if key_of(node) in network.plan.kinds]
    seen = [values[node.name] for node in rounded if node.name in values]
    columns = [_columns(network, name, channels) for name in each.read]
    known = [column for column in columns if column is not None]
    if n or not seen or len(known) < len(columns) or any(m.n_axes not in (2, 4) for m in seen):
        return None
    if any(len(m.largest) % channels for m in seen):
        return None
    activations = torch.stack([m.largest.reshape(channels, -1).amax(1) for m in seen]).amax(0)
    dense = [column for column in known if len(column)]
    behind = torch.stack(dense).amax(0) if dense else torch.ones(channels)
    share = share if dense else 1.0
    felt = activations * behind
    alive = (felt > 0) & (felt >= matters * felt.max())
    if int(alive.sum()) < 2:
        return None
    wanted = behind[alive] ** (1 - share) / activations[alive] ** share
    factors = torch.ones(channels)
    factors[alive] = 2.0 ** torch.log2((wanted / wanted.median()).clamp(1 / _MOST, _MOST)).round()
    return factors if bool((factors != 1).any()) else None


def _columns(network: Network, name: str, channels: int) -> Tensor | None:
    """Return the largest weight by input channel (C,), nothing for a depthwise layer, or None if it reads other
    channels."""
    layer: Any = network.backbone.get_submodule(name)
    if getattr(layer, "groups", 1) > 1:
        return torch.ones(0) if len(layer.weight) == channels else None
    weight = layer.weight.detach()
    n_inputs = weight.shape[1]
    if n_inputs % channels or (n_inputs != channels and isinstance(layer, CONVOLVING)):
        return None
    return weight.abs().reshape(len(weight), channels, -1).amax((0, 2))


def _scale(network: Network, each: _Tensor, factors: Tensor) -> None:
    """Multiply outputs by their factors, and divide the weights behind by them."""
    for name in each.written:
        layer: Any = network.backbone.get_submodule(name)
        _multiply([layer.weight, layer.bias], factors)
    for name in each.read:
        layer = network.backbone.get_submodule(name)
        if getattr(layer, "groups", 1) > 1:
            _multiply([layer.weight], 1 / factors)
        else:
            weight = layer.weight
            columns = weight.reshape(len(weight), len(factors), -1) / factors.to(weight).reshape(1, -1, 1)
            weight.copy_(columns.reshape(weight.shape))


def _multiply(parameters: Iterable[Tensor | None], factors: Tensor) -> None:
    for each in parameters:
        if each is not None:
            each.mul_(factors.to(each).reshape(-1, *[1] * (each.dim() - 1)))


def _images(node: fx.Node) -> list[fx.Node]:
    return [each for each in node.all_input_nodes if carries_images(each)]
