"""Channel pruning for real: which channels of which dependency groups to cut, as slices that need no tracing to replay.

torch-pruning (Fang et al., 2023, DepGraph) finds the groups of channels that must fall together. A copy of the network
whose tensors hold their own flat indices is then cut: what is left in it says which index of every axis of every
parameter stays, attributes are compared likewise, and the plan is plain slicing.
"""

import copy
import math
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from types import MethodType
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch_pruning as tp
from torch import Tensor, nn

from nacdeploy.errors import NacdeployError
from nacdeploy.layers.channel_choice import NORM, PRODUCER, READER, Group, Member, families, ordered
from nacdeploy.layers.network import Network, Structure, masked_backbone, plain_outputs
from nacdeploy.layers.sparsity import Masks

_ROOTS = (nn.Conv2d, nn.Linear)


@dataclass(frozen=True)
class Slice:
    """The indices of one axis of one parameter or buffer that stay."""

    tensor: str
    axis: int
    kept: tuple[int, ...]


@dataclass(frozen=True)
class Attribute:
    """An attribute of a module that follows the cut, such as `out_channels`."""

    module: str
    name: str
    value: int | tuple[int, ...]


@dataclass(frozen=True)
class Cut:
    """Structure only: replaying it is slicing and setting attributes."""

    slices: tuple[Slice, ...] = ()
    attributes: tuple[Attribute, ...] = ()


@dataclass(frozen=True)
class Axis:
    """Where channels lie on one axis of one tensor: `indices` has an equal part for each, in their order."""

    tensor: str
    axis: int
    indices: tuple[int, ...]


@dataclass(frozen=True)
class Coupling:
    """All the places of the channels that a root layer shares with the layers coupled to it."""

    n_channels: int
    axes: tuple[Axis, ...]


def groups(network: Network) -> tuple[Group, ...]:
    """The prunable groups of the plain backbone with the importance of their channels: the group's L2 norm over all
    coupled parameters, divided by its maximum (NAC's GroupNorm). Exits and quantizers are not seen.

    Groups are left out whose cut would break the network's forward pass or cut what is not theirs.
    """
    if network not in _FOUND:
        _FOUND[network] = _groups(network, network.example_input())
    return _FOUND[network]


def outlines(network: Network) -> tuple[Group, ...]:
    """The same groups, maybe with the importances of a copy that other values were given: for those who ask about
    layers and numbers of channels only. Traced once for each structure."""
    return _OUTLINES.get(network.structure) or groups(network)


_FOUND: WeakKeyDictionary[Network, tuple[Group, ...]] = WeakKeyDictionary()
_OUTLINES: WeakKeyDictionary[Structure, tuple[Group, ...]] = WeakKeyDictionary()


def _groups(network: Network, example: Tensor) -> tuple[Group, ...]:
    backbone = masked_backbone(network).double().eval()
    graph = _dependencies(backbone, example.double())
    last = _last_weighted(backbone, example.double())
    ranked = (_ranked(graph, group, backbone) for group in _all_groups(graph, [last]))
    traced = [group for group in ranked if group is not None and group.n_channels > 1]
    if network.structure not in _OUTLINES:
        _OUTLINES[network.structure] = tuple(_sound(network, traced))
    sound = {group.root for group in _OUTLINES[network.structure]}
    return tuple(group for group in traced if group.root in sound)


def _sound(network: Network, found: list[Group]) -> list[Group]:
    """The groups that may be cut: all at once where that is right, else found by halving."""
    first = {group.root: families(group.n_channels, group.quantum)[0] for group in found}
    if not found or _is_sound(network, first):
        return found
    half = len(found) // 2
    return [*_sound(network, found[:half]), *_sound(network, found[half:])] if half else []


