"""Chains as a tree with a place for each."""

from nacdeploy.reports.tree import place
from nacdeploy.strategies.search.journal import Evaluation


def rows_of(*chains: str, keys: dict[str, str] | None = None) -> list[Evaluation]:
    return [Evaluation(chain, (keys or {}).get(chain, chain), None) for chain in chains]


def test_leaves_stand_apart_and_parents_between_them() -> None:
    nodes = place(rows_of("", "P", "PP", "PQ", "Q"))
    assert [nodes[leaf].row for leaf in ("PP", "PQ", "Q")] == [0.0, 1.0, 2.0]
    assert nodes["P"].row == 0.5
    assert nodes[""].row == 1.25
    assert [node.depth for node in nodes.values()] == [0, 1, 2, 2, 1]


def test_state_seen_before_is_marked_reused() -> None:
    nodes = place(rows_of("", "P", "Q", "PQ", "QP", keys={"PQ": "same", "QP": "same"}))
    assert [chain for chain, node in nodes.items() if node.reused] == ["QP"]


def test_chain_without_its_beginning_hangs_on_the_root() -> None:
    assert place(rows_of("", "QPF"))["QPF"].parent == ""


def test_parameters_belong_to_their_letter() -> None:
    node = place(rows_of("", "P(ratio=0.1)", "P(ratio=0.1)Q"))["P(ratio=0.1)Q"]
    assert (node.parent, node.letter, node.depth) == ("P(ratio=0.1)", "Q", 2)


def test_long_chain_needs_no_recursion() -> None:
    chains = ["P" * n for n in range(1500)]
    assert place(rows_of(*chains))["P" * 1499].depth == 1499
