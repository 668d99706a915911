"""The pictures of a search and its answer: fronts, the chain letter by letter, the tree, layers before and after."""

from collections.abc import Mapping, Sequence

from nacdeploy.metrics import ACCURACY, Metric, axis, shown, shown_drop
from nacdeploy.reports.charts.chart import Axis, Bar, Bars, Branch, Colour, Mark, Plane, Row, Series, Shape
from nacdeploy.reports.figures import Panel
from nacdeploy.reports.layers import LayerChange
from nacdeploy.reports.tree import Node, place
from nacdeploy.strategies.search.journal import Evaluation
from nacdeploy.strategies.search.objective import Figures
from nacdeploy.strategies.search.search_result import SearchResult

_PRECISIONS: dict[int, Colour] = {32: "blue", 8: "green", 4: "purple"}
_RATIO = "baseline / now"


def search_panels(found: SearchResult, best: Evaluation | None) -> list[Panel]:
    """Return fronts, chain and tree of a search; the front of measured speeds where there are some, the chain where
    something is admissible."""
    panels = [_front(found, best)]
    if any(e.figures and e.figures.speed_low for e in found.front):
        panels.append(_timed_front(found, best))
    if best is not None:
        panels.append(_chain(found.evaluations, best))
    return [*panels, _tree(found, best)]


def layers_panel(changes: Sequence[LayerChange]) -> Panel:
    """Return every layer that multiplies, before and after."""
    caption = "Grey: the baseline. Coloured: what is left, by the width of its weights, with channels in -> out."
    widths = {change.weight_bits for change in changes}
    legend = tuple((f"{bits}-bit weights", colour) for bits, colour in _PRECISIONS.items() if bits in widths)
    chart = Bars(Axis("million MACs for one image"), tuple(map(_layer, changes)), (("baseline", "grey"), *legend))
    return Panel("layers", "Layer by layer", caption, (chart,))


def speed_words(figures: Figures) -> str:
    """Print a speed with its interval; "" without one."""
    if figures.speed_ratio is None:
        return ""
    if figures.speed_low is None or figures.speed_high is None:
        return f"{figures.speed_ratio:.2f}x"
    return f"{figures.speed_ratio:.2f}x ({figures.speed_low:.2f}-{figures.speed_high:.2f})"


def _layer(change: LayerChange) -> Row:
    before, after = change.macs_before / 1e6, change.macs_after / 1e6
    tip = f"{change.layer}\nbefore: {before:.4g} million MACs\nnow: {after:.4g} million MACs\n{change.what}"
    colour = _PRECISIONS.get(change.weight_bits, "pink")
    return Row(change.layer, (Bar(before, "grey", tip), Bar(after, colour, tip, is_thin=True)), change.what)


def _front(found: SearchResult, best: Evaluation | None) -> Panel:
    metric = _metric(found.evaluations)
    ratio = {e.chain: e.figures.bitops_ratio for e in found.evaluations if e.figures}
    caption = f"Every evaluated chain. The line joins those that no other beats in {metric.title} and BitOps."
    across = Axis(f"BitOps ratio ({_RATIO})", is_log=True)
    return Panel("front", "Pareto front", caption, (_scatter(found, best, across, ratio, metric),))


def _timed_front(found: SearchResult, best: Evaluation | None) -> Panel:
    metric = _metric(found.evaluations)
    speeds = {e.chain: e.figures.speed_ratio for e in found.evaluations if e.figures and e.figures.speed_ratio}
    caption = "The same chains by measured speed, with its 95 % interval; the line joins those that no other beats."
    across = Axis(f"measured speed ({_RATIO})", is_log=True)
    return Panel("front-speed", "Measured front", caption, (_scatter(found, best, across, speeds, metric),))


def _scatter(
    found: SearchResult, best: Evaluation | None, across: Axis, x: Mapping[str, float], metric: Metric
) -> Plane:
    rows = [e for e in found.evaluations if e.chain in x]
    front = _unbeaten(rows, x)
    line = Series("front", "grey", _marks(front, x, metric), "none", is_joined=True)
    series = [
        *([line] if len(front) > 1 else []),
        Series("trained", "orange", _marks([e for e in rows if e.trained], x, metric)),
        Series("not trained", "blue", _marks([e for e in rows if not e.trained], x, metric)),
    ]
    if best is not None and best.chain in x:
        series.append(Series(f"best: {_short(best.chain)}", "red", _marks([best], x, metric), "ring"))
    return Plane(across, Axis(axis(metric)), tuple(series))


