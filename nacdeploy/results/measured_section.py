"""Measured times on the page of a run, beside the analytic figures that they are to be compared with."""

from dataclasses import dataclass
from pathlib import Path

from nacdeploy.base.latency import Latency
from nacdeploy.exporters.artifacts.artifact import Manifest
from nacdeploy.exporters.bench import Row, Table
from nacdeploy.metrics import cell, named
from nacdeploy.network.cost import Cost
from nacdeploy.reports.charts.chart import Axis, Bar, Bars, Colour
from nacdeploy.reports.charts.chart import Row as BarRow
from nacdeploy.reports.figures import Panel
from nacdeploy.reports.fronts import speed_words
from nacdeploy.reports.page import Cell, Cells, Section, Tile, Value
from nacdeploy.strategies.search.objective import Figures

_HOW = "'nacdeploy bench ARTIFACT --out FILE' times it beside FP32, and 'report --bench FILE' shows that here"


@dataclass(frozen=True)
class Original:
    """The FP32 network behind an artifact: the figures of the artifact's chain against it, and its folder's name."""

    figures: Figures
    folder: str

    def is_timed_as(self, row: Row) -> bool:
        """Tell whether a row is about this network: `bench` exports it into its folder."""
        return not row.chain and Path(row.artifact).parent.name == self.folder


@dataclass(frozen=True)
class Measured:
    """A bench's table, its rows of the artifact, the artifact's analytic cost, and the network that it is compared
    with, where the run knows it."""

    table: Table | None
    rows: tuple[Row, ...]
    manifest: Manifest
    cost: Cost | None
    original: Original | None

    def analytic(self, row: Row) -> tuple[float | None, float | None]:
        """Return the expected MACs and BitOps of a row: of the artifact, and by the ratios of its baseline."""
        if self.cost is None:
            return None, None
        macs, bitops = self.cost.expected_macs, self.cost.expected_bitops
        if row in self.rows:
            return macs, bitops
        if self.original is None or not self.original.is_timed_as(row):
            return None, None
        return macs * self.original.figures.macs_ratio, bitops * self.original.figures.bitops_ratio


def measured_section(found: Measured) -> Section:
    """Return the section of measured times: a bench's rows, or what else the run and the manifest hold."""
    if found.table is None:
        return Section("measured", "Measured", f"{_HOW}.", _known(found))
    table = found.table
    runtimes = ", ".join(dict.fromkeys(row.runtime for row in table.rows))
    threads = ", ".join(dict.fromkeys(str(row.latency.threads) for row in table.rows))
    lead = (
        f"Timed in turns in one run on {table.machine}; {runtimes}; {threads} thread(s). A speed is the median over "
        "rounds of baseline / now, with its 95 % interval. MACs and BitOps are analytic, for one image."
    )
    notes = tuple(("note", note) for note in dict.fromkeys(row.note for row in table.rows if row.note))
    return Section("measured", "Measured", lead, notes, [_panel(found, table)], [_table(found, table)])


def measured_tiles(found: Measured) -> list[Tile]:
    """Return the artifact's time at its smallest batch beside that of its baseline."""
    if found.table is None or not found.rows:
        return []
    row = min(found.rows, key=lambda each: each.latency.batch_size)
    batch = row.latency.batch_size
    base = [r for r in found.table.rows if r.artifact == found.table.baseline and r.latency.batch_size == batch]
    against = f"{base[0].chain or 'FP32'}: {typical_ms(base[0]):.4g} ms, {row.speed}" if base else f"{row.speed}"
    return [Tile(f"time, batch {batch}", f"{typical_ms(row):.4g} ms", against)]


def typical_ms(row: Row) -> float:
    """Return the time that stands for a row: the mean where calls differ by the exits that images take."""
    return row.latency.mean_ms if row.expected_ms is not None else row.latency.p50_ms


def _known(found: Measured) -> tuple[tuple[str, str], ...]:
    """Return the times that are known without a bench."""
    facts = []
    if found.original is not None and found.original.figures.speed_ratio is not None:
        facts.append(("speed against FP32, of the search or run", speed_words(found.original.figures)))
    cascade = found.manifest.cascade
    if cascade is not None and cascade.expected_ms is not None:
        facts.append(("expected with exits, at export", f"{cascade.expected_ms:.4g} ms in {cascade.timed_in}"))
    if cascade is not None and cascade.whole_ms is not None:
        facts.append(("all outputs in one graph, at export", f"{cascade.whole_ms:.4g} ms in {cascade.timed_in}"))
    return tuple(facts)


