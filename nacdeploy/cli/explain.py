"""nacdeploy explain"""

from pathlib import Path
from typing import Any

import click

from nacdeploy.cli import options, render


@click.command("explain")
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Threads of ONNX Runtime.")
@click.option("--rounds", type=click.IntRange(min=3), default=10, show_default=True, help="Interleaved rounds.")
@click.option("--out", metavar="FILE", type=click.Path(path_type=Path), help="Also write the JSON document here.")
@options.as_json
def command(artifact: Path, threads: int, rounds: int, out: Path | None, as_json: bool) -> None:
    from nacdeploy import api
    from nacdeploy.base import records

    explained = api.explain(artifact, threads=threads, rounds=rounds, progress=render.RichProgress())
    if out is not None:
        records.write_json(out, explained)
    render.print_json(explained) if as_json else _print_explanation(explained)


def _print_explanation(explained: Any) -> None:
    """Print the layers of an artifact, worst first, and the totals."""
    columns = ["layer", "MACs %", "time %", "us", "float us", "asked", "held", "channels", "waste %", "zeros %"]
    columns += [*(["engine"] if any(row.engine for row in explained.rows) else []), "kernel", "around it", "why"]
    rows = [_explained(row, "engine" in columns) for row in explained.rows]
    between = explained.between
    times = [render.percent(explained.between_fraction, 1), *_times(between)]
    rows.append(["(between layers)", "", *times, *[""] * (len(columns) - 7), ", ".join(_around(between)), ""])
    title = f"{explained.artifact}: {explained.chain or 'FP32'} for {explained.target}; {explained.machine}"
    render.print_table(f"{title}; {explained.threads} thread(s); {explained.runtime}", columns, rows)
    for line in _totals(explained):
        click.echo(line)


def _explained(row: Any, with_engine: bool) -> list[str]:
    fit, facts = row.alignment, row.facts
    channels = "" if fit.n_outputs is None else f"{fit.n_inputs or fit.n_outputs}->{fit.n_outputs} /{fit.multiple}"
    return [
        row.layer,
        render.percent(row.macs_fraction, 1),
        render.percent(row.time_fraction, 1),
        *_times(facts),
        row.asked or "-",
        facts.held or "-",
        channels,
        f"{100 * fit.wasted_fraction:.0f}" if channels else "",
        "" if row.zero_fraction is None else f"{100 * row.zero_fraction:.0f}{' 2:4' if row.is_two_four else ''}",
        *([row.engine or "unknown"] if with_engine else []),
        " + ".join((*facts.kernels, *facts.fused)),
        ", ".join(_around(facts)),
        row.reason.text,
    ]


def _times(facts: Any) -> list[str]:
    """Print the time of a layer and of its float twin, in microseconds."""
    return [f"{1000 * t:.1f}" if t is not None else "" for t in (facts.time_ms, facts.twin_ms)]


def _around(facts: Any) -> tuple[str, ...]:
    return (*facts.reformats, *facts.apart)


def _totals(explained: Any) -> list[str]:
    int8, in_file = (render.percent(f, 1) for f in (explained.int8_macs_fraction, explained.int8_macs_in_file_fraction))
    lines = [f"INT8 kernels do {int8} % of the multiplications; the file holds {in_file} % of them in INT8"]
    if explained.speed is None:
        lines.append(f"one call takes {explained.call_ms:.3f} ms; there is no Q/DQ pair in the file, so no float twin")
    else:
        lines.append(
            f"one call takes {explained.call_ms:.3f} ms, of the float twin {explained.twin_call_ms:.3f} ms: "
            f"{explained.speed}"
        )
    found = explained.sparsity
    known = "" if found.n_picked is None else f", {found.n_picked} with a sparse kernel, {found.n_gained} faster by it"
    lines.append(f"2:4 weights: {found.n_eligible} of {len(explained.rows)} layers{known} ({found.note})")
    reasons = "; ".join(f"{cause} ({render.percent(share, 1)} % of the time)" for cause, share in explained.top_reasons)
    lines.append(f"time without gain: {reasons or 'none'}")
    return [*lines, *(f"note: {note}" for note in explained.notes)]
