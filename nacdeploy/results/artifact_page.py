"""The part of an artifact in the page of its run: its export, its exits, its layers."""

from pathlib import Path

from nacdeploy.exporters.artifacts import artifact
from nacdeploy.exporters.artifacts.artifact import Lowering, Manifest
from nacdeploy.metrics import shown_drop
from nacdeploy.reports.page import Cells


def tables_of(path: Path) -> list[Cells]:
    """Return the tables of an artifact.

    Raises:
        UsageError: `path` is no artifact.
        NacdeployError: a file of it is missing or damaged.
    """
    manifest, rows = artifact.load(path)
    return [_export(path, manifest), *_exits(manifest), _layers(rows)]


def _export(path: Path, manifest: Manifest) -> Cells:
    parity = manifest.parity
    facts = {
        "artifact": str(path),
        "target": manifest.target,
        "chain": manifest.chain or "FP32",
        "deployed": f"{artifact.size_bytes(path, manifest):,} bytes",
        **({} if parity is None else {"agreement with torch": f"{100 * parity.agreement:.2f} %"}),
        "licence of the weights": manifest.license or "unknown",
        **{f"note {number}": note for number, note in enumerate(manifest.notes, start=1)},
    }
    return Cells(f"Export for {manifest.target}", ("fact", "value"), tuple(facts.items()))


def _exits(manifest: Manifest) -> list[Cells]:
    cascade = manifest.cascade
    if cascade is None:
        return []
    facts = {
        "form": f"{cascade.form} ({cascade.timed_in or 'not timed'})",
        "expected at batch 1": _ms(cascade.expected_ms),
        "all outputs in one graph": _ms(cascade.whole_ms),
        "leave at the exits": ", ".join(f"{100 * share:.0f} %" for share in cascade.fractions),
        **({} if cascade.drop is None else {"lost by them": shown_drop(manifest.metric, cascade.drop)}),
    }
    return [Cells("Exits", ("fact", "value"), tuple(facts.items()))]


def _ms(time: float | None) -> str:
    return "not timed" if time is None else f"{time:.3f} ms"


def _layers(rows: tuple[Lowering, ...]) -> Cells:
    cells = tuple((row.layer, row.kind, row.asked, row.held, row.reason) for row in rows)
    return Cells("Layers as they are deployed", ("layer", "kind", "asked", "held", "why"), cells, folded=True)
