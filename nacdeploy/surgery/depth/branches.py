"""Residual branches that may leave a network: f of x + f(x), where nothing else of the network needs what f computes.

A branch starts at one tensor and ends at one addition, and all of its layers lie in modules that are called nowhere
else. Each is tried: without the branch's modules, the network must answer as it does with zeros for the branch.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx, nn

from nacdeploy.network.captured.capture import capture
from nacdeploy.network.captured.decibels import snr_db
from nacdeploy.network.captured.graph import (
    Captured,
    Interpreter,
    carries_images,
    operator_name,
    stack,
    weighted_consumer,
)
from nacdeploy.network.captured.nothing import CLAMPS, KEEP_ZEROS
from nacdeploy.network.network import Network, Structure
from nacdeploy.surgery.depth.dropping import Block, silence

_LEAST_DB = 100.0


@dataclass(frozen=True)
class Branch:
    """A residual branch.

    Attributes:
        block: its modules.
        output: the node of its output.
        nodes: the nodes that go with it, its addition among them.
        behind: the clamps of the sum, which go where the other operand is clamped already.
        layers: its convolutions and linear layers.
        inner: the roots of the groups of channels that lie within it alone.
        importance: what is lost without it, in the unit of the channels' importance.
    """

    block: Block
    output: str
    nodes: frozenset[str]
    behind: frozenset[str]
    layers: tuple[str, ...]
    inner: tuple[str, ...] = ()
    importance: float = 0.0

    @property
    def key(self) -> str:
        """The name of the choice to keep it, which is no name of a layer."""
        return f"+{self.block.end}"


def branches(network: Network) -> tuple[Branch, ...]:
    """Return the branches that may go, in order of execution; none of a network without a graph.

    A branch stays if an exit or an attachment reads a tensor that would go with it.
    """
    if network.graph is None:
        return ()
    if network.structure not in _KNOWN:
        _KNOWN[network.structure] = tuple(_sound(network, _innermost(list(_candidates(network)))))
    read = {str(each.node) for each in (*network.exits.values(), *network.attachments.values())}
    return tuple(branch for branch in _KNOWN[network.structure] if not (branch.nodes | branch.behind) & read)


_KNOWN: WeakKeyDictionary[Structure, tuple[Branch, ...]] = WeakKeyDictionary()


class _Silenced(Interpreter):
    """A network with zeros for the values of some nodes."""

    def __init__(self, backbone: nn.Module, captured: Captured, nodes: set[str]) -> None:
        super().__init__(backbone, captured)
        self._nodes = nodes

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        return torch.zeros_like(value) if n.name in self._nodes else value


def _candidates(network: Network) -> Iterator[Branch]:
    assert network.graph is not None
    owned = _owned(network)
    for node in network.graph.nodes:
        operands = [each for each in node.all_input_nodes if carries_images(each)]
        if operator_name(node.target) == "add" and len(operands) == 2:
            for x, y in (operands, operands[::-1]):
                if (inside := _between(x, y)) and (found := _branch(network, owned, node, y, inside)) is not None:
                    yield found


def _owned(network: Network) -> dict[str, set[fx.Node]]:
    """Return the nodes of each module and all that lies in it, by the module's path."""
    found: dict[str, set[fx.Node]] = {}
    for node in network.graph.nodes if network.graph is not None else ():
        for path in {*stack(node), *([str(node.target)] if node.op == "call_module" else [])}:
            found.setdefault(path, set()).add(node)
    return found


def _between(x: fx.Node, y: fx.Node) -> set[fx.Node]:
    """Return the nodes behind `x` that lead to `y`, with `y`; none if something else leads there too, or another node
    reads one of them."""
    inside, waiting = {y}, [y]
    while waiting:
        node = waiting.pop()
        if node is x or node.op == "placeholder":
            return set()
        new = {each for each in node.all_input_nodes if carries_images(each) and each is not x} - inside
        inside |= new
        waiting += new
    inner = inside - {y}
    is_closed = len(y.users) == 1 and all(user in inside or not carries_images(user) for n in inner for user in n.users)
    return inside if is_closed else set()


def _branch(
    network: Network, owned: dict[str, set[fx.Node]], addition: fx.Node, y: fx.Node, inside: set[fx.Node]
) -> Branch | None:
    """Return a branch if its layers lie in modules of its own, one of which computes its output."""
    within = {path for path, nodes in owned.items() if nodes <= inside and _is_named_once(network.backbone, path)}
    modules = tuple(sorted(path for path in within if not any(path.startswith(f"{other}.") for other in within)))
    layers = [str(n.target) for n in inside if weighted_consumer(n, network.backbone) is not None]
    last = y
    while (end := next((each for each in modules if last in owned[each]), None)) is None:
        if operator_name(last.target) not in KEEP_ZEROS or last.all_input_nodes[0] not in inside:
            return None
        last = last.all_input_nodes[0]
    block = Block(modules, end)
    if not layers or not all(block.holds(layer) for layer in layers):
        return None
    behind = frozenset(user.name for user in addition.users if operator_name(user.target) in CLAMPS)
    gone = frozenset({addition.name, *(node.name for node in inside)})
    return Branch(block, y.name, gone, behind, tuple(sorted(set(layers))))


def _is_named_once(backbone: nn.Module, path: str) -> bool:
    """Tell whether no module at or under a path has a second name elsewhere."""
    module = backbone.get_submodule(path)
    held = {id(each) for each in module.modules()}
    names = [name for name, each in backbone.named_modules(remove_duplicate=False) if id(each) in held]
    return all(name == path or name.startswith(f"{path}.") for name in names)


def _innermost(found: list[Branch]) -> list[Branch]:
    """Leave out branches around other branches: to drop what lies within is the smaller step."""
    return [each for each in found if not any(other is not each and other.output in each.nodes for other in found)]


def _sound(network: Network, found: list[Branch]) -> list[Branch]:
    """Return the branches that may go: all at once if that is right, else found by halving."""
    if not found or _holds(network, found):
        return found
    half = len(found) // 2
    return [*_sound(network, found[:half]), *_sound(network, found[half:])] if half else []


def _holds(network: Network, found: Sequence[Branch]) -> bool:
    """Tell whether a network without some branches answers as with zeros for them."""
    whole = copy.deepcopy(network.backbone).eval()
    smaller = copy.deepcopy(whole)
    silence(smaller, [branch.block for branch in found])
    captured = capture(smaller, network.input_shape)
    if captured.graph is None or any(branch.nodes & {n.name for n in captured.graph.nodes} for branch in found):
        return False
    images = _images(network)
    with torch.no_grad():
        expected = _Silenced(whole, network.captured, {branch.output for branch in found}).run(images)
        answer = Interpreter(smaller, captured).run(images)
    return answer.shape == expected.shape and snr_db(expected, answer) >= _LEAST_DB


def _images(network: Network) -> Tensor:
    like = next((p for p in network.backbone.parameters() if p.is_floating_point()), torch.zeros(()))
    return torch.randn(2, *network.input_shape, generator=torch.Generator().manual_seed(0)).to(like)
