"""nacdeploy bench"""

from pathlib import Path
from typing import Any

import click

from nacdeploy.cli import options, render


@click.command("bench")
@click.argument("artifacts", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--baseline", metavar="ARTIFACT", type=click.Path(path_type=Path), help="Default: the FP32 original.")
@options.data
@options.trusted_model
@click.option("--batch", type=click.IntRange(min=1), help="Images per call.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads of ONNX Runtime.")
@click.option(
    "--require", metavar="R", multiple=True, help="Exit 1 unless it holds, such as 'speedup>=1.2' or 'drop<=1'; often."
)
@click.option("--out", metavar="FILE", type=click.Path(path_type=Path), help="Also write the JSON document here.")
@options.as_json
def command(artifacts: tuple[Path, ...], out: Path | None, as_json: bool, **given: Any) -> None:
    from nacdeploy import api
    from nacdeploy.base import records
    from nacdeploy.exporters.gates import GateError

    missed: GateError | None = None
    try:
        table = api.bench(artifacts, progress=render.RichProgress(), **given)
    except GateError as error:
        table, missed = error.table, error
    if out is not None:
        records.write_json(out, table)
    render.print_json(table) if as_json else print_bench(table)
    if missed is not None:
        raise missed


def print_bench(table: Any) -> None:
    """Print the rows of one bench run; the device's own times where it ran on a GPU."""
    from nacdeploy import metrics

    metric = metrics.named(table.rows[0].metric)
    on_gpu = any(row.device_latency for row in table.rows)
    columns = [
        "artifact",
        "chain",
        "batch",
        f"{metric.column} {metric.unit}".rstrip(),
        "KiB",
        "smaller",
        "p50 ms",
        "p90 ms",
        "images/s",
        "faster (95 %)",
        *(["CUDA graph", "device p50 ms", "device faster"] if on_gpu else []),
    ]
    rows = [
        [
            row.artifact,
            row.chain or "FP32",
            str(row.latency.batch_size),
            metrics.cell(metric, row.score),
            f"{row.model_bytes / 1024:.0f}",
            f"{row.size_ratio:.2f}x",
            f"{row.latency.p50_ms:.3f}",
            f"{row.latency.p90_ms:.3f}",
            f"{row.latency.throughput_per_s:.0f}",
            str(row.speed),
            *(_device_cells(row) if on_gpu else []),
        ]
        for row in table.rows
    ]
    threads = table.rows[0].latency.threads
    render.print_table(f"{table.machine}; {threads} thread(s); {table.runtime}", columns, rows)
    for artifact, runtime in dict.fromkeys((r.artifact, r.runtime) for r in table.rows if r.runtime != table.runtime):
        click.echo(f"{artifact} runs in {runtime}")
    for note in dict.fromkeys(row.note for row in table.rows if row.note):
        click.echo(f"note: {note}")
    for when, states in (("before", table.gpus_before), ("after", table.gpus_after)):
        for gpu in states:
            click.echo(
                f"GPU {when}: {gpu.name}, driver {gpu.driver}, {gpu.power_state}, {gpu.temperature_c} C, "
                f"{gpu.sm_clock_mhz} MHz of {gpu.max_sm_clock_mhz}, {gpu.power_w} W of {gpu.power_limit_w}"
            )


def _device_cells(row: Any) -> list[str]:
    latency, speed = row.device_latency, row.device_speed
    graph = "on" if row.cuda_graph else "off"
    return [graph, f"{latency.p50_ms:.3f}" if latency else "", str(speed) if speed else ""]
