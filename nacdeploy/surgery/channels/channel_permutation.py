"""Channel permutation: other orders of coupled channels, in which 2:4 keeps more magnitude, while the network's
function stays the same (Pool & Yu, NeurIPS 2021)."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nacdeploy.base.errors import NacdeployError
from nacdeploy.network.attachments.sparsity import Sparsity, best_order
from nacdeploy.network.network import Network
from nacdeploy.network.plain import plain_outputs
from nacdeploy.surgery.channels.channel_groups import Coupling, couplings
from nacdeploy.surgery.channels.channel_pruning import Cut, Slice, slice_tensors


@dataclass(frozen=True)
class _Reordered:
    """A group of coupled channels and their new order."""

    coupling: Coupling
    order: tuple[int, ...]


def plan_permutation(network: Network, sparsity: Sparsity) -> Cut:
    """Return the slices that put the channels of every group in their best order.

    A group is left out if its reordering would change the outputs; all groups are left out if the channel dependencies
    cannot be traced.
    """
    try:
        found = couplings(network)
    except NacdeployError:
        return Cut()
    readers = {
        name: layer.weight.detach().abs().movedim(1, -1).flatten(0, -2)  # type: ignore[operator]
        for name, layer in network.layers.items()
        if sparsity.why_dense(name, layer) is None
    }
    ordered = [_Reordered(each, _order(each, readers)) for each in found]
    moved = [each for each in ordered if each.order != tuple(range(each.coupling.n_channels))]
    return Cut(_slices(network, _sound(network, moved)))


def _order(coupling: Coupling, readers: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Return the best order of a group's channels for the sparse layers that read them side by side from a multiple
    of four on."""
    read = []
    for axis in coupling.axes:
        layer = axis.tensor.removeprefix("backbone.").removesuffix(".weight")
        first = axis.indices[0]
        side_by_side = axis.indices == tuple(range(first, first + coupling.n_channels)) and first % 4 == 0
        if axis.axis == 1 and side_by_side and layer in readers:
            read.append(readers[layer][:, first : first + coupling.n_channels])
    return best_order(read) if read and coupling.n_channels > 4 else tuple(range(coupling.n_channels))


def _slices(network: Network, reordered: Sequence[_Reordered]) -> tuple[Slice, ...]:
    """Return each axis of each tensor of a group, in its new order; several groups may share an axis."""
    state = network.state_dict()
    kept: dict[tuple[str, int], list[int]] = {}
    for each in reordered:
        for axis in each.coupling.axes:
            places = torch.tensor(axis.indices).reshape(each.coupling.n_channels, -1)
            order = kept.setdefault((axis.tensor, axis.axis), [*range(state[axis.tensor].shape[axis.axis])])
            for place, source in zip(places.flatten().tolist(), places[[*each.order]].flatten().tolist(), strict=True):
                order[place] = source
    return tuple(Slice(tensor, axis, tuple(order)) for (tensor, axis), order in kept.items())


def _sound(network: Network, moved: list[_Reordered]) -> list[_Reordered]:
    """Return the groups that may be reordered: all at once if that is right, else found by halving."""
    if not moved or _is_sound(network, moved):
        return moved
    half = len(moved) // 2
    return [*_sound(network, moved[:half]), *_sound(network, moved[half:])] if half else []


def _is_sound(network: Network, moved: Sequence[_Reordered]) -> bool:
    """Tell whether the reordered network answers as before, exits included."""
    before = copy.deepcopy(network).double().eval()
    image = torch.randn(1, *network.input_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    try:
        after = copy.deepcopy(before)
        slice_tensors(after, Cut(_slices(network, moved)))
        with torch.no_grad():
            pairs = zip(plain_outputs(before, image), plain_outputs(after, image), strict=True)
            return all(torch.allclose(x, y, rtol=1e-6, atol=1e-9) for x, y in pairs)
    except Exception:  # any error in the user's own forward means "not sound"
        return False
