"""nacdeploy report"""

from pathlib import Path
from typing import Any

import click

from nacdeploy.cli import options, render


@click.command("report")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--out", metavar="FILE", type=click.Path(path_type=Path), help="Where the page goes (RUN/report.html).")
@click.option("--artifact", metavar="A", type=click.Path(path_type=Path), help="An artifact of the run, told too.")
@click.option("--bench", metavar="FILE", type=click.Path(path_type=Path), help="Its times, written by bench --out.")
@click.option("--explained", metavar="FILE", type=click.Path(path_type=Path), help="Its layers, by explain --out.")
@click.option("--explain", is_flag=True, help="Time its layers now, as explain does.")
@options.trusted_model
@options.as_json
def command(run: Path, out: Path | None, as_json: bool, **named: Any) -> None:
    from nacdeploy import api

    page = api.report(run, out, progress=render.RichProgress(), **named)
    render.print_json({"report": str(page)}) if as_json else click.echo(f"report: {page}")
