"""The pictures of a report as matplotlib figures, narrow enough for a phone: front, best chain, search tree, layers."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from nacdeploy.base import records
from nacdeploy.metrics import ACCURACY, Metric, axis
from nacdeploy.reports.layers import LayerChange
from nacdeploy.reports.tree import Node, place
from nacdeploy.strategies.search.journal import Evaluation
from nacdeploy.strategies.search.search_result import SearchResult

WIDTH_INCHES = 5.2
_ROW_INCHES = 0.24
_TRAINED, _NEW, _REUSED, _BEST = "tab:orange", "tab:blue", "white", "tab:red"
_PRECISIONS = {32: "tab:blue", 8: "tab:green", 4: "tab:purple"}


@dataclass(frozen=True)
class Panel:
    """One picture: a file name, a title, a sentence on how to read it, and the matplotlib figure."""

    name: str
    title: str
    caption: str
    figure: Any

    def data_uri(self) -> str:
        """Return the picture as an SVG that an HTML page holds in itself."""
        from matplotlib import rc_context

        content = io.BytesIO()
        with rc_context({"svg.hashsalt": self.name}):  # else every file has ids of its own
            self.figure.savefig(content, format="svg", metadata={"Date": None})
        return "data:image/svg+xml;base64," + base64.b64encode(content.getvalue()).decode()

    def write_png(self, folder: Path) -> Path:
        """Write the picture as `<name>.png`, whole or not at all."""
        path, drawn = folder / f"{self.name}.png", io.BytesIO()
        self.figure.savefig(drawn, format="png", dpi=120)
        records.write_bytes(path, [drawn.getvalue()])
        return path


@dataclass(frozen=True)
class Pictures:
    """Several pictures, which a notebook shows below each other."""

    panels: tuple[Panel, ...]

    @property
    def figures(self) -> tuple[Any, ...]:
        """The matplotlib figures, to be changed or saved in any format."""
        return tuple(panel.figure for panel in self.panels)

    def save(self, folder: Path | str) -> list[Path]:
        """Write each picture as a PNG file into an existing folder."""
        return [panel.write_png(Path(folder)) for panel in self.panels]

    def _repr_html_(self) -> str:
        shown = (f'<h4>{escape(p.title)}</h4><img src="{p.data_uri()}"><p>{escape(p.caption)}</p>' for p in self.panels)
        return "".join(shown)


def search_panels(found: SearchResult, best: Evaluation | None) -> list[Panel]:
    """Front, chain and tree of a search; without the chain where nothing is admissible."""
    panels = [_front(found, best)]
    if best is not None:
        panels.append(_chain(found.evaluations, best))
    return [*panels, _tree(found, best)]


def layers_panel(changes: Sequence[LayerChange]) -> Panel:
    """Return every layer that multiplies, before and after."""
    figure, axes = _axes("", "million MACs for one image", len(changes) * _ROW_INCHES + 1.2)
    rows = range(len(changes))
    axes.barh(rows, [c.macs_before / 1e6 for c in changes], color="lightgrey", height=0.8)
    colours = [_PRECISIONS.get(c.weight_bits, "tab:pink") for c in changes]
    axes.barh(rows, [c.macs_after / 1e6 for c in changes], color=colours, alpha=0.6, height=0.5)
    for row, change in zip(rows, changes, strict=True):
        axes.annotate(change.what, (0, row), xytext=(3, 0), textcoords="offset points", va="center", fontsize=7)
    axes.set_yticks(rows, [c.layer for c in changes], fontsize=7)
    axes.invert_yaxis()
    for bits, colour in _PRECISIONS.items():
        axes.barh([0], [0], color=colour, alpha=0.6, label=f"{bits}-bit weights")
    axes.legend(fontsize=7, loc="lower right")
    caption = "Grey: the baseline. Coloured: what is left, by the width of its weights, with channels in -> out."
    return Panel("layers", "Layer by layer", caption, figure)


def _front(found: SearchResult, best: Evaluation | None) -> Panel:
    metric = _metric(found.evaluations)
    figure, axes = _axes(axis(metric), "BitOps ratio (baseline / now)")
    kinds = {"trained": (_TRAINED, lambda e: e.trained), "not trained": (_NEW, lambda e: not e.trained)}
    for label, (colour, belongs) in kinds.items():
        shown = [e.figures for e in found.evaluations if e.figures and belongs(e)]
        points = [(f.bitops_ratio, metric.scale * f.score) for f in shown]
        axes.scatter(*_columns(points), c=colour, s=18, label=label)
    front = sorted((e.figures.bitops_ratio, metric.scale * e.figures.score) for e in found.front if e.figures)
    axes.plot(*_columns(front), color="grey", linewidth=1, label="front")
    if best is not None and best.figures:
        point = (best.figures.bitops_ratio, metric.scale * best.figures.score)
        axes.scatter(*point, s=70, facecolors="none", edgecolors=_BEST, label=f"best: {_short(best.chain)}")
    axes.set_xscale("log")
    axes.legend(fontsize=7)
    caption = f"Every evaluated chain. The front holds those that no other beats in {metric.title}, cost and bytes."
    return Panel("front", "Pareto front", caption, figure)


def _chain(evaluations: Sequence[Evaluation], best: Evaluation) -> Panel:
    rows = {e.chain: e.figures for e in evaluations if e.figures}
    steps = _steps(rows, best.chain)
    along, labels = [figures for _, figures in steps], [letter for letter, _ in steps]
    metric = _metric(evaluations)
    figure, axes = _axes(axis(metric), "")
    x = range(len(steps))
    axes.plot(x, [metric.scale * f.score for f in along], "o-", color="tab:blue", label=metric.title)
    ratios = axes.twinx()
    ratios.plot(x, [f.bitops_ratio for f in along], "s--", color="tab:red", label="BitOps ratio")
    ratios.plot(x, [f.bytes_ratio for f in along], "^--", color="tab:green", label="bytes ratio")
    ratios.set_yscale("log")
    ratios.set_ylabel("baseline / now")
    axes.set_xticks(x, labels, rotation=45 if any(len(label) > 4 for label in labels) else 0)
    figure.legend(fontsize=7, loc="outside lower center", ncols=3)
    caption = f"{metric.title.capitalize()} and cost after each letter of {best.chain}."
    return Panel("chain", "Along the best chain", caption, figure)


def _metric(evaluations: Sequence[Evaluation]) -> Metric:
    """Return the metric of a search's chains."""
    return next((e.figures.scored_by for e in evaluations if e.figures), ACCURACY)


