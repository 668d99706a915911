"""Measured times in a page: rows of several artifacts, runtimes and batches, and of a GPU."""

from dataclasses import replace

import pytest

from nacdeploy.base.latency import Latency, Ratio
from nacdeploy.exporters.artifacts.artifact import Manifest
from nacdeploy.exporters.bench import Row, Table
from nacdeploy.network.cost import Cost
from nacdeploy.reports.charts.chart import Bars
from nacdeploy.reports.page import Cells, Section, Value
from nacdeploy.results.measured_section import Measured, Original, measured_section, measured_tiles
from nacdeploy.strategies.search.objective import Figures

MANIFEST = Manifest(target="ort", model_file="model.onnx", inputs=(), outputs=(), chain="PQ")
COST = Cost(1000, 64_000, 8, 1, 900.0, 57_600.0)
FIGURES = Figures(0.88, 0.9, 16.0, 2.0, 4.0, 16.0, 4.0)


def row(artifact: str, chain: str, ms: float, batch: int = 1, **more: object) -> Row:
    found = Row(
        artifact=artifact,
        chain=chain,
        target="ort",
        score=0.9,
        n_images=60,
        model_bytes=2048,
        size_ratio=1.0,
        latency=Latency(ms, 2 * ms, 1.5 * ms, 1000 / ms, 10, batch, 1),
        speed=Ratio(4.0 / ms, 3.5 / ms, 4.5 / ms),
        runtime="ONNX Runtime",
    )
    return replace(found, **more)  # type: ignore[arg-type]


BASE, OWN, OTHER = row("runs/baselines/4154/onnx", "", 4.0), row("a", "PQ", 2.0), row("b", "Q", 3.0)


def measured(*rows: Row, own: tuple[Row, ...] = (OWN,)) -> Measured:
    table = Table(BASE.artifact, "a machine", "ONNX Runtime", rows)
    return Measured(table, own, MANIFEST, COST, Original(FIGURES, "4154"))


def table_of(section: Section) -> Cells:
    (table,) = section.tables
    return table


def column(table: Cells, name: str) -> list[float | str | None]:
    cells = [each[table.columns.index(name)] for each in table.rows]
    return [cell.number if isinstance(cell, Value) else cell for cell in cells]


def test_analytic_figures_stand_beside_those_rows_alone_that_they_are_about() -> None:
    table = table_of(measured_section(measured(BASE, OWN, OTHER)))
    assert column(table, "million MACs") == [1800.0, 900.0, None]
    assert column(table, "million BitOps") == [57_600.0 * 16, 57_600.0, None]
    assert column(table, "p50 ms") == [4.0, 2.0, 3.0]
    assert table.marked == {1}
    another = replace(BASE, artifact="elsewhere/onnx")  # FP32, but perhaps of another network
    assert column(table_of(measured_section(measured(another, OWN))), "million MACs") == [None, 900.0]


def test_each_row_names_its_runtime_where_they_differ() -> None:
    assert "runtime" not in table_of(measured_section(measured(BASE, OWN))).columns
    section = measured_section(measured(BASE, replace(OWN, runtime="OpenVINO")))
    assert column(table_of(section), "runtime") == ["ONNX Runtime", "OpenVINO"]
    assert "a machine; ONNX Runtime, OpenVINO; 1 thread(s)" in section.lead


def test_times_of_a_gpu_stand_apart() -> None:
    device = Latency(0.5, 0.6, 0.55, 2000.0, 10, 1, 1)
    own = replace(OWN, cuda_graph=True, device_latency=device)
    table = table_of(measured_section(measured(BASE, own, own=(own,))))
    assert column(table, "CUDA graph") == ["off", "on"]
    assert column(table, "device p50 ms") == [None, 0.5]


@pytest.mark.parametrize("expected_ms", [None, 2.5])
def test_first_figure_is_the_mean_where_exits_make_calls_differ(expected_ms: float | None) -> None:
    own = replace(OWN, expected_ms=expected_ms)
    larger = replace(own, latency=replace(own.latency, batch_size=32, mean_ms=40.0, p50_ms=40.0))
    (tile,) = measured_tiles(measured(BASE, larger, own, own=(larger, own)))
    assert (tile.label, tile.value) == ("time, batch 1", "2 ms" if expected_ms is None else "3 ms")
    assert tile.note.startswith("FP32: 4 ms, 2.00x")


def test_bars_reach_to_the_median_and_their_lines_to_the_ninetieth_percentile() -> None:
    (panel,) = measured_section(measured(BASE, OWN, OTHER)).panels
    chart = panel.charts[0]
    assert isinstance(chart, Bars)
    assert [(each.bars[0].end, each.bars[0].limit) for each in chart.rows] == [(4.0, 8.0), (2.0, 4.0), (3.0, 6.0)]
    assert [each.bars[0].colour for each in chart.rows] == ["grey", "blue", "purple"]
    assert chart.rows[0].label == "FP32, batch 1"
