"""nacdeploy report"""

from pathlib import Path
from typing import Any

import click

from nacdeploy.cli import options


@click.command("report")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--out", metavar="FILE", type=click.Path(path_type=Path), help="Where the page goes (RUN/report.html).")
@click.option("--artifact", metavar="A", type=click.Path(path_type=Path), help="An artifact of the run, told too.")
@options.trusted_model
def command(run: Path, out: Path | None, **named: Any) -> None:
    from nacdeploy import api

    click.echo(f"report: {api.report(run, out, **named)}")