def _unbeaten(rows: Sequence[Evaluation], x: Mapping[str, float]) -> list[Evaluation]:
    """Return the chains that none of as much x, or more, beats in score."""
    kept: list[Evaluation] = []
    for each in sorted(rows, key=lambda e: (-x[e.chain], -_quality(e))):
        if not kept or _quality(each) > _quality(kept[-1]):
            kept.append(each)
    return kept


def _quality(evaluation: Evaluation) -> float:
    return evaluation.figures.quality if evaluation.figures else 0.0


def _marks(rows: Sequence[Evaluation], x: Mapping[str, float], metric: Metric) -> tuple[Mark, ...]:
    return tuple(_mark(e, e.figures, x[e.chain], metric) for e in rows if e.figures)


def _mark(evaluation: Evaluation, figures: Figures, x: float, metric: Metric) -> Mark:
    is_speed = x == figures.speed_ratio and figures.speed_low is not None
    low, high = (figures.speed_low, figures.speed_high) if is_speed else (None, None)
    return Mark(x, metric.scale * figures.score, _tip(evaluation), low=low, high=high)


def _tip(evaluation: Evaluation) -> str:
    figures = evaluation.figures
    name = evaluation.chain or "(untouched)"
    if figures is None:
        return f"{name}\n{evaluation.error or 'failed'}"
    metric = figures.scored_by
    lines = [
        name,
        f"{metric.title}: {shown(metric, figures.score)} ({shown_drop(metric, figures.drop)} lost)",
        f"BitOps {figures.bitops_ratio:.2f}x, MACs {figures.macs_ratio:.2f}x, bytes {figures.bytes_ratio:.2f}x",
    ]
    return "\n".join([*lines, *([f"speed {speed_words(figures)}"] if figures.speed_ratio else [])])


def _chain(evaluations: Sequence[Evaluation], best: Evaluation) -> Panel:
    rows = {e.chain: e for e in evaluations if e.figures}
    steps = _steps(rows, best.chain)
    metric, names = _metric(evaluations), tuple(letter for letter, _ in steps)
    along = [(at, e, e.figures) for at, (_, e) in enumerate(steps) if e.figures]
    scores = tuple(Mark(at, metric.scale * f.score, _tip(e)) for at, e, f in along)
    bitops, sizes = ({at: f.bitops_ratio for at, _, f in along}, {at: f.bytes_ratio for at, _, f in along})
    speeds = {at: f.speed_ratio for at, _, f in along if f.speed_ratio}
    kinds: tuple[tuple[str, Colour, Shape, Mapping[int, float]], ...] = (
        ("BitOps", "red", "square", bitops),
        ("bytes", "green", "triangle", sizes),
        ("measured speed", "purple", "dot", speeds),
    )
    ratios = tuple(
        Series(
            name, colour, tuple(Mark(at, v, f"{names[at]}\n{name} {v:.2f}x") for at, v in found.items()), shape, True
        )
        for name, colour, shape, found in kinds
        if found
    )
    caption = f"{metric.title.capitalize()} and cost after each letter of {best.chain}."
    above = Plane(Axis(names=names), Axis(axis(metric)), (Series("", "blue", scores, is_joined=True),))
    below = Plane(Axis("letters, in their order", names=names), Axis(_RATIO, is_log=True), ratios)
    return Panel("chain", "Along the best chain", caption, (above, below))


def _metric(evaluations: Sequence[Evaluation]) -> Metric:
    """Return the metric of a search's chains."""
    return next((e.figures.scored_by for e in evaluations if e.figures), ACCURACY)


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
    return Mark(node.depth, node.row, _tip(node.evaluation), letter)


def _branch(node: Node, nodes: Mapping[str, Node], best: Evaluation | None) -> tuple[Branch, ...]:
    parent = nodes.get(node.parent)
    if parent is None or not node.depth:
        return ()
    on_best = best is not None and best.chain.startswith(node.evaluation.chain)
    corners = ((parent.depth, parent.row), (parent.depth, node.row), (node.depth, node.row))
    return (Branch(corners, on_best),)


def _short(chain: str) -> str:
    return chain if len(chain) <= 24 else f"{chain[:22]}…"
