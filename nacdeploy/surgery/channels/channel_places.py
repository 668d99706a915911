"""Groups of channels and the slices that cut them, read from the labels of a captured network's axes."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nacdeploy.network.attachments.early_exit import ExitHead
from nacdeploy.network.attachments.sparsity import Masks
from nacdeploy.network.captured.graph import FOLDED, WEIGHTED
from nacdeploy.network.network import Network
from nacdeploy.surgery.channel_labels.channel_axes import Labelling
from nacdeploy.surgery.channel_labels.channel_classes import Labels
from nacdeploy.surgery.channel_labels.heads import counted
from nacdeploy.surgery.channels.channel_choice import NORM, PRODUCER, READER, Group, Member, families, ordered


@dataclass(frozen=True)
class Found:
    """The groups that the wiring allows to cut, and why the other layers keep their outputs."""

    groups: tuple[Group, ...]
    why_left: dict[str, str]


def groups(network: Network, labelling: Labelling, backbone: nn.Module) -> Found:
    """Return the groups of a network, with the importance of their channels from the values of `backbone`.

    `backbone` is a copy of the network's own with masked weights as zeros. The importance is the L2 norm over all
    coupled parameters, divided by its maximum (NAC's GroupNorm).
    """
    found, why_left, taken = [], dict[str, str](), set[int]()
    parts = list(_parts(labelling, backbone))
    held = _by_class(parts)
    outputs = {
        name: labelling.classes.find(labelling.layers[name][0]) for name in labelling.order if name in labelling.layers
    }
    for root, classes in outputs.items():
        why = _why_not(root, outputs, labelling, network)
        if why is not None:
            why_left[root] = why
        elif taken.isdisjoint(classes.tolist()) and not any(
            set(classes.tolist()) < set(o.tolist()) for o in outputs.values()
        ):
            taken.update(classes.tolist())
            here = sorted({place for each in classes.tolist() for place in held.get(each, ())})
            found.append(_group(root, classes, [parts[place] for place in here]))
    for root, classes in outputs.items():
        if taken.isdisjoint(classes.tolist()):
            why_left.setdefault(root, "its outputs are parts of what others write")
    return Found(tuple(found), why_left)


def _why_not(root: str, outputs: Mapping[str, Labels], labelling: Labelling, network: Network) -> str | None:
    classes, layer = outputs[root], network.backbone.get_submodule(root)
    if (why := labelling.classes.why_fixed(labelling.layers[root][0])) is not None:
        return why if len(classes) > 1 else "it has one output"
    if not isinstance(layer, WEIGHTED):
        return f"it is a {type(layer).__name__}"
    quantum, run = _parts_and_run(classes)
    first = classes[: len(classes) // quantum : run]
    is_regular = np.array_equal(classes, np.tile(np.repeat(first, run), quantum))
    return None if is_regular else "its outputs are coupled with one another, as by shuffling channels"


def _parts_and_run(classes: Labels) -> tuple[int, int]:
    """Return the number of equal parts of channels, and how many in a row are of one class, if they are regular."""
    n, n_classes = len(classes), len(np.unique(classes))
    differing = np.nonzero(classes != classes[0])[0]
    run = int(differing[0]) if len(differing) else n
    return (n // (n_classes * run), run) if n % (n_classes * run) == 0 else (1, 1)


def _group(root: str, classes: Labels, parts: Sequence["_Part"]) -> Group:
    n, (quantum, run) = len(classes), _parts_and_run(classes)
    sums, n_parts = torch.zeros(n), 0
    members: dict[tuple[str, str], Member] = {}
    alive: dict[str, Tensor] = {}
    for part in parts:
        places = _by_channel(part.labels, classes)
        if part.square is not None:
            sums += (torch.from_numpy(places).double() @ part.square.double()).float()
            n_parts += 1
        indices = _even(places, n, run > 1)
        if indices:
            members[part.layer, part.role] = Member(part.layer, part.role, indices)
            flags = part.magnitude[torch.tensor(indices)].reshape(n, -1).amax(1) > 0
            alive[part.role] = alive.get(part.role, torch.zeros(n, dtype=torch.bool)) | flags
    scores = sums / max(1, n_parts)
    dead = [not all(bool(flags[c]) for flags in alive.values()) for c in range(n)]
    dying = [c for family in families(n, quantum, run) if all(dead[c] for c in family) for c in family]
    living = [c for c in range(n) if c not in set(dying)]
    unordered = Group(root, (*dying, *living), (0.0,) * n, len(dying), quantum, tuple(members.values()), run)
    return ordered(unordered, scores / scores.amax().clamp(min=1e-30))


@dataclass(frozen=True)
class _Part:
    """One axis of a layer's weight.

    Attributes:
        layer: the name of the layer.
        role: the role of the layer on the channels along the axis.
        labels: the labels of the channels.
        magnitude: the largest magnitude at each place.
        square: the sum of squares at each place; None if this axis does not count.
    """

    layer: str
    role: str
    labels: Labels
    magnitude: Tensor
    square: Tensor | None


def _by_class(parts: Sequence[_Part]) -> dict[int, list[int]]:
    """Return the parts on each class, by their indices in the list."""
    held: dict[int, list[int]] = {}
    for place, part in enumerate(parts):
        for each in np.unique(part.labels).tolist():
            held.setdefault(each, []).append(place)
    return held


def _parts(labelling: Labelling, backbone: nn.Module) -> Iterator[_Part]:
    found = labelling.classes.find
    with torch.no_grad():
        for name, (outputs, inputs) in labelling.layers.items():
            layer: Any = backbone.get_submodule(name)
            weight, groups = layer.weight.detach(), getattr(layer, "groups", 1)
            bias = layer.bias.detach().abs() if layer.bias is not None else 0.0
            is_depthwise = groups > 1 and weight.shape[1] == 1
            square = None if is_depthwise else weight.flatten(1).square().sum(1)
            yield _Part(name, PRODUCER, found(outputs), weight.abs().flatten(1).amax(1) + bias, square)
            if not is_depthwise:
                columns = weight.transpose(0, 1).flatten(1)
                role = READER if groups == 1 else ""
                yield _Part(name, role, found(inputs), columns.abs().amax(1), columns.square().sum(1))
        for name, norm in backbone.named_modules():
            place = labelling.places.get(f"{name}.weight")
            if isinstance(norm, FOLDED) and name not in labelling.layers and place is not None and len(place) == 1:
                weight = norm.get_parameter("weight").detach()
                counts = isinstance(norm, _BatchNorm | nn.LayerNorm)
                yield _Part(name, NORM, found(place[0]), weight.abs(), weight.square() if counts else None)


def _by_channel(labels: Labels, classes: Labels) -> Any:
    """Assign the places of an axis to channels, (channels, places).

    The places are shared out if each of the channels that go together has equally many; else each channel gets all.
    """
    held = classes[:, None] == labels[None, :]
    together = len(classes) // len(np.unique(classes))
    if together > 1 and held.any():
        rank = held.cumsum(1) - 1
        shares = held.sum(1, keepdims=True)
        place = np.zeros((len(classes), 1), np.int64)  # of each channel among those of its class
        for each in np.unique(classes):
            place[classes == each, 0] = np.arange(together)
        if (shares % together == 0).all():
            held &= rank // np.maximum(shares // together, 1) == place
        elif (shares == shares.max()).all() and together % int(shares.max()) == 0:  # as for the parts of a head
            held &= rank == place % shares
    return held


def _even(places: Any, n_channels: int, of_heads: bool) -> tuple[int, ...]:
    """Return the places by channel if all channels have equally many of their own, else nothing.

    The queries, keys and values of a head have the columns of its answer in common.
    """
    shares, owners = places.sum(1), places.sum(0)
    is_even = shares.min() == shares.max() and (
        (owners <= 1).all() or (of_heads and len({*owners.tolist()} - {0}) == 1)
    )
    return tuple(np.nonzero(places)[1].tolist()) if is_even else ()


def axes(network: Network, labelling: Labelling) -> Iterator[tuple[str, int, Labels]]:
    """Yield every axis of every tensor of a network with the classes of its channels; masks, exit heads and
    attachments count."""
    masks = {f"{layer}.weight": f"masks.{Masks.buffer(layer)}" for layer in network.masks.layers}
    for tensor, held in labelling.places.items():
        for axis, labels in enumerate(held):
            yield f"backbone.{tensor}", axis, labelling.classes.find(labels)
            if tensor in masks:
                yield masks[tensor], axis, labelling.classes.find(labels)
    for key, module in network.attached.items():
        if module.by_channel:
            held = labelling.nodes[module.node]
            for name in module.by_channel:
                yield f"attachments.{key}.{name}", 0, labelling.classes.find(_channels(held))
    for key, head in network.exits.items():
        if isinstance(head, ExitHead) and head.node in labelling.nodes:
            read = labelling.nodes[head.node][-1 if head.is_tokens else 1]
            name, reader = head.reader
            n_cells = reader.weight.shape[1] // len(read)
            yield f"exits.{key}.{name}.weight", 1, np.repeat(labelling.classes.find(read), n_cells)


def _channels(held: Sequence[Labels]) -> Labels:
    """Return the labels of a tensor's channels: of its first axis behind the batch; of tokens (N, L, C) the last."""
    is_first = len(held) > 3 or (len(held) == 3 and held[1].any() and not held[2].any())
    return held[1 if is_first else -1]


def kept(
    network: Network, labelling: Labelling, removed: Mapping[str, Iterable[int]]
) -> dict[tuple[str, int], tuple[int, ...]]:
    """Return the remaining indices of every axis that loses some, of every tensor."""
    gone = gone_classes(labelling, removed)
    left = {(t, a): ~np.isin(labels, gone) for t, a, labels in axes(network, labelling)}
    return {key: tuple(np.nonzero(stay)[0].tolist()) for key, stay in left.items() if not stay.all()}


def spared(
    network: Network, labelling: Labelling, removed: Mapping[str, tuple[int, ...]], units: Mapping[str, int]
) -> dict[str, tuple[int, ...]]:
    """Return the removed channels of some root layers, without those that must stay so that no layer is emptied.

    If another layer of a group would lose all its outputs or inputs, the most important channels (the last) stay.
    """
    now = dict(removed)
    while emptied := _emptied(network, labelling, now):
        for root, channels in list(now.items()):
            if np.isin(labelling.classes.find(labelling.layers[root][0][[*channels]]), emptied).any():
                now[root] = channels[: -units[root]]
        now = {root: channels for root, channels in now.items() if channels}
    return now


def _emptied(network: Network, labelling: Labelling, removed: Mapping[str, tuple[int, ...]]) -> list[int]:
    """Return the classes along whose axes nothing would remain."""
    gone = gone_classes(labelling, removed)
    whole = (labels for _, _, labels in axes(network, labelling) if len(labels) and np.isin(labels, gone).all())
    return [int(each) for labels in whole for each in labels]


def gone_classes(labelling: Labelling, removed: Mapping[str, Iterable[int]]) -> Labels:
    """Return the classes of the removed output channels of some root layers."""
    parts = [labelling.classes.find(labelling.layers[root][0][[*channels]]) for root, channels in removed.items()]
    return np.unique(np.concatenate([np.zeros(0, np.int64), *parts]))


def attributes(
    network: Network, labelling: Labelling, removed: Mapping[str, Iterable[int]]
) -> Iterator[tuple[str, str, Any]]:
    """Yield (module, name, value) for every module attribute that counts channels, after a cut."""
    gone = gone_classes(labelling, removed)

    def left(labels: Labels) -> int:
        return int((~np.isin(labelling.classes.find(labels), gone)).sum())

    heads = dict[tuple[str, str], int]()
    for split in labelling.heads.values():
        owner, n_heads = network.backbone.get_submodule(split.owner), left(labelling.nodes[split.node][split.axis])
        path = f"backbone.{split.owner}".rstrip(".")
        heads |= {(path, name): n for name, n in counted(split, owner, n_heads) if getattr(owner, name) != n}
    yield from ((path, name, n) for (path, name), n in heads.items())
    for name, module in network.backbone.named_modules():
        for attribute, value in _numbers(name, module, labelling, left):
            if getattr(module, attribute) != value:
                yield f"backbone.{name}", attribute, value
    tensors = {f"{tensor}.{axis}": labels for tensor, axis, labels in axes(network, labelling)}
    for key, head in network.exits.items():
        if isinstance(head, ExitHead):
            name, reader = head.reader
            read = tensors.get(f"exits.{key}.{name}.weight.1")
            if read is not None and left(read) != len(read):
                counted_by = "in_features" if isinstance(reader, nn.Linear) else "in_channels"
                yield f"exits.{key}.{name}", counted_by, left(read)


def _numbers(name: str, module: nn.Module, labelling: Labelling, left: Any) -> Iterator[tuple[str, Any]]:
    if name in labelling.layers:
        n_out, n_in = (left(labels) for labels in labelling.layers[name])
        if isinstance(module, nn.Linear):
            yield from (("out_features", n_out), ("in_features", n_in))
        else:
            yield from _of_convolution(module, n_out, n_in)
        return
    place = labelling.places.get(f"{name}.weight")
    if place is None:
        place = labelling.places.get(f"{name}.running_mean")
    if place is None:
        return
    if isinstance(module, nn.LayerNorm):
        yield "normalized_shape", tuple(left(labels) for labels in place)
    elif isinstance(module, nn.GroupNorm):
        n = left(place[0])
        yield from (
            ("num_channels", n),
            ("num_groups", n if module.num_groups == module.num_channels else module.num_groups),
        )
    elif isinstance(module, _BatchNorm | nn.modules.instancenorm._InstanceNorm):
        yield "num_features", left(place[0])
    elif isinstance(module, nn.PReLU) and module.num_parameters > 1:
        yield "num_parameters", left(place[0])


def _of_convolution(module: Any, n_out: int, n_in: int) -> Iterator[tuple[str, int]]:
    groups = module.groups
    if groups > 1 and module.in_channels == groups:  # depthwise: each input has its part
        groups = n_out // (module.out_channels // groups)
    yield from (("out_channels", n_out), ("in_channels", n_in * groups), ("groups", groups))
