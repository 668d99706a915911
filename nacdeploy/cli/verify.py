"""nacdeploy verify"""

from pathlib import Path
from typing import Any

import click

from nacdeploy.cli import options, render


@click.command("verify")
@click.argument("artifact", type=click.Path(path_type=Path))
@options.as_json
def command(artifact: Path, as_json: bool) -> None:
    from nacdeploy.commands import verify as verifying

    found = verifying.verify(artifact, render.RichProgress())
    render.print_json(found) if as_json else _print_verified(found)


def _print_verified(found: Any) -> None:
    """Hashes, then each engine against its second build."""
    click.echo(f"{found.artifact}: {found.n_files} files are as their hashes say")
    for engine in found.engines:
        click.echo(f"engine {engine.capability}, built again: {engine.said}")
    for engine in found.unbuilt:
        click.echo(f"engine {engine.capability}, not built again: {engine.why}")
    for said in found.repeats.values():
        click.echo(f"note: {said}")
