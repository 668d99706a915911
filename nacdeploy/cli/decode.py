"""nacdeploy decode"""

from pathlib import Path

import click

from nacdeploy.cli import options, render


@click.command("decode")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), metavar="DIR", required=True, help="Folder to write.")
@options.as_json
def command(file: Path, out: Path, as_json: bool) -> None:
    from nacdeploy.commands.decode import decode

    decoded = decode(file, out, render.RichProgress())
    render.print_json(decoded) if as_json else click.echo(f"restored {len(decoded.files)} files: {decoded.path}")
