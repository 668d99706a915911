"""The layers of an artifact on the page of a run: what `explain` measured, else what the lowering recorded."""

from collections.abc import Sequence

from nacdeploy.exporters.artifacts.artifact import Lowering
from nacdeploy.exporters.targets.ort.layer_facts import LayerFacts
from nacdeploy.reports.charts.chart import Axis, Bar, Bars, Colour
from nacdeploy.reports.charts.chart import Row as BarRow
from nacdeploy.reports.explanation import Explanation, LayerReasons
from nacdeploy.reports.figures import Panel
from nacdeploy.reports.page import Cell, Cells, Section, Value

_COLUMNS = (
    *("layer", "kind", "MACs %", "time %", "µs", "float µs", "asked", "in the file", "runs as", "kernel"),
    *("around it", "why"),
)
_BETWEEN = "(between layers)"


def lowered_section(rows: Sequence[Lowering]) -> Section:
    """Return the section of the layers as the graph holds them."""
    columns = ("layer", "kind", "asked", "held", "zeros %", "why")
    cells = tuple(
        (
            row.layer,
            row.kind,
            row.asked,
            row.held,
            Value(f"{100 * row.zero_fraction:.0f}", row.zero_fraction),
            row.reason,
        )
        for row in rows
    )
    n_int8 = sum(row.held == "int8" for row in rows)
    lead = f"{n_int8} of {len(rows)} layers are held in INT8. 'report --explain' times each layer too, and says why."
    return Section(
        "layers", "Layers as deployed", lead, tables=[Cells("Layers as they are deployed", columns, cells).filled]
    )


def explained_section(found: Explanation) -> Section:
    """Return the section of the layers as a runtime ran them, with the reason of each."""
    lead = f"Measured on {found.machine}; {found.runtime}, {found.threads} thread(s)."
    if found.twin_call_ms is not None:
        lead += " Beside each layer stands its float twin: the same file without integers, timed in turns."
    rows = (*map(_row, found.rows), _between_row(found))
    caption = "Worst first: layers without a gain before those with one, each by its share of time."
    table = Cells("Layers as they run", _COLUMNS, rows, caption=caption).filled
    return Section("layers", "Layers as deployed", lead, _facts(found), [_panel(found)], [table])


def _facts(found: Explanation) -> tuple[tuple[str, str], ...]:
    twin = "" if found.twin_call_ms is None else f"; float twin {found.twin_call_ms:.4g} ms, {found.speed}"
    known = found.sparsity
    picked = "" if known.n_picked is None else f", {known.n_picked} by a sparse kernel, {known.n_gained} faster by it"
    int8, in_file = (_percent(f) for f in (found.int8_macs_fraction, found.int8_macs_in_file_fraction))
    reasons = "; ".join(f"{cause} ({_percent(share)} % of the time)" for cause, share in found.top_reasons)
    return (
        ("one call", f"{found.call_ms:.4g} ms{twin}"),
        ("multiplications by INT8 kernels", f"{int8} %; the file holds {in_file} % in INT8"),
        ("time without gain", reasons or "none"),
        ("2:4 weights", f"{known.n_eligible} of {len(found.rows)} layers{picked} ({known.note})"),
        *(("note", note) for note in found.notes),
    )


def _row(row: LayerReasons) -> tuple[Cell, ...]:
    facts = row.facts
    return (
        row.layer,
        row.kind,
        Value(_percent(row.macs_fraction), row.macs_fraction),
        Value(_percent(row.time_fraction), row.time_fraction),
        *_times(facts),
        row.asked or "-",
        row.in_file or "-",
        " / ".join(filter(None, (facts.held, row.engine))) or "-",
        " + ".join((*facts.kernels, *facts.fused)),
        ", ".join((*facts.reformats, *facts.apart)),
        row.reason.text,
    )


def _between_row(found: Explanation) -> tuple[Cell, ...]:
    share = Value(_percent(found.between_fraction), found.between_fraction)
    around = ", ".join((*found.between.reformats, *found.between.apart))
    return (_BETWEEN, "", Value(""), share, *_times(found.between), "", "", "", "", around, "")


def _times(facts: LayerFacts) -> tuple[Value, Value]:
    own, twin = facts.time_ms, facts.twin_ms
    return Value(f"{1000 * own:.1f}", own), Value("" if twin is None else f"{1000 * twin:.1f}", twin)


def _panel(found: Explanation) -> Panel:
    """Return the time of each layer over that of its float twin."""
    rows = tuple(_bars(row) for row in sorted(found.rows, key=lambda row: -row.time_fraction))
    kinds: tuple[tuple[str, Colour, bool], ...] = (
        ("faster than float", "green", any(row.reason.is_gain for row in found.rows)),
        ("no gain", "orange", not all(row.reason.is_gain for row in found.rows)),
        ("float twin", "grey", any(row.facts.twin_ms is not None for row in found.rows)),
    )
    legend = tuple((name, colour) for name, colour, is_there in kinds if is_there)
    caption = "The layers that take most time first, conversions around a layer included."
    return Panel("layer-times", "Time by layer", caption, (Bars(Axis("µs in one call"), rows, legend),))


def _bars(row: LayerReasons) -> BarRow:
    facts = row.facts
    own, twin = 1000 * facts.time_ms, None if facts.twin_ms is None else 1000 * facts.twin_ms
    beside = "" if twin is None else f", its float twin {twin:.1f} µs"
    tip = f"{row.layer}\n{own:.1f} µs ({_percent(row.time_fraction)} % of the time){beside}\n{row.reason.text}"
    bar = Bar(own, "green" if row.reason.is_gain else "orange", tip, is_thin=twin is not None)
    bars = (bar,) if twin is None else (Bar(twin, "grey", tip), bar)
    return BarRow(row.layer, bars, f"{own:.1f} µs{'' if twin is None else f', float {twin:.1f}'}")


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}"
