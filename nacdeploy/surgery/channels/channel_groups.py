"""Groups of channels that must fall together, in the order of their importance, and their places.

The groups follow from the structure alone, and are traced once for all copies of a network; importance follows from the
values.
"""

import copy
from collections import Counter
from dataclasses import dataclass
from types import MethodType
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from nacdeploy.network.captured.capture import first_tensor
from nacdeploy.network.network import Network, Structure
from nacdeploy.network.plain import masked_backbone
from nacdeploy.surgery.channel_labels.channel_axes import ANSWER, labelled
from nacdeploy.surgery.channels import channel_graph, channel_places, whole_heads
from nacdeploy.surgery.channels.channel_choice import READER, Group, Member, families, ordered
from nacdeploy.surgery.channels.channel_graph import Coupled, Dependency, Graph, View
from nacdeploy.surgery.channels.channel_pruning import Cut, plan_cut, slice_tensors
from nacdeploy.surgery.channels.channel_soundness import sound_ones, soundness


@dataclass(frozen=True)
class Axis:
    """The places of channels on one axis of one tensor: `indices` has an equal part for each channel, in their
    order."""

    tensor: str
    axis: int
    indices: tuple[int, ...]


@dataclass(frozen=True)
class Coupling:
    """All places of the channels that a root layer shares with the layers coupled to it."""

    n_channels: int
    axes: tuple[Axis, ...]


def groups(network: Network) -> tuple[Group, ...]:
    """Return the prunable groups of the plain backbone with the importance of their channels.

    The importance is the L2 norm over all coupled parameters, divided by its maximum (NAC's GroupNorm). Exits and
    quantizers do not count. A group is left out if its cut would break the network's forward pass or cut channels of
    another owner.
    """
    known = _FOUND.get(network)
    if known is None or known[0] is not network.structure:
        known = _FOUND[network] = network.structure, _groups(network, network.example_input())
    return known[1]


def outlines(network: Network) -> tuple[Group, ...]:
    """Return the groups of a network for questions about layers and numbers of channels; each structure is traced once.

    The importances may be those of a copy with other values.
    """
    known = _OUTLINES.get(network.structure)
    return groups(network) if known is None else known


_FOUND: WeakKeyDictionary[Network, tuple[Structure, tuple[Group, ...]]] = WeakKeyDictionary()
_OUTLINES: WeakKeyDictionary[Structure, tuple[Group, ...]] = WeakKeyDictionary()
_LEFT: WeakKeyDictionary[Structure, dict[str, str]] = WeakKeyDictionary()
_UNSOUND = "cut, the network would answer otherwise: its own code counts or mixes these channels"


def left_out(network: Network) -> dict[str, str]:
    """Return, by layer, why the outputs of layers without a group stay; the layers of the network's answer are not
    named."""
    if network.structure not in _LEFT:
        _groups(network, network.example_input())
    return {name: why for name, why in _LEFT[network.structure].items() if why != ANSWER}


def couplings(network: Network) -> tuple[Coupling, ...]:
    """Return the places of the channels of every group, exit heads included and parts of grouped convolutions left
    out."""
    return _traced_couplings(network) if network.graph is None else _labelled_couplings(network)


def _labelled_couplings(network: Network) -> tuple[Coupling, ...]:
    labelling = labelled(network)
    axes = [Axis(*each[:2], tuple(each[2].tolist())) for each in channel_places.axes(network, labelling)]
    found = []
    for group in _labelled(network)[0]:
        if group.quantum * group.run == 1:
            classes = labelling.classes.find(labelling.layers[group.root][0]).tolist()
            found.append(_along(classes, axes))
    return tuple(coupling for coupling in found if coupling is not None)


def _along(classes: list[int], axes: list[Axis]) -> Coupling | None:
    """Return the places of the channels of some classes, or None if they have unequal shares of an axis."""
    places: list[Axis] = []
    channel = {each: place for place, each in enumerate(classes)}
    for axis in axes:
        held = sorted((channel[each], place) for place, each in enumerate(axis.indices) if each in channel)
        shares = Counter(each for each, _ in held)
        if held and (len(shares) < len(classes) or len(set(shares.values())) > 1):
            return None
        if held:
            places.append(Axis(axis.tensor, axis.axis, tuple(place for _, place in held)))
    return Coupling(len(classes), tuple(places))


