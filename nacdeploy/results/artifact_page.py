"""The part of an artifact in the page of its run: its export, its measured times, its exits, its layers."""

from dataclasses import dataclass, replace
from pathlib import Path

from nacdeploy.base import records
from nacdeploy.base.errors import UsageError
from nacdeploy.exporters.artifacts import artifact
from nacdeploy.exporters.artifacts.artifact import Lowering, Manifest, Parity
from nacdeploy.exporters.bench import Row, Table
from nacdeploy.exporters.exits import moved
from nacdeploy.exporters.exits.curve import Curve
from nacdeploy.metrics import named, shown
from nacdeploy.reports.explanation import Explanation
from nacdeploy.reports.page import Page, Section
from nacdeploy.results.exits_section import Exits, exits_section
from nacdeploy.results.layers_section import explained_section, lowered_section
from nacdeploy.results.measured_section import Measured, Original, measured_section, measured_tiles
from nacdeploy.results.run_material import Finished
from nacdeploy.strategies.state import Metrics, check_metrics


@dataclass(frozen=True)
class Shipped:
    """An artifact, and what is known of it beside its files: what `bench` measured, what `explain` found."""

    path: Path
    manifest: Manifest
    lowering: tuple[Lowering, ...]
    curve: Curve | None
    table: Table | None
    explanation: Explanation | None

    @property
    def rows(self) -> tuple[Row, ...]:
        """The measured rows of this artifact."""
        return _rows_of(self.path, self.manifest, self.table) if self.table else ()


def shipped(path: Path, bench: Table | Path | None, explanation: Explanation | Path | None) -> Shipped:
    """Read an artifact and the records about it.

    Raises:
        UsageError: `path` is no artifact, or a record is about another one.
        NacdeployError: a file of it is missing or damaged.
    """
    manifest, rows = artifact.load(path)
    curve = moved.curve_of(path, manifest) if manifest.cascade and manifest.cascade.curve_file else None
    table = records.read(Table, bench) if isinstance(bench, Path) else bench
    explained = records.read(Explanation, explanation) if isinstance(explanation, Path) else explanation
    if table is not None and not _rows_of(path, manifest, table):
        theirs = ", ".join(dict.fromkeys(row.artifact for row in table.rows[:6])) or "none"
        raise UsageError(
            f"{_said(bench, 'the bench')} has no row of {path} as it is now, only of {theirs}: bench it again with "
            f"'nacdeploy bench {path} --out FILE'"
        )
    if explained is not None and not _is_of(explained, path, manifest, rows):
        raise UsageError(
            f"{_said(explanation, 'the explanation')} is about {explained.artifact} ({explained.chain or 'FP32'} for "
            f"{explained.target}), not about {path} as it is now: explain it again with "
            f"'nacdeploy explain {path} --out FILE'"
        )
    return Shipped(path, manifest, rows, curve, table, explained)


def with_artifact(page: Page, found: Shipped, result: Finished | None) -> Page:
    """Return the page of a run with the sections of an artifact, and its measured time among the first figures."""
    manifest, metrics = found.manifest, metrics_of(found.manifest, found.path)
    measured = Measured(
        found.table, found.rows, manifest, metrics.cost if metrics else None, _original(manifest, result)
    )
    exits = Exits(manifest, found.curve, found.rows)
    layers = lowered_section(found.lowering) if found.explanation is None else explained_section(found.explanation)
    sections = [*page.sections, _export(found, metrics, result), measured_section(measured)]
    sections += [*exits_section(exits), layers]
    return replace(page, sections=sections, tiles=[*page.tiles, *measured_tiles(measured)])


def metrics_of(manifest: Manifest, path: Path) -> Metrics | None:
    """Return the score and analytic cost that a manifest records; None in one without.

    Raises:
        UsageError: they are none.
    """
    given = {key: value for key, value in manifest.metrics.items() if key != "profile"}
    if "cost" not in given:
        return None
    metrics = records.from_data(Metrics, given, where=f"{path / artifact.MANIFEST}: metrics")
    check_metrics(metrics)
    return metrics


def _original(manifest: Manifest, result: Finished | None) -> Original | None:
    """Return the FP32 network that a run compares with; None if the artifact is of another chain."""
    if result is None or result.chain != manifest.chain:
        return None
    return Original(result.figures, Path(result.baseline_checkpoint).name)


def _export(found: Shipped, metrics: Metrics | None, result: Finished | None) -> Section:
    manifest, path = found.manifest, found.path
    facts = [
        ("artifact", str(path)),
        ("target", manifest.target),
        ("chain", manifest.chain or "FP32"),
        ("deployed", f"{artifact.size_bytes(path, manifest):,} bytes"),
        *_facts(metrics),
        *_parity("agreement with torch", manifest.parity),
        *_parity("agreement with the float network", manifest.original),
        ("licence of the weights", manifest.license or "unknown"),
        ("made", manifest.created),
        *(("note", note) for note in manifest.notes),
    ]
    is_other = result is not None and result.chain != manifest.chain
    lead = "It was exported from another chain than this run's answer." if is_other else ""
    return Section("export", f"Export for {manifest.target}", lead, tuple(facts))


def _facts(metrics: Metrics | None) -> list[tuple[str, str]]:
    """Return what was counted of the network before its export: its cost and its score."""
    if metrics is None:
        return []
    cost, metric = metrics.cost, named(metrics.metric)
    facts = [("MACs for one image (analytic)", f"{cost.macs:,}"), ("BitOps (analytic)", f"{cost.bitops:,}")]
    if cost.expected_macs != cost.macs:
        expected = f"{cost.expected_macs:,.0f} MACs, {cost.expected_bitops:,.0f} BitOps"
        facts.append(("expected with exits (analytic)", expected))
    return [*facts, (f"{metric.title} on {metrics.split}", shown(metric, metrics.score))]


def _parity(name: str, parity: Parity | None) -> list[tuple[str, str]]:
    if parity is None:
        return []
    signal = "equal bit for bit" if parity.snr_db is None else f"{parity.snr_db:.1f} dB"
    return [(name, f"{100 * parity.agreement:.2f} % of {parity.n_images} images, {signal}")]


def _rows_of(path: Path, manifest: Manifest, table: Table) -> tuple[Row, ...]:
    """Return the rows about an artifact as it is now; in older files by its name, chain, target and size."""
    known, size = artifact.identity(manifest), artifact.size_bytes(path, manifest)
    facts = (manifest.chain, manifest.target, size)

    def is_of(row: Row) -> bool:
        if row.identity:
            return row.identity == known
        return _is_name_of(row.artifact, path) and (row.chain, row.target, row.model_bytes) == facts

    return tuple(filter(is_of, table.rows))


def _is_of(explained: Explanation, path: Path, manifest: Manifest, lowering: tuple[Lowering, ...]) -> bool:
    if explained.model_sha256:
        return explained.model_sha256 == manifest.files[manifest.model_file]
    known = {row.layer for row in lowering}
    return (
        _is_name_of(explained.artifact, path)
        and (explained.chain, explained.target) == (manifest.chain, manifest.target)
        and all(row.layer in known for row in explained.rows if row.asked)
    )


def _is_name_of(name: str, path: Path) -> bool:
    """Tell whether a record's name is that of a folder, which may lie elsewhere by now."""
    return Path(name).name == path.resolve().name or Path(name) == path


def _said(given: object, otherwise: str) -> str:
    return str(given) if isinstance(given, Path) else otherwise