def plan_cut(network: Network, removed: dict[str, tuple[int, ...]]) -> Cut:
    """The cut that removes the given channels of the given root layers, exit heads included."""
    view = _View(network)
    cut = copy.deepcopy(view).double().eval()
    graph = _dependencies(cut, network.example_input().double())
    _fill_with_indices(cut)
    for root, channels in removed.items():
        layer = cut.network.backbone.get_submodule(root)
        group = graph.get_pruning_group(
            layer, tp.prune_conv_out_channels if _is_conv(layer) else _LINEAR_OUT, [*channels]
        )
        group.prune()
    return Cut(tuple(_slices(view, cut)), tuple(_attributes(view, cut)))


def apply_cut(network: Network, cut: Cut) -> None:
    """Slice the parameters and buffers of `network` in place; quantizers are attached anew to what is left."""
    for item in cut.slices:
        _replace(network, item)
    for attribute in cut.attributes:
        setattr(network.get_submodule(attribute.module), attribute.name, attribute.value)
    network.changed()
    _FOUND.pop(network, None)


def dependency_sets(network: Network) -> tuple[tuple[str, ...], ...]:
    """The convolutions and linear layers that share their output channels with others, set by set in the order of the
    network's modules; depthwise ones, which pass channels on, are not named."""
    order = [name for name, layer in network.backbone.named_modules() if getattr(layer, "groups", 1) == 1]
    sets = (tuple(sorted({*group.layers} & {*order}, key=order.index)) for group in groups(network))
    return tuple(sorted((each for each in sets if len(each) > 1), key=lambda each: order.index(each[0])))


def couplings(network: Network) -> tuple[Coupling, ...]:
    """Where the channels of every group lie, exit heads included; the parts of grouped convolutions are left out."""
    view = copy.deepcopy(_View(network)).double().eval()
    graph = _dependencies(view, network.example_input().double())
    heads = [module for module in view.network.exits.modules() if isinstance(module, nn.Linear)]
    last = _last_weighted(view.network.backbone, network.example_input().double())
    names = {part: name for name, part in (*view.network.named_modules(), *view.network.named_parameters())}
    found = (_coupling(group, names) for group in _all_groups(graph, [last, *heads]))
    return tuple(coupling for coupling in found if coupling is not None)


def _coupling(group: tp.Group, names: dict[nn.Module | Tensor, str]) -> Coupling | None:
    n_channels = len(group[0].idxs)
    axes = [
        Axis(tensor, axis, indices)
        for item in group.items
        for indices in [_by_channel(item, n_channels)]
        for tensor, axis in _places(item.dep, names)
    ]
    whole = _quantum(group, n_channels) == 1 and all(axis.indices for axis in axes)
    return Coupling(n_channels, tuple(dict.fromkeys(axes))) if whole else None


def _by_channel(item: Any, n_channels: int) -> tuple[int, ...]:
    """The indices of one layer in the order of the group's channels, which the library does not keep; none where the
    channels have unequal shares."""
    ordered = sorted(zip(item.root_idxs, item.idxs, strict=True))
    shares = Counter(root for root, _ in ordered)
    is_even = len(shares) == n_channels and len(set(shares.values())) == 1
    return tuple(int(index) for _, index in ordered) if is_even else ()


def _places(dependency: tp.Dependency, names: dict[nn.Module | Tensor, str]) -> list[tuple[str, int]]:
    """The tensors of one layer, and the axis of each, that the channels of its group lie on."""
    part = dependency.target.module
    if part not in names:
        return []
    if isinstance(part, nn.Parameter):
        return [(names[part], dependency.target.pruning_dim % part.dim())]
    if _role(dependency)[0] == READER:
        return [(f"{names[part]}.weight", 1)]
    return [(f"{names[part]}.{name}", 0) for name, tensor in _tensors(part).items() if tensor.dim()]


_LINEAR_OUT = tp.prune_linear_out_channels


def _is_conv(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d)


