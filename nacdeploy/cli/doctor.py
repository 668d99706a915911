"""nacdeploy doctor"""

import click

from nacdeploy.cli import options, render


@click.command("doctor")
@options.as_json
def command(as_json: bool) -> None:
    """Say what is installed, what is missing and how to add it, and which targets work here."""
    from nacdeploy import environment

    report = environment.inspect()
    if as_json:
        render.print_json(report)
    else:
        render.print_doctor(report)
    if not report.healthy:
        raise SystemExit(1)
