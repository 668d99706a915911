"""Channel pruning for real: a cut as slices that need no tracing to replay.

The labels of the channels along every axis say which indices of a parameter stay, and the plan is plain slicing. In a
network without a captured graph, the pruning library cuts a copy whose tensors hold their own flat indices; the
remaining indices are the plan.
"""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from nacdeploy.network.attachments.sparsity import Masks
from nacdeploy.network.network import Network
from nacdeploy.surgery.channel_labels import channel_axes
from nacdeploy.surgery.channels import channel_graph, channel_places
from nacdeploy.surgery.channels.channel_graph import View


@dataclass(frozen=True)
class Slice:
    """The remaining indices of one axis of one parameter or buffer."""

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


def plan_cut(network: Network, removed: Mapping[str, tuple[int, ...]]) -> Cut:
    """Plan the cut that removes the given channels of the given root layers, exit heads included."""
    return _traced_cut(network, removed) if network.graph is None else _labelled_cut(network, removed)


def spared(
    network: Network, removed: dict[str, tuple[int, ...]], units: Mapping[str, int]
) -> dict[str, tuple[int, ...]]:
    """Return the channels that may be removed so that every layer keeps one; `units` are the channels of a root that
    go together."""
    if network.graph is None:
        return removed
    return channel_places.spared(network, channel_axes.labelled(network), removed, units)


def _labelled_cut(network: Network, removed: Mapping[str, tuple[int, ...]]) -> Cut:
    labelling = channel_axes.labelled(network)
    kept = channel_places.kept(network, labelling, removed)
    slices = [Slice(tensor, axis, indices) for (tensor, axis), indices in kept.items()]
    attributes = channel_places.attributes(network, labelling, removed)
    return Cut(tuple(slices), tuple(Attribute(*each) for each in attributes))


def _traced_cut(network: Network, removed: Mapping[str, tuple[int, ...]]) -> Cut:
    """Plan a cut without a captured graph: cut a copy whose tensors hold their own flat indices, and read what
    remains."""
    view = View(network)
    cut = copy.deepcopy(view).double().eval()
    graph = channel_graph.dependencies(cut, network.example_input().double())
    _fill_with_indices(cut)
    for root, channels in removed.items():
        channel_graph.cut(graph, cut.network.backbone.get_submodule(root), channels)
    return Cut(tuple(_slices(view, cut)), tuple(_attributes(view, cut)))


def apply_cut(network: Network, cut: Cut) -> None:
    """Slice the parameters and buffers of `network` in place, and attach quantizers to the result anew."""
    slice_tensors(network, cut)
    network.rebuild_attachments()


def slice_tensors(network: Network, cut: Cut) -> None:
    """Slice only the parameters and buffers of `network`, in place: graph and quantizers keep their state."""
    for item in cut.slices:
        _replace(network, item)
    for attribute in cut.attributes:
        setattr(network.get_submodule(attribute.module), attribute.name, attribute.value)


def misfit(network: Network, cut: Cut) -> str | None:
    """Return why a cut from a file does not fit a network, or None if it does."""
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict(keep_vars=True).items()}
    modules, seen = dict(network.named_modules()), set[tuple[str, int]]()
    for item in cut.slices:
        shape = shapes.get(item.tensor)
        if shape is None or not 0 <= item.axis < len(shape) or (item.tensor, item.axis) in seen:
            return f"it cuts axis {item.axis} of '{item.tensor[:80]}', which the model lacks"
        seen.add((item.tensor, item.axis))
        if not item.kept or min(item.kept) < 0 or max(item.kept) >= shape[item.axis]:
            return f"it keeps indices of '{item.tensor[:80]}' outside of 0 to {shape[item.axis] - 1}"
        if len(set(item.kept)) != len(item.kept):
            return f"it keeps an index of '{item.tensor[:80]}' twice"
    return next((problem for each in cut.attributes if (problem := _strange(each, modules.get(each.module)))), None)


def _strange(attribute: Attribute, module: nn.Module | None) -> str | None:
    """Return why an attribute is no size of a module that a cut makes smaller."""
    before, now = vars(module).get(attribute.name) if module is not None else None, attribute.value
    is_alike = type(before) is type(now)
    old = before if isinstance(before, tuple) else (before,)
    new = now if isinstance(now, tuple) else (now,)
    if is_alike and len(old) == len(new) and all(type(o) is int and 0 < n <= o for o, n in zip(old, new, strict=True)):
        return None
    return f"it sets '{attribute.module[:80]}.{attribute.name[:40]}' to {str(now)[:40]}, which is no size of the model"


def _fill_with_indices(model: nn.Module) -> None:
    with torch.no_grad():
        for tensor in [*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())]:
            tensor.copy_(torch.arange(tensor.numel(), dtype=torch.float64).reshape(tensor.shape))


def _slices(whole: View, cut: View) -> Iterable[Slice]:
    shapes = {name: tensor.shape for name, tensor in channel_graph.tensors(whole.network).items()}
    masks = {f"backbone.{layer}.weight": f"masks.{Masks.buffer(layer)}" for layer in whole.network.masks.layers}
    for name, left in channel_graph.tensors(cut.network).items():
        for axis in range(left.dim()):
            if left.shape[axis] != shapes[name][axis]:
                first = left.detach().movedim(axis, 0).reshape(left.shape[axis], -1)[:, 0].long()
                index = first // int(torch.tensor(shapes[name][axis + 1 :]).prod()) % shapes[name][axis]
                yield Slice(name, axis, tuple(index.tolist()))
                if name in masks:
                    yield Slice(masks[name], axis, tuple(index.tolist()))


def _attributes(whole: View, cut: View) -> Iterable[Attribute]:
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
