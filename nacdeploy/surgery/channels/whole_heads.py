"""Which heads of attention may go: the network's own code must take another number of heads from its attributes."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from weakref import WeakKeyDictionary

from torch import nn

from nacdeploy.network.network import Network, Structure
from nacdeploy.surgery.channel_labels.channel_axes import Labelling, labelled, relabelled
from nacdeploy.surgery.channel_labels.channel_classes import FIXED
from nacdeploy.surgery.channel_labels.heads import Split
from nacdeploy.surgery.channels import channel_places
from nacdeploy.surgery.channels.channel_choice import Group
from nacdeploy.surgery.channels.channel_soundness import sound_ones, soundness

_SETTLED: WeakKeyDictionary[Structure, dict[str, str]] = WeakKeyDictionary()


def settled(network: Network, backbone: nn.Module) -> dict[str, str]:
    """Settle, once for a structure, along which splits into heads channels are labelled; explain, by layer, the rest.

    Attention whose own code cannot run with fewer heads is labelled by the channels of a head, as any other reshape.
    `backbone` is a copy of the network's own, with masked weights as zeros.
    """
    if network.structure not in _SETTLED:
        _SETTLED[network.structure] = _settled(network, backbone)
    return _SETTLED[network.structure]


def _settled(network: Network, backbone: nn.Module) -> dict[str, str]:
    every = labelled(network)
    if not every.heads:
        return {}
    by_root = {each.root: each for each in channel_places.groups(network, every, backbone).groups}
    of_split = _roots(every, by_root)
    good = _kept(network, every.heads, {name: root for name, root in of_split.items() if root in by_root}, by_root)
    if good != every.heads:
        relabelled(network, good)
    return {
        layer: _why(split.owner)
        for name, split in every.heads.items()
        if name not in good
        for layer in _writers(every, split)
    }


def _writers(every: Labelling, split: Split) -> list[str]:
    """Return the layers whose outputs a split splits into heads."""
    here = set(every.classes.find(every.nodes[split.node][split.axis]).tolist()) - {FIXED}
    return [name for name, (outputs, _) in every.layers.items() if here & set(every.classes.find(outputs).tolist())]


def _roots(every: Labelling, groups: Mapping[str, Group]) -> dict[str, str]:
    """Return the group of channels whose heads each split has."""
    found = {}
    classes = {root: set(every.classes.find(every.layers[root][0]).tolist()) for root in groups}
    for name, split in every.heads.items():
        here = set(every.classes.find(every.nodes[name][split.axis]).tolist())
        roots = [root for root, theirs in classes.items() if here <= theirs and groups[root].run > 1]
        found.update(dict.fromkeys([name], roots[0]) if roots else {})
    return found


def _kept(
    network: Network, heads: Mapping[str, Split], of_split: Mapping[str, str], groups: Mapping[str, Group]
) -> dict[str, Split]:
    """Return the splits whose heads may go: with the widths among the owner's attributes, or without."""
    owners = {root: {heads[name].owner for name, other in of_split.items() if other == root} for root in groups}
    shared = Counter(owner for each in owners.values() for owner in each)
    waiting = {root for root in of_split.values() if all(shared[owner] == 1 for owner in owners[root])}
    kept: dict[str, Split] = {}
    for has_widths in (True, False):
        tried = {
            name: replace(heads[name], has_widths=has_widths) for name, root in of_split.items() if root in waiting
        }
        if not tried:
            break
        relabelled(network, {**kept, **tried})
        sound = {each.root for each in sound_ones(network, [groups[root] for root in waiting], soundness(network))}
        kept |= {name: split for name, split in tried.items() if of_split[name] in sound}
        waiting -= sound
    return kept


def _why(owner: str) -> str:
    return f"its heads stay: the code of '{owner}' does not take their number from an attribute of its own"