def _traced_couplings(network: Network) -> tuple[Coupling, ...]:
    view = copy.deepcopy(View(network)).double().eval()
    graph = channel_graph.dependencies(view, network.example_input().double())
    heads = [module for module in view.network.exits.modules() if isinstance(module, nn.Linear)]
    last = channel_graph.last_weighted(view.network.backbone, network.example_input().double())
    names = {part: name for name, part in (*view.network.named_modules(), *view.network.named_parameters())}
    found = (_coupling(group, names) for group in channel_graph.all_groups(graph, [last, *heads]))
    return tuple(coupling for coupling in found if coupling is not None)


def _groups(network: Network, example: Tensor) -> tuple[Group, ...]:
    traced, left = _traced(network, example) if network.graph is None else _labelled(network)
    sound = _known_sound(network.structure)
    if sound is None:
        holds = _is_traced_sound if network.graph is None else soundness(network)
        sound = {group.root for group in sound_ones(network, sorted(traced, key=_kinship), holds)}
    found = tuple(group for group in traced if group.root in sound)
    _OUTLINES.setdefault(network.structure, found)
    unsound = {layer: _UNSOUND for group in traced if group.root not in sound for layer in group.layers}
    cut = {layer for group in found for layer in group.layers}
    _LEFT[network.structure] = {name: why for name, why in {**left, **unsound}.items() if name not in cut}
    return found


def _labelled(network: Network) -> tuple[list[Group], dict[str, str]]:
    backbone = masked_backbone(network).double().eval()
    kept_heads = whole_heads.settled(network, backbone)
    found = channel_places.groups(network, labelled(network), backbone)
    why = {name: kept_heads.get(name, why) for name, why in found.why_left.items()}
    return [group for group in found.groups if group.n_channels > group.quantum * group.run], why


def _traced(network: Network, example: Tensor) -> tuple[list[Group], dict[str, str]]:
    """Find the groups with the pruning library, for a network without a captured graph."""
    backbone = masked_backbone(network).double().eval()
    graph = channel_graph.dependencies(backbone, example.double())
    last = channel_graph.last_weighted(backbone, example.double())
    ranked = (_ranked(graph, group, backbone) for group in channel_graph.all_groups(graph, [last]))
    found = [group for group in ranked if group is not None and group.n_channels > 1]
    known = {layer for group in found for layer in group.layers}
    why = f"the network cannot be captured ({network.captured.why_not}), and torch-pruning does not tell its channels"
    return found, {name: why for name, m in network.layers.items() if name not in known and m is not last}


def _known_sound(structure: Structure | None) -> set[str] | None:
    """Return the roots that may be cut, if an earlier check found them: a cut keeps the wiring."""
    while structure is not None:
        if structure in _OUTLINES:
            return {group.root for group in _OUTLINES[structure]}
        structure = structure.cut_from
    return None


def _kinship(group: Group) -> tuple[str, ...]:
    """Return a sort key that puts layers of one name side by side: a fault of one is a fault of its kin, and is
    found sooner."""
    return tuple(reversed([part for part in group.root.split(".") if not part.isdigit()]))


