"""nacdeploy doctor"""

from typing import Any

import click

from nacdeploy.cli import options, render, trust


@click.command("doctor")
@click.option("--measure", is_flag=True, help="Also measure which encodings and channel counts are fast here.")
@options.as_json
def command(measure: bool, as_json: bool) -> None:
    from nacdeploy.base import records
    from nacdeploy.commands import doctor
    from nacdeploy.commands import trust as trusting

    report = doctor.inspect()
    measured = _measured() if measure else None
    if as_json:
        found = {"trusted": records.to_data(trusting.trusted())}
        render.print_json(
            {**records.to_data(report), **found, **({"measured": records.to_data(measured)} if measured else {})}
        )
    else:
        _print_doctor(report)
        for line in trust.lines():
            click.echo(f"trusted: {line}")
        if measured:
            _print_measured(measured)
    if not report.healthy:
        raise SystemExit(1)


def _measured() -> object:
    from nacdeploy.exporters.targets.ort import probe as probes

    return probes.measure()


def _print_doctor(report: Any) -> None:
    """Components, conflicts and targets."""
    components = [
        [c.name, c.version or "missing", "yes" if c.required else "extra", c.purpose, "" if c.version else c.pip]
        for c in report.components
    ]
    render.print_table(
        f"Python {report.python}; {report.machine}", ["package", "version", "needed", "for", "add it"], components
    )
    for conflict in report.conflicts:
        click.echo(f"conflict: {conflict.problem}; mend it with: {' && '.join(conflict.pip)}")
    render.print_table(
        "", ["target", "works", "why"], [[t.name, "yes" if t.works else "no", t.why] for t in report.targets]
    )
    for problem in report.problems:
        click.echo(problem)


def _print_measured(measured: Any) -> None:
    """Print the findings of this CPU's probes."""
    rows = [
        [t.model, t.signs, f"{t.p50_ms:.3f}", *(["chosen", str(e.weight_bits)] if t.signs == e.signs else ["", ""])]
        for e in measured.encodings
        for t in e.times
    ]
    columns = ["model, 1 thread", "activations", "p50 ms", "", "exact with weight bits"]
    render.print_table(f"INT8 encodings in ONNX Runtime on {measured.machine}", columns, rows)
    by_channels: dict[int, list[str]] = {}
    for t in measured.channels.times:
        by_channels.setdefault(t.channels, [str(t.channels)]).extend([f"{t.p50_ms:.3f}", f"{t.over_expected:.2f}x"])
    columns = ["channels", "FP32 p50 ms", "over expected", "INT8 p50 ms", "over expected"]
    render.print_table("3x3 convolutions, 14 px, against counts in multiples of 16", columns, [*by_channels.values()])
    click.echo(f"channels pay in multiples of {measured.channels.float32} in FP32, {measured.channels.int8} in INT8")
