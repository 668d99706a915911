"""nacdeploy doctor"""

import click

from nacdeploy.cli import options, render


@click.command("doctor")
@click.option("--measure", is_flag=True, help="Also measure which encodings and channel counts are fast here.")
@options.as_json
def command(measure: bool, as_json: bool) -> None:
    """Say what is installed, what is missing and how to add it, and which targets work here."""
    from nacdeploy import environment, records

    report = environment.inspect()
    measured = _measured() if measure else None
    if as_json:
        render.print_json({**records.to_data(report), **({"measured": records.to_data(measured)} if measured else {})})
    else:
        render.print_doctor(report)
        if measured:
            render.print_measured(measured)
    if not report.healthy:
        raise SystemExit(1)


def _measured() -> object:
    from nacdeploy.runners import probes

    return probes.measure()
