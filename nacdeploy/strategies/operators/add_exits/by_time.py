"""The order of exit places by measured time: middles of the time that is left, not of the blocks."""

from collections import deque
from collections.abc import Mapping, Sequence

from torch import nn

from nacdeploy.network.attachments.exit_places import Place
from nacdeploy.network.network import Network
from nacdeploy.task.clock import Clock


def times_before(places: Sequence[Place], network: Network, clock: Clock) -> dict[str, float]:
    """Return the time in ms of all layers in front of each place, by its node, and of the whole network, by ""."""
    layers = network.layers
    found = clock.layers_ms(network, {name: ((_n_in(each),), (_n_out(each),)) for name, each in layers.items()})
    return summed(places, network, {name: grid[0][0] for name, grid in found.items()})


def summed(places: Sequence[Place], network: Network, layers_ms: Mapping[str, float]) -> dict[str, float]:
    """Return the sums of layers' times in front of places. A layer that is called again counts at its first call."""
    wanted, total = {place.node for place in places}, 0.0
    found: dict[str, float] = {}
    seen: set[str] = set()
    for node in network.graph.nodes if network.graph is not None else ():
        name = str(node.target)
        if node.op == "call_module" and name in layers_ms and name not in seen:
            seen.add(name)
            total += layers_ms[name]
        if node.name in wanted:
            found[node.name] = total
    return {**found, "": total}


def middles_first(places: Sequence[Place], before_ms: Mapping[str, float]) -> list[Place]:
    """Return places in the order of a breadth-first walk: nearest to the middle of the time, then of both halves."""
    order: list[Place] = []
    queue = deque([(list(places), 0.0, before_ms[""])])
    while queue:
        span, low, high = queue.popleft()
        if not span:
            continue
        at = min(range(len(span)), key=lambda i: abs(before_ms[span[i].node] - (low + high) / 2))
        order.append(span[at])
        split = before_ms[span[at].node]
        queue += [(span[:at], low, split), (span[at + 1 :], split, high)]
    return order


def _n_in(layer: nn.Module) -> int:
    return int(layer.in_channels if isinstance(layer, nn.Conv2d) else layer.in_features)  # type: ignore[arg-type]


def _n_out(layer: nn.Module) -> int:
    return int(layer.out_channels if isinstance(layer, nn.Conv2d) else layer.out_features)  # type: ignore[arg-type]