class _View(nn.Module):
    """The network as the pruning library should see it: plain, with its exit heads."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return plain_outputs(self.network, x)


def _dependencies(model: nn.Module, example: Tensor) -> tp.DependencyGraph:
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return tp.DependencyGraph().build_dependency(model, example_inputs=example, verbose=False)
        except Exception as error:
            raise NacdeployError(f"the channel dependencies of this model cannot be traced ({error})") from error


def _all_groups(graph: tp.DependencyGraph, ignored: list[nn.Module | None]) -> list[tp.Group]:
    return list(graph.get_all_groups(ignored_layers=ignored, root_module_types=list(_ROOTS)))


def _last_weighted(backbone: nn.Module, example: Tensor) -> nn.Module | None:
    """The classifier: the weighted layer that runs last."""
    called: list[nn.Module] = []
    layers = [m for m in backbone.modules() if isinstance(m, _ROOTS)]
    handles = [m.register_forward_hook(lambda module, args, output: called.append(module)) for m in layers]
    try:
        with torch.no_grad():
            backbone(example)
    finally:
        for handle in handles:
            handle.remove()
    return called[-1] if called else None


def _ranked(graph: tp.DependencyGraph, group: tp.Group, backbone: nn.Module) -> Group | None:
    names = {module: name for name, module in backbone.named_modules()}
    try:
        importance = tp.importance.GroupMagnitudeImportance(p=2, normalizer="max")(group)
    except (IndexError, RuntimeError):  # the library lost track of the channels, as it does where heads are split off
        return None
    scores = importance.detach() if importance is not None else torch.zeros(len(group[0].idxs))
    dead = _dead_channels(group, len(scores))
    quantum = _quantum(group, len(scores))
    dying = [c for family in families(len(scores), quantum) if all(dead[c] for c in family) for c in family]
    alive = [c for c in range(len(scores)) if c not in set(dying)]
    members = _members(group, len(scores), names)
    root = names[group[0].dep.target.module]
    unordered = Group(root, (*dying, *alive), (0.0,) * len(scores), len(dying), quantum, members)
    return ordered(unordered, scores)


def _members(group: tp.Group, n_channels: int, names: dict[nn.Module, str]) -> tuple[Member, ...]:
    """The layers that lie on the channels of a group; those on which channels have unequal shares are left out."""
    found = {}
    for item in group.items:
        role, indices = _role(item.dep)[0], _by_channel(item, n_channels)
        if role and indices:
            found[names[item.dep.target.module], role] = Member(names[item.dep.target.module], role, indices)
    return tuple(found.values())


def _quantum(group: tp.Group, n_channels: int) -> int:
    """How many channels must go together: one from each part of every grouped (not depthwise) convolution."""
    parts = [getattr(dependency.target.module, "groups", 1) for dependency, _ in group]
    quantum = math.lcm(*(n for n in parts if isinstance(n, int) and n < n_channels))
    return quantum if n_channels % quantum == 0 else 1


def _dead_channels(group: tp.Group, n_channels: int) -> list[bool]:
    """Channels that carry no information: every producer's filter is zero, every norm's factor is zero (what is left
    is a constant), or no reader weighs them."""
    alive: dict[str, Tensor] = {}
    for item in group.items:
        role, magnitude = _role(item.dep)
        indices = _by_channel(item, n_channels)
        if magnitude is None or not indices:
            continue
        per_channel = magnitude[torch.as_tensor(indices)].reshape(n_channels, -1).amax(1) > 0
        alive[role] = alive.get(role, torch.zeros(n_channels, dtype=torch.bool)) | per_channel
    return [not all(bool(flags[c]) for flags in alive.values()) for c in range(n_channels)]


def _role(dependency: tp.Dependency) -> tuple[str, Tensor | None]:
    """What a layer is to the channels of its group, and the magnitude (n,) of its part per index."""
    layer = dependency.target.module
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor):
        return "", None
    if isinstance(layer, nn.Conv2d | nn.Linear):
        if dependency.handler.__name__ == "prune_in_channels" and getattr(layer, "groups", 1) == 1:
            return READER, weight.detach().abs().transpose(0, 1).flatten(1).amax(1)
        bias = layer.bias.detach().abs() if layer.bias is not None else 0.0
        return PRODUCER, weight.detach().abs().flatten(1).amax(1) + bias
    return NORM, weight.detach().abs()


def _is_sound(network: Network, removed: dict[str, tuple[int, ...]]) -> bool:
    """Whether the cut network answers as the whole one does with zeros in place of all that was cut."""
    whole = copy.deepcopy(network).double().eval()
    for norm in (m for m in whole.modules() if isinstance(m, nn.LayerNorm | nn.GroupNorm)):
        norm.forward = MethodType(_without_statistics, norm)  # type: ignore[method-assign]
    smaller = copy.deepcopy(whole)
    image = torch.randn(1, *network.input_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    try:
        cut = plan_cut(network, removed)
        _blank(whole, cut)
        apply_cut(smaller, cut)
        with torch.no_grad():
            return torch.allclose(whole.backbone(image), smaller.backbone(image), rtol=1e-6, atol=1e-9)
    except Exception:  # whatever a wrong cut raises in the user's own forward, it means "not sound"
        return False


def _without_statistics(norm: nn.LayerNorm | nn.GroupNorm, x: Tensor) -> Tensor:
    """A norm over channels without the part that knows how many channels there are."""
    shape = (-1, *[1] * (x.dim() - 2)) if isinstance(norm, nn.GroupNorm) else (-1,)
    scaled = x if norm.weight is None else x * norm.weight.reshape(shape)
    return scaled if norm.bias is None else scaled + norm.bias.reshape(shape)


def _blank(network: Network, cut: Cut) -> None:
    """Write zeros where `cut` would slice."""
    tensors = _tensors(network)
    with torch.no_grad():
        for item in (item for item in cut.slices if item.tensor in tensors):
            gone = set(range(tensors[item.tensor].shape[item.axis])) - set(item.kept)
            tensors[item.tensor].index_fill_(item.axis, torch.tensor(sorted(gone)), 0.0)


def _fill_with_indices(model: nn.Module) -> None:
    with torch.no_grad():
        for tensor in [*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())]:
            tensor.copy_(torch.arange(tensor.numel(), dtype=torch.float64).reshape(tensor.shape))


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {name: t for name, t in (*model.named_parameters(), *model.named_buffers()) if t.is_floating_point()}


def _slices(whole: "_View", cut: "_View") -> Iterable[Slice]:
    shapes = {name: tensor.shape for name, tensor in _tensors(whole.network).items()}
    masks = {f"backbone.{layer}.weight": f"masks.{Masks.buffer(layer)}" for layer in whole.network.masks.layers}
    for name, left in _tensors(cut.network).items():
        for axis in range(left.dim()):
            if left.shape[axis] != shapes[name][axis]:
                first = left.detach().movedim(axis, 0).reshape(left.shape[axis], -1)[:, 0].long()
                index = first // int(torch.tensor(shapes[name][axis + 1 :]).prod()) % shapes[name][axis]
                yield Slice(name, axis, tuple(index.tolist()))
                if name in masks:
                    yield Slice(masks[name], axis, tuple(index.tolist()))


def _attributes(whole: "_View", cut: "_View") -> Iterable[Attribute]:
    before = dict(whole.network.named_modules())
    for path, module in cut.network.named_modules():
        for name, value in vars(module).items():
            old = vars(before[path]).get(name)
            if isinstance(value, int | tuple) and value != old and not isinstance(value, bool):
                yield Attribute(path, name, tuple(value) if isinstance(value, tuple) else value)


def _replace(network: Network, item: Slice) -> None:
    path, _, name = item.tensor.rpartition(".")
    owner = network.get_submodule(path)
    old = getattr(owner, name)
    new = old.detach().index_select(item.axis, torch.tensor(item.kept)).clone()
    if isinstance(old, nn.Parameter):
        setattr(owner, name, nn.Parameter(new, requires_grad=old.requires_grad))
    else:
        owner.register_buffer(name, new, persistent=name not in owner._non_persistent_buffers_set)
