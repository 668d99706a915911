"""nacdeploy show"""

import click

from nacdeploy.cli import options, render


@click.command("show")
@click.argument("what")
@options.as_json
def command(what: str, as_json: bool) -> None:
    """Show a strategy (word, strategy.json, catalog:NAME), a checkpoint, an artifact or a run."""
    from nacdeploy.jobs import show as showing

    shown = showing.show(what)
    if as_json:
        render.print_json(shown.data)
        return
    for line in shown.lines:
        click.echo(line)
