"""The captured graph of a plain network, and what is read from it: edges to quantize, places for exits."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from torch import fx, nn

WEIGHTED = (nn.Conv2d, nn.Linear)
ACTIVATIONS = {"relu", "relu_", "relu6", "hardtanh", "silu", "gelu", "hardswish", "sigmoid", "hardsigmoid"}


def capture(backbone: nn.Module) -> fx.Graph | None:
    """The graph of `backbone` by symbolic tracing, or None where its control flow depends on its input."""
    try:
        graph = fx.Tracer().trace(backbone)
    except Exception:  # tracing runs the user's code on proxies: anything may be raised there, and all of it means "no"
        return None
    for node in graph.nodes:  # torch's layers name their one tensor so; everywhere else it is the first argument
        if node.op == "call_module" and not node.args and node.kwargs.keys() == {"input"}:
            node.args, node.kwargs = (node.kwargs["input"],), {}
    return graph


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
    blocks = [place for place in _block_ends(graph, modules) if place is not None]
    places = blocks or [_place_at(n, graph) for n in _single_live(graph) if _is_activation(n, modules)]
    allowed = {n.name for n in list(graph.nodes)[: _second_last_weighted(graph, modules)]}
    return tuple(place for place in places if place.node in allowed)


def named_place(graph: fx.Graph, backbone: nn.Module, module: str) -> Place | None:
    """The place after `module`, named by the user; None where more than one tensor is alive there."""
    live = {node.name for node in _single_live(graph)}
    inside = [n for n in graph.nodes if any(p == module for p in _stack(n))]
    return Place(module, inside[-1].name) if inside and inside[-1].name in live else None


def weighted_consumer(node: fx.Node, backbone: nn.Module) -> nn.Module | None:
    """The convolution or linear layer that a node calls, if it calls one."""
    if node.op != "call_module":
        return None
    module = backbone.get_submodule(str(node.target))
    return module if type(module) in WEIGHTED else None


def _stack(node: fx.Node) -> list[str]:
    return [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()]


def _block_ends(graph: fx.Graph, modules: dict[str, nn.Module]) -> Iterator[Place | None]:
    nodes = [node for node in graph.nodes if node.op != "get_attr"]
    single = {node.name for node in _single_live(graph)}
    for node, following in pairwise(nodes):
        ended = [path for path in _stack(node) if path not in _stack(following) and _is_block(path, modules)]
        if node.name in single and ended:
            yield Place(ended[-1], node.name)


def _is_block(path: str, modules: dict[str, nn.Module]) -> bool:
    parent = modules.get(path.rpartition(".")[0])
    has_children = any(True for _ in modules[path].children()) if path in modules else False
    return has_children and isinstance(parent, nn.Sequential | nn.ModuleList) and not _is_container(modules[path])


def _is_container(module: nn.Module) -> bool:
    return type(module) in (nn.Sequential, nn.ModuleList)


def _place_at(node: fx.Node, graph: fx.Graph) -> Place:
    """The place after a node, named by its module where that is called only once."""
    n_calls = sum(other.target == node.target for other in graph.nodes)
    return Place(str(node.target) if node.op == "call_module" and n_calls == 1 else node.name, node.name)


def _is_activation(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return type(modules[str(node.target)]).__module__.endswith("activation")
    return str(getattr(node.target, "__name__", node.target)) in ACTIVATIONS


def _single_live(graph: fx.Graph) -> Iterator[fx.Node]:
    """The nodes after which nothing computed so far but their own output is used."""
    order = {node: i for i, node in enumerate(graph.nodes)}
    last_use = {n: max((order[u] for u in n.users), default=order[n]) for n in graph.nodes if n.op != "get_attr"}
    alive: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "get_attr":
            continue
        alive = {n for n in alive if last_use[n] > order[node]} | {node}
        if len(alive) == 1 and node.op not in ("placeholder", "output"):
            yield node


def _second_last_weighted(graph: fx.Graph, modules: dict[str, nn.Module]) -> int:
    positions = [
        i for i, n in enumerate(graph.nodes) if n.op == "call_module" and type(modules[str(n.target)]) in WEIGHTED
    ]
    return positions[-2] if len(positions) > 1 else 0
