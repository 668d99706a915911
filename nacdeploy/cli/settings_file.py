"""nacdeploy.toml: the defaults of every option of every command."""

from pathlib import Path
from typing import Any

import click

from nacdeploy.base.errors import UsageError, nearest
from nacdeploy.base.outside import doors
from nacdeploy.sessions.options import SETTINGS_FILE

_NAMES = {"as_json": "json", "source": "from"}  # of parameters whose option has another name


def defaults(group: click.Group, path: Path = Path(SETTINGS_FILE)) -> dict[str, dict[str, Any]]:
    """Return nacdeploy.toml as click's default map: every option of every command that the file names.

    Raises:
        UsageError: the file is not readable, or names an option that no command has.
    """
    if not path.is_file():
        return {}
    try:
        given = doors.toml_of(doors.read_text(path), str(path))
    except OSError as error:
        raise UsageError(f"{path} is not readable TOML: {error}") from error
    given = {key.replace("-", "_"): value for key, value in given.items()}
    if isinstance(given.get("limits"), str):
        doors.raise_limits(given.pop("limits"), str(path))
    commands = {
        name: group.get_command(click.Context(group), name) for name in group.list_commands(click.Context(group))
    }
    parameters = {
        name: {_NAMES.get(p.name, p.name): p for p in command.params if p.name and isinstance(p, click.Option)}
        for name, command in commands.items()
        if command
    }
    _check_keys(given, {key: p for found in parameters.values() for key, p in found.items()}, path)
    return {
        name: {str(p.name): _as_typed(given[key], p) for key, p in found.items() if key in given}
        for name, found in parameters.items()
    }


def _as_typed(value: Any, option: click.Option) -> Any:
    """Return a value as it would stand on the command line, so that the option's own checks apply to it."""
    if option.multiple:
        return [str(each) for each in _listed(value, option)]
    return value if isinstance(value, bool) else str(value)


def _listed(value: Any, option: click.Option) -> list[Any]:
    """Return the values of an option: one, or as many as a list holds where it may be given often."""
    return value if option.multiple and isinstance(value, list) else [value]


def _check_keys(given: dict[str, Any], known: dict[str, click.Option], path: Path) -> None:
    for key, value in given.items():
        if key not in known:
            raise UsageError(f"{path}: unknown option '{key}'{nearest(key, known)}")
        if isinstance(value, dict):
            raise UsageError(f"{path}: '{key}' is a table; the file holds option names only, tables go into a profile")
        if not all(isinstance(one, str | int | float) for one in _listed(value, known[key])):
            raise UsageError(f"{path}: '{key}' takes one value, such as {key} = \"...\"")