def _is_traced_sound(network: Network, removed: dict[str, tuple[int, ...]]) -> bool:
    whole = copy.deepcopy(network).double().eval()
    for norm in (m for m in whole.modules() if isinstance(m, nn.LayerNorm | nn.GroupNorm)):
        norm.forward = MethodType(_without_statistics, norm)  # type: ignore[method-assign]
    smaller = copy.deepcopy(whole)
    image = torch.randn(1, *network.input_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    try:
        cut = plan_cut(network, removed)
        _blank(whole, cut)
        slice_tensors(smaller, cut)
        with torch.no_grad():
            answers = first_tensor(whole.backbone(image)), first_tensor(smaller.backbone(image))
            return torch.allclose(*answers, rtol=1e-6, atol=1e-9)
    except Exception:  # any error in the user's own forward after a cut means "not sound"
        return False


def _without_statistics(norm: nn.LayerNorm | nn.GroupNorm, x: Tensor) -> Tensor:
    """Run a norm over channels without its part that depends on the number of channels."""
    shape = (-1, *[1] * (x.dim() - 2)) if isinstance(norm, nn.GroupNorm) else (-1,)
    scaled = x if norm.weight is None else x * norm.weight.reshape(shape)
    return scaled if norm.bias is None else scaled + norm.bias.reshape(shape)


def _blank(network: Network, cut: Cut) -> None:
    """Write zeros into the values that `cut` would slice away."""
    tensors = channel_graph.tensors(network)
    with torch.no_grad():
        for item in (item for item in cut.slices if item.tensor in tensors):
            gone = set(range(tensors[item.tensor].shape[item.axis])) - set(item.kept)
            tensors[item.tensor].index_fill_(item.axis, torch.tensor(sorted(gone)), 0.0)


def _ranked(graph: Graph, group: Coupled, backbone: nn.Module) -> Group | None:
    names = {module: name for name, module in backbone.named_modules()}
    try:
        found = channel_graph.magnitudes(group)
    except (IndexError, RuntimeError):
        return None
    scores = torch.zeros(len(group[0].idxs)) if found is None else found
    dead = _dead_channels(group, len(scores))
    quantum = channel_graph.quantum(group, len(scores))
    dying = [c for family in families(len(scores), quantum) if all(dead[c] for c in family) for c in family]
    alive = [c for c in range(len(scores)) if c not in set(dying)]
    members = _members(group, len(scores), names)
    root = names[group[0].dep.target.module]
    unordered = Group(root, (*dying, *alive), (0.0,) * len(scores), len(dying), quantum, members)
    return ordered(unordered, scores)


def _members(group: Coupled, n_channels: int, names: dict[nn.Module, str]) -> tuple[Member, ...]:
    """Return the layers on the channels of a group, without layers on which channels have unequal shares."""
    found = {}
    for item in group.items:
        role, indices = channel_graph.role(item.dep)[0], channel_graph.by_channel(item, n_channels)
        if role and indices:
            found[names[item.dep.target.module], role] = Member(names[item.dep.target.module], role, indices)
    return tuple(found.values())


def _dead_channels(group: Coupled, n_channels: int) -> list[bool]:
    """Mark the channels that carry no information.

    A channel is dead if every producer's filter is zero, every norm's factor is zero (only a constant is left), or no
    reader weighs it.
    """
    alive: dict[str, Tensor] = {}
    for item in group.items:
        role, magnitude = channel_graph.role(item.dep)
        indices = channel_graph.by_channel(item, n_channels)
        if magnitude is None or not indices:
            continue
        per_channel = magnitude[torch.as_tensor(indices)].reshape(n_channels, -1).amax(1) > 0
        alive[role] = alive.get(role, torch.zeros(n_channels, dtype=torch.bool)) | per_channel
    return [not all(bool(flags[c]) for flags in alive.values()) for c in range(n_channels)]


def _coupling(group: Coupled, names: dict[nn.Module | Tensor, str]) -> Coupling | None:
    n_channels = len(group[0].idxs)
    axes = [
        Axis(tensor, axis, indices)
        for item in group.items
        for indices in [channel_graph.by_channel(item, n_channels)]
        for tensor, axis in _places(item.dep, names)
    ]
    whole = channel_graph.quantum(group, n_channels) == 1 and all(axis.indices for axis in axes)
    return Coupling(n_channels, tuple(dict.fromkeys(axes))) if whole else None


def _places(dependency: Dependency, names: dict[nn.Module | Tensor, str]) -> list[tuple[str, int]]:
    """Return the tensors of one layer with the axis of each on which the channels of its group lie."""
    part = dependency.target.module
    if part not in names:
        return []
    if isinstance(part, nn.Parameter):
        return [(names[part], dependency.target.pruning_dim % part.dim())]
    if channel_graph.role(dependency)[0] == READER:
        return [(f"{names[part]}.weight", 1)]
    return [(f"{names[part]}.{name}", 0) for name, tensor in channel_graph.tensors(part).items() if tensor.dim()]
