"""report.md of a result: the table of its figures, and the pictures of a search."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nacdeploy.base import records
from nacdeploy.metrics import shown, shown_drop
from nacdeploy.strategies.search.objective import Figures


def summary_rows(figures: Figures, scores: Any) -> tuple[tuple[str, str], ...]:
    """Scores on the test split and ratios, each with its name; measured speed where there is one."""
    metric = figures.scored_by
    speed = [("measured speed against FP32", f"{figures.speed_ratio:.2f}x")] if figures.speed_ratio else []
    return (
        (f"FP32 baseline, test {metric.title}", shown(metric, scores.baseline)),
        (f"control (FP32, {scores.n_control_epochs} epochs more)", shown(metric, scores.control)),
        (f"compressed, test {metric.title}", shown(metric, scores.compressed)),
        (f"{metric.title} lost against the better of the two", shown_drop(metric, scores.drop)),
        ("BitOps ratio (analytic)", f"{figures.bitops_ratio:.2f}x"),
        ("MACs ratio (analytic)", f"{figures.macs_ratio:.2f}x"),
        ("memory ratio (analytic, heads and scales charged)", f"{figures.bytes_ratio:.2f}x"),
        ("NAC's own BitOpsCR / MemCR", f"{figures.nac_bitops_ratio:.2f} / {figures.nac_memory_ratio:.2f}"),
        *speed,
    )


def write_report(folder: Path, title: str, figures: Figures, scores: Any, pictures: Sequence[Path] = ()) -> Path:
    """Write `report.md` into `folder`: scores on the test split, ratios, pictures beside it."""
    rows = summary_rows(figures, scores)
    lines = [f"# {title}", "", "| figure | value |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]
    lines += ["", *(f"![{picture.stem}]({picture.name})" for picture in pictures)]
    lines += ["", "Measured latency: `nacdeploy bench` on the exported artifact."]
    path = folder / "report.md"
    records.write_text(path, "\n".join(lines) + "\n")
    return path