def _table(found: Measured, table: Table) -> Cells:
    metric = named(found.manifest.metric.name)
    on_gpu = any(row.device_latency for row in table.rows)
    runtimes, threads = {row.runtime for row in table.rows}, {row.latency.threads for row in table.rows}
    columns = (
        *("artifact", "chain", "batch", f"{metric.title} {metric.unit}".rstrip()),
        *("p50 ms", "p90 ms", "mean ms", "speed (95 %)", "million MACs", "million BitOps", "KiB", "images/s"),
        *(("CUDA graph", "device p50 ms") if on_gpu else ()),
        *(("threads", "runtime") if max(len(runtimes), len(threads)) > 1 else ()),
    )
    rows = tuple(_row(found, row, on_gpu)[: len(columns)] for row in table.rows)
    marked = frozenset(at for at, row in enumerate(table.rows) if row in found.rows)
    return Cells("Measured beside analytic", columns, rows, marked=marked).filled


def _row(found: Measured, row: Row, on_gpu: bool) -> tuple[Cell, ...]:
    device: tuple[Cell, ...] = ("on" if row.cuda_graph else "off", *_times(row.device_latency)[:1])
    return (
        row.artifact,
        row.chain or "FP32",
        Value(str(row.latency.batch_size), row.latency.batch_size),
        Value(cell(named(row.metric), row.score), row.score),
        *_times(row.latency),
        Value(str(row.speed), row.speed.value),
        *(Value("" if value is None else f"{value / 1e6:,.2f}", value) for value in found.analytic(row)),
        Value(f"{row.model_bytes / 1024:.0f}", row.model_bytes),
        Value(f"{row.latency.throughput_per_s:.0f}", row.latency.throughput_per_s),
        *(device if on_gpu else ()),
        Value(str(row.latency.threads), row.latency.threads),
        row.runtime,
    )


def _times(found: Latency | None) -> tuple[Value, ...]:
    if found is None:
        return (Value(""),) * 3
    return tuple(Value(f"{time:.4g}", time) for time in (found.p50_ms, found.p90_ms, found.mean_ms))


def _panel(found: Measured, table: Table) -> Panel:
    caption = "The bar is the median, the line reaches to the 90th percentile of one call."
    rows = tuple(_bar_row(found, table, row) for row in table.rows)
    names: tuple[tuple[str, Colour], ...] = (("baseline", "grey"), ("this artifact", "blue"), ("others", "purple"))
    used = {_colour(found, table, row) for row in table.rows}
    legend = tuple((name, colour) for name, colour in names if colour in used)
    return Panel("bench", "Time of one call", caption, (Bars(Axis("ms for one call"), rows, legend),))


def _colour(found: Measured, table: Table, row: Row) -> Colour:
    return "blue" if row in found.rows else "grey" if row.artifact == table.baseline else "purple"


def _bar_row(found: Measured, table: Table, row: Row) -> BarRow:
    times = row.latency
    colour = _colour(found, table, row)
    words = [f"batch {times.batch_size}", *(["CUDA graph"] if row.cuda_graph else [])]
    is_base = row.artifact == table.baseline
    name = f"{(row.chain or 'FP32') if is_base else row.artifact}, {', '.join(words)}"
    tip = (
        f"{row.artifact} ({row.chain or 'FP32'}), {', '.join(words)}\n"
        f"p50 {times.p50_ms:.4g} ms, p90 {times.p90_ms:.4g} ms, mean {times.mean_ms:.4g} ms\n"
        f"{times.throughput_per_s:.0f} images/s; speed {row.speed}\n{row.runtime}, {times.threads} thread(s)"
    )
    limit = max(times.p90_ms, times.p50_ms)
    return BarRow(name, (Bar(times.p50_ms, colour, tip, limit=limit),), f"{times.p50_ms:.4g} ms, {row.speed}")
