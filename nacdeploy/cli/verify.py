"""nacdeploy verify"""

from pathlib import Path

import click

from nacdeploy.cli import options, render


@click.command("verify")
@click.argument("artifact", type=click.Path(path_type=Path))
@options.as_json
def command(artifact: Path, as_json: bool) -> None:
    """Check an artifact's files against their hashes, build its engines again and compare them."""
    from nacdeploy.jobs import verify as verifying

    found = verifying.verify(artifact, render.RichProgress())
    render.print_json(found) if as_json else render.print_verified(found)
