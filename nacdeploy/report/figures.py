"""Pictures of a search as PNG files: accuracy against the ratio searched for, and the best chain letter by letter."""

from pathlib import Path
from typing import Any

from nacdeploy.strategies.search.engine import SearchResult
from nacdeploy.strategies.search.journal import Evaluation


def search_pictures(found: SearchResult, best: Evaluation, folder: Path) -> list[Path]:
    """Write `front.png` and `chain.png` into `folder`."""
    return [_front(found, best, folder / "front.png"), _chain(found, best, folder / "chain.png")]


def _front(found: SearchResult, best: Evaluation, path: Path) -> Path:
    figure, axes = _axes("accuracy on validation (%)", "BitOps ratio (baseline / now)")
    for evaluation in found.evaluations:
        if evaluation.figures:
            colour = "tab:orange" if evaluation.trained else "tab:blue"
            axes.scatter(evaluation.figures.bitops_ratio, 100 * evaluation.figures.accuracy, c=colour, s=18)
    front = sorted((e.figures.bitops_ratio, 100 * e.figures.accuracy) for e in found.front if e.figures)
    axes.plot(*zip(*front, strict=True), color="grey", linewidth=1)
    if best.figures:
        point = (best.figures.bitops_ratio, 100 * best.figures.accuracy)
        axes.annotate(best.chain, point, textcoords="offset points", xytext=(-8, -14), ha="right")
        axes.scatter(*point, s=70, facecolors="none", edgecolors="tab:red")
    axes.set_title("evaluated chains (orange: trained)")
    axes.set_xscale("log")
    return _saved(figure, path)


def _chain(found: SearchResult, best: Evaluation, path: Path) -> Path:
    rows = {e.chain: e.figures for e in found.evaluations if e.figures}
    beginnings = [c for c in rows if best.chain.startswith(c)]
    beginnings.sort(key=len)
    figure, axes = _axes("accuracy on validation (%)", "chain")
    axes.plot(range(len(beginnings)), [100 * rows[c].accuracy for c in beginnings], "o-", color="tab:blue")
    ratios = axes.twinx()
    ratios.plot(range(len(beginnings)), [rows[c].bitops_ratio for c in beginnings], "s--", color="tab:red")
    ratios.plot(range(len(beginnings)), [rows[c].bytes_ratio for c in beginnings], "^--", color="tab:green")
    ratios.set_ylabel("ratio: BitOps (red), bytes (green)")
    axes.set_xticks(range(len(beginnings)), [c or "FP32" for c in beginnings], rotation=45)
    axes.set_title(f"along {best.chain}")
    return _saved(figure, path)


def _axes(y: str, x: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
    return figure, axes


def _saved(figure: Any, path: Path) -> Path:
    figure.savefig(path, dpi=120)
    return path
