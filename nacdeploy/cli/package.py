"""nacdeploy package"""

from pathlib import Path

import click

from nacdeploy.cli import options, render


@click.command("package")
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), metavar="FILE.tar", help="Default: ARTIFACT.tar.")
@options.as_json
def command(artifact: Path, out: Path | None, as_json: bool) -> None:
    from nacdeploy import api

    packaged = api.package(artifact, out, render.RichProgress())
    if as_json:
        render.print_json(packaged)
        return
    for name in packaged.left_out:
        click.echo(f"note: {name} is not in it: the manifest does not name it, and it has no hash")
    click.echo(f"{packaged.n_files} files, {packaged.n_bytes:,} bytes, sha256 {packaged.sha256}")
    click.echo(f"package: {packaged.path}")
