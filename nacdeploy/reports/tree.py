"""The places of a search's chains in a picture of their tree: a column per letter, a row per leaf."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.search.journal import Evaluation


@dataclass(frozen=True)
class Node:
    """One evaluated chain: its last letter, its depth in letters, its row, and whether it led to a known state."""

    evaluation: Evaluation
    parent: str
    letter: str
    depth: int
    row: float
    reused: bool


def place(evaluations: Sequence[Evaluation]) -> dict[str, Node]:
    """Return the nodes by chain, in the order of evaluation. A chain without its beginning hangs on the root."""
    nodes: dict[str, Node] = {}
    states: set[str] = set()
    for evaluation in evaluations:
        nodes.setdefault(evaluation.chain, _node(evaluation, nodes, evaluation.state_key in states))
        states.add(evaluation.state_key)
    children: dict[str, list[str]] = {chain: [] for chain in nodes}
    for chain, node in nodes.items():
        if chain:
            children[node.parent].append(chain)
    rows = _rows(children, [chain for chain in nodes if not chain])
    return {chain: replace(node, row=rows[chain]) for chain, node in nodes.items()}


def _node(evaluation: Evaluation, nodes: dict[str, Node], reused: bool) -> Node:
    links = Chain.parse(evaluation.chain).links
    parent = str(Chain(links[:-1]))
    letter = links[-1].letter if links else ""
    return Node(evaluation, parent if parent in nodes else "", letter, len(links), 0.0, reused)


def _rows(children: dict[str, list[str]], roots: list[str]) -> dict[str, float]:
    """Leaves take the next free row; a parent stands in the middle of its children. Without recursion: chains of a
    search may be long."""
    rows: dict[str, float] = {}
    n_leaves = 0
    stack = [(root, False) for root in reversed(roots)]
    while stack:
        chain, done = stack.pop()
        if done:
            rows[chain] = sum(rows[child] for child in children[chain]) / len(children[chain])
        elif children[chain]:
            stack.append((chain, True))
            stack.extend((child, False) for child in reversed(children[chain]))
        else:
            rows[chain], n_leaves = float(n_leaves), n_leaves + 1
    return rows
