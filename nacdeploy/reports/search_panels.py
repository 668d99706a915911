"""The pictures of a search: its fronts, the best chain letter by letter, its tree."""

from collections.abc import Mapping

from nacdeploy.metrics import axis
from nacdeploy.reports.charts.chart import Axis, Branch, Colour, Mark, Plane, Series, Shape
from nacdeploy.reports.figures import Panel
from nacdeploy.reports.fronts import RATIO, fronts, metric_of, tip, word
from nacdeploy.reports.tree import Node, place
from nacdeploy.strategies.search.journal import Evaluation
from nacdeploy.strategies.search.search_result import SearchResult


def search_panels(found: SearchResult, best: Evaluation | None) -> list[Panel]:
    """Return fronts, chain and tree of a search; the chain where there is a best one, or one that comes nearest."""
    chain = [_chain(found, best)] if best is not None else []
    return [*fronts(found, best), *chain, _tree(found, best)]


def _chain(found: SearchResult, best: Evaluation) -> Panel:
    rows = {e.chain: e for e in found.evaluations if e.figures}
    steps = _steps(rows, best.chain)
    metric, names = metric_of(found), tuple(letter for letter, _ in steps)
    along = [(at, e, e.figures) for at, (_, e) in enumerate(steps) if e.figures]
    scores = tuple(Mark(at, metric.scale * f.score, tip(e)) for at, e, f in along)
    bitops, sizes = ({at: f.bitops_ratio for at, _, f in along}, {at: f.bytes_ratio for at, _, f in along})
    speeds = {at: f.speed_ratio for at, _, f in along if f.speed_ratio}
    kinds: tuple[tuple[str, Colour, Shape, Mapping[int, float]], ...] = (
        ("BitOps", "red", "square", bitops),
        ("bytes", "green", "triangle", sizes),
        ("speed", "purple", "dot", speeds),
    )
    ratios = tuple(
        Series(name, colour, tuple(Mark(at, y, f"{names[at]}\n{name} {y:.2f}x") for at, y in ys.items()), shape, True)
        for name, colour, shape, ys in kinds
        if ys
    )
    caption = f"{metric.title.capitalize()} and cost after each letter of {best.chain}."
    above = Plane(Axis(names=names), Axis(axis(metric)), (Series("", "blue", scores, is_joined=True),))
    below = Plane(Axis("letters, in their order", names=names), Axis(RATIO, is_log=True), ratios)
    return Panel("chain", f"Along the {word(found)} chain", caption, (above, below))


def _steps(rows: Mapping[str, Evaluation], chain: str) -> list[tuple[str, Evaluation]]:
    """Return the beginnings of a chain that were evaluated, each as what it adds to the one before, with its row."""
    beginnings = sorted((c for c in rows if chain.startswith(c)), key=len)
    befores = ["", *beginnings[:-1]]
    return [(c[len(b) :] or "FP32", rows[c]) for b, c in zip(befores, beginnings, strict=True)]


def _tree(found: SearchResult, best: Evaluation | None) -> Panel:
    nodes = place(found.evaluations)
    n_rows = 1 + max((node.row for node in nodes.values()), default=0)
    kinds: dict[str, tuple[Colour, Shape]] = {
        "trained": ("orange", "dot"),
        "new": ("blue", "dot"),
        "reused": ("blue", "hollow"),
        "refused or diverged": ("grey", "cross"),
    }
    series = tuple(
        Series(name, colour, tuple(_leaf(n) for n in nodes.values() if _kind(n) == name), shape)
        for name, (colour, shape) in kinds.items()
    )
    branches = tuple(b for node in nodes.values() for b in _branch(node, nodes, best))
    n_reused = sum(node.reused for node in nodes.values())
    caption = (
        f"{len(nodes) - 1} chains from left to right; {found.n_trainings} trained, {n_reused} led to known states."
    )
    depth = max((node.depth for node in nodes.values()), default=0)
    letters = Axis("letters", names=tuple(map(str, range(depth + 1))))
    plane = Plane(letters, Axis(is_silent=True), series, branches, n_rows)
    return Panel("tree", "Search tree", caption, (plane,))


def _kind(node: Node) -> str:
    if node.evaluation.figures is None:
        return "refused or diverged"
    return "trained" if node.evaluation.trained else "reused" if node.reused else "new"


def _leaf(node: Node) -> Mark:
    letter = "" if node.evaluation.figures is None else node.letter
    return Mark(node.depth, node.row, tip(node.evaluation), letter)


def _branch(node: Node, nodes: Mapping[str, Node], best: Evaluation | None) -> tuple[Branch, ...]:
    parent = nodes.get(node.parent)
    if parent is None or not node.depth:
        return ()
    on_best = best is not None and best.chain.startswith(node.evaluation.chain)
    corners = ((parent.depth, parent.row), (parent.depth, node.row), (node.depth, node.row))
    return (Branch(corners, on_best),)