def _steps(rows: Mapping[str, Any], chain: str) -> list[tuple[str, Any]]:
    """Return the beginnings of a chain that were evaluated, each as what it adds to the one before, with its
    figures."""
    beginnings = sorted((c for c in rows if chain.startswith(c)), key=len)
    befores = ["", *beginnings[:-1]]
    return [(c[len(b) :] or "FP32", rows[c]) for b, c in zip(befores, beginnings, strict=True)]


def _tree(found: SearchResult, best: Evaluation | None) -> Panel:
    nodes = place(found.evaluations)
    n_rows = 1 + max((node.row for node in nodes.values()), default=0)
    figure, axes = _axes("", "letters", n_rows * _ROW_INCHES * 0.8 + 1.4)
    for node in nodes.values():
        _draw_branch(axes, node, nodes, best)
    for node in nodes.values():
        _draw_node(axes, node)
    for label, (face, edge) in {
        "trained": (_TRAINED, _TRAINED),
        "new": (_NEW, _NEW),
        "reused": (_REUSED, _NEW),
    }.items():
        axes.scatter([], [], c=face, edgecolors=edge, s=40, label=label)
    axes.scatter([], [], marker="x", c="grey", s=40, label="refused or diverged")
    axes.set_ylim(n_rows - 0.3, -0.7)
    axes.set_yticks([])
    figure.legend(fontsize=7, loc="outside lower center", ncols=4)
    n_reused = sum(node.reused for node in nodes.values())
    caption = (
        f"{len(nodes) - 1} chains from left to right; {found.n_trainings} trained, {n_reused} led to known states."
    )
    return Panel("tree", "Search tree", caption, figure)


def _draw_branch(axes: Any, node: Node, nodes: Mapping[str, Node], best: Evaluation | None) -> None:
    parent = nodes.get(node.parent)
    if parent is not None and node.depth:
        on_best = best is not None and best.chain.startswith(node.evaluation.chain)
        colour, width = (_BEST, 1.6) if on_best else ("lightgrey", 0.8)
        axes.plot(
            [parent.depth, parent.depth, node.depth], [parent.row, node.row, node.row], color=colour, linewidth=width
        )


def _draw_node(axes: Any, node: Node) -> None:
    point = (node.depth, node.row)
    if node.evaluation.figures is None:
        axes.scatter(*point, marker="x", c="grey", s=40, zorder=2)
        return
    face = _TRAINED if node.evaluation.trained else _REUSED if node.reused else _NEW
    axes.scatter(*point, c=face, edgecolors=_TRAINED if node.evaluation.trained else _NEW, s=80, zorder=2)
    colour = "black" if face == _REUSED else "white"
    axes.annotate(node.letter, point, ha="center", va="center", fontsize=6, color=colour, zorder=3)


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _short(chain: str) -> str:
    return chain if len(chain) <= 24 else f"{chain[:22]}…"


def _axes(y: str, x: str, height: float = 3.6) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_INCHES, height), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
    return figure, axes
