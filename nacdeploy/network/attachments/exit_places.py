"""Where early exits may stand: the ends of blocks at which a captured graph holds a single tensor that follows from the
images."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from torch import fx, nn

from nacdeploy.network.attachments.placement import kind_of_node
from nacdeploy.network.captured.graph import carries_images, stack, weighted_consumer

ACTIVATIONS = {"relu", "relu_", "relu6", "hardtanh", "silu", "gelu", "hardswish", "sigmoid", "hardsigmoid"}


@dataclass(frozen=True)
class Place:
    """A place for an early exit: the end of a block where the graph holds a single live tensor."""

    name: str
    node: str


def exit_places(graph: fx.Graph, backbone: nn.Module) -> tuple[Place, ...]:
    """The ends of repeated blocks (children of Sequential or ModuleList) with one live tensor, in execution order.

    Where no such block is found, the outputs of activations serve. A place after which fewer than two weighted
    layers remain is left out: there the network's own classifier is as near.
    """
    modules = dict(backbone.named_modules())
    blocks = list(_block_ends(graph, modules))
    places = blocks or [_place_at(n, modules) for n in _single_live(graph) if _is_activation(n, backbone)]
    allowed = {n.name for n in list(graph.nodes)[: _second_last_weighted(graph, backbone)]}
    return tuple(place for place in places if place.node in allowed)


def named_place(graph: fx.Graph, backbone: nn.Module, module: str) -> Place | None:
    """The place after `module`, named by the user; None where more than one tensor is alive there."""
    live = {node.name for node in _single_live(graph)}
    inside = [n for n in graph.nodes if carries_images(n) and module in stack(n)]
    return Place(module, inside[-1].name) if inside and inside[-1].name in live else None


def _block_ends(graph: fx.Graph, modules: dict[str, nn.Module]) -> Iterator[Place]:
    nodes = [node for node in graph.nodes if carries_images(node) or node.op == "output"]
    single = {node.name for node in _single_live(graph)}
    for node, following in pairwise(nodes):
        ended = [path for path in stack(node) if path not in stack(following) and _is_block(path, modules)]
        if node.name in single and ended:
            yield Place(ended[-1], node.name)


def _is_block(path: str, modules: dict[str, nn.Module]) -> bool:
    parent = modules.get(path.rpartition(".")[0])
    has_children = any(True for _ in modules[path].children()) if path in modules else False
    return has_children and isinstance(parent, nn.Sequential | nn.ModuleList) and not _is_container(modules[path])


def _is_container(module: nn.Module) -> bool:
    return type(module) in (nn.Sequential, nn.ModuleList)


def _place_at(node: fx.Node, modules: dict[str, nn.Module]) -> Place:
    """The place after a node, named by its module where the node is all that this computes in one call."""
    path = (stack(node) or [""])[-1]
    return Place(path if node.name == path.replace(".", "_").lower() and path in modules else node.name, node.name)


def _is_activation(node: fx.Node, backbone: nn.Module) -> bool:
    return node.op == "call_function" and kind_of_node(node, backbone) in ACTIVATIONS


def _single_live(graph: fx.Graph) -> Iterator[fx.Node]:
    """The nodes after which nothing that follows from the images but their own output is used."""
    order = {node: i for i, node in enumerate(graph.nodes)}
    carrying = [node for node in graph.nodes if carries_images(node)]
    last_use = {n: max((order[u] for u in n.users), default=order[n]) for n in carrying}
    alive: set[fx.Node] = set()
    for node in carrying:
        alive = {n for n in alive if last_use[n] > order[node]} | {node}
        if len(alive) == 1 and node.op != "placeholder":
            yield node


def _second_last_weighted(graph: fx.Graph, backbone: nn.Module) -> int:
    positions = [i for i, node in enumerate(graph.nodes) if weighted_consumer(node, backbone) is not None]
    return positions[-2] if len(positions) > 1 else 0
