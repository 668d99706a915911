"""nacdeploy report"""

from pathlib import Path

import click

from nacdeploy.cli import options


@click.command("report")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--out", metavar="FILE", type=click.Path(path_type=Path), help="Where the page goes (RUN/report.html).")
@options.trusted_model
def command(run: Path, out: Path | None, **named: str | None) -> None:
    from nacdeploy import api

    click.echo(f"report: {api.report(run, out, **named)}")
