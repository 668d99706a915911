"""nacdeploy show"""

from typing import Any

import click

from nacdeploy.cli import options, render
from nacdeploy.sessions.options import SEARCH, TASK


@click.command("show")
@click.argument("what", required=False)
@click.option("--settings", is_flag=True, help="Every key in force and its source: of a strategy, a run, or here.")
@options.precision
@options.rules
@options.task_options
@options.search_options
@options.as_json
def command(what: str | None, settings: bool, as_json: bool, **given: Any) -> None:
    from nacdeploy.commands import show as showing

    typed = [name for name in ("precision", "rules", *TASK, *SEARCH) if options.on_command_line(name)]
    if typed and not settings:
        raise click.UsageError(f"--{typed[0].replace('_', '-')} goes with --settings.")
    # What nacdeploy.toml says for `search` has no say in how a strategy is applied, and what is typed is refused there.
    keys = [name for name in SEARCH if what is None or options.on_command_line(name)]
    search = {name: given[name] for name in keys}
    given = {name: value for name, value in given.items() if name not in SEARCH}
    shown = showing.show(what, settings=settings, search=search, progress=render.RichProgress(), **given)
    if as_json:
        render.print_json(shown.data)
    elif settings:
        _print_settings(shown.data)
    else:
        for line in shown.lines:
            click.echo(line)


def _print_settings(rows: Any) -> None:
    """Print the keys that a source gives a value, and how many have their default."""
    given = [row for row in rows if row["source"] != "default"]
    table = [
        [row["key"], _value(row["value"]), row["source"], "; ".join(map(_weaker, row["instead_of"]))] for row in given
    ]
    render.print_table("settings in force", ["key", "value", "source", "instead of"], table)
    click.echo(f"{len(rows) - len(given)} further keys have their defaults; --json lists them too")


def _value(value: Any) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


def _weaker(given: Any) -> str:
    return f"{_value(given['value'])} ({given['source']})"
