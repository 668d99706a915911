"""The picture of a sensitivity analysis: score against strength, a curve per layer, a frame per technique."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nacdeploy.metrics import Metric, axis
from nacdeploy.reports.charts.figure import WIDTH_INCHES
from nacdeploy.strategies.steps.sensitivity import Sensitivity

_N_NAMED = 5


def write_picture(found: Sequence[Sensitivity], baseline_score: float, metric: Metric, path: Path) -> Path:
    """Write the picture as PNG. The layers that lose most are named."""
    from matplotlib.figure import Figure

    techniques = list(dict.fromkeys(row.technique for row in found))
    figure = Figure(figsize=(WIDTH_INCHES, 3.2 * len(techniques)), layout="constrained")
    for axes, technique in zip(figure.subplots(len(techniques), squeeze=False)[:, 0], techniques, strict=True):
        _draw(axes, [r for r in found if r.technique == technique and r.score is not None], baseline_score, metric)
        axes.set_title(technique)
    figure.savefig(path, dpi=120)
    return path


def _draw(axes: Any, rows: list[Sensitivity], baseline_score: float, metric: Metric) -> None:
    settings = list(dict.fromkeys(row.setting for row in rows))
    curves: dict[str, list[Sensitivity]] = {}
    for row in rows:
        curves.setdefault(row.layer, []).append(row)
    worst = sorted(curves, key=lambda layer: -max(r.drop or 0.0 for r in curves[layer]))[:_N_NAMED]
    for layer, curve in curves.items():
        points = [settings.index(r.setting) for r in curve], [metric.scale * (r.score or 0.0) for r in curve]
        named = {"label": layer, "linewidth": 1.5} if layer in worst else {"color": "lightgrey", "linewidth": 0.8}
        axes.plot(*points, "o-", markersize=3, zorder=2 if layer in worst else 1, **named)
    axes.axhline(metric.scale * baseline_score, color="black", linestyle=":", linewidth=0.8)
    axes.set_xticks(range(len(settings)), settings)
    axes.set_ylabel(axis(metric))
    if worst:
        axes.legend(fontsize=7)
