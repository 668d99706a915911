"""Options that several commands share: one name means one thing everywhere. nacdeploy.toml gives their defaults."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

import click
from click.core import ParameterSource

from nacdeploy.base import records
from nacdeploy.base.errors import UsageError, nearest
from nacdeploy.base.outside import doors
from nacdeploy.cli import document
from nacdeploy.sessions import options

F = TypeVar("F", bound=Callable[..., Any])


def _documented(context: click.Context, parameter: click.Parameter, value: bool) -> bool:
    """Under --json whatever runs, a user's network too, prints to stderr: stdout is one document."""
    if value and not context.resilient_parsing:
        context.with_resource(document.only_document_on_stdout())
    return value


trusted_model = click.option(
    "--model", metavar="M", help="path/file.py:factory that is named by a record, and may run."
)
out = click.option("--out", metavar="DIR", type=click.Path(path_type=Path), help="Folder of the result (a new one).")
source = click.option(
    "--from", "source", metavar="DIR", type=click.Path(path_type=Path), help="A result or checkpoint."
)
precision = click.option(
    "--precision",
    metavar="A",
    type=click.Path(path_type=Path),
    help="Measured precision of a similar model, taken as it is: an artifact or its precision.json.",
)
rules = click.option(
    "--rules", metavar="FILE", type=click.Path(path_type=Path), help="Rules by layer in the old grammar."
)
as_json = click.option("--json", "as_json", is_flag=True, callback=_documented, help="Print one JSON document.")
NAMES = {"as_json": "json", "source": "from"}


def shared(*names: str) -> Callable[[F], F]:
    """Options that commands share (`sessions/options.py`) as one decorator, listed in the order given; the command is
    also told what nacdeploy.toml says, as `settings_file`."""

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def told(**given: Any) -> Any:
            return function(**given, settings_file=_settings_file(given))

        for name in reversed(names):
            told = _option(name)(told)
        return cast(F, told)

    return decorate


def _option(name: str) -> Callable[[F], F]:
    """A shared option as the command line spells it."""
    spelling, (kind, *_) = options.SPELLINGS[name], get_args(options.HINTS[name])
    flag = f"--{name.replace('_', '-')}"
    if kind is bool:
        flags = f"{flag}/--no-{name}" if spelling.default else flag
        return click.option(flags, default=spelling.default, is_flag=True, help=spelling.help)
    types: dict[Any, Any] = {float | None: float, int | None: click.IntRange(min=0)}
    shown = {"default": spelling.default, "show_default": True} if spelling.default is not None else {}
    return click.option(flag, type=types.get(kind), metavar=spelling.metavar, help=spelling.help, **shown)


def _settings_file(given: dict[str, Any]) -> dict[str, Any]:
    """What nacdeploy.toml says of a command's options: as the command takes it, or as it stands there where the command
    line says something else."""
    context = click.get_current_context()
    taken = [name for name in context.default_map or {} if name in given]
    is_from_file = {name: context.get_parameter_source(name) is ParameterSource.DEFAULT_MAP for name in taken}
    return {name: given[name] if is_from_file[name] else (context.default_map or {})[name] for name in taken}


task_options = shared(*options.TASK)
data, wandb = _option("data"), _option("wandb")


_SEARCH = (
    click.option("--searcher", metavar="X", help="surrogate, beam, dqn or random."),
    click.option("--budget", type=click.IntRange(min=1), help="Chains to evaluate."),
    click.option("--max-trainings", type=click.IntRange(min=1), metavar="N", help="Trainings after which it ends."),
    click.option(
        "--max-drop", type=click.FloatRange(min=0), metavar="POINTS", help="What may be lost, in the metric's unit."
    ),
    click.option("--objective", metavar="X", help="budget, latency, pareto or nac."),
    click.option(
        "--cache", metavar="LOCATION", help="Shared memory of searches: a folder or an fsspec URL (s3://...)."
    ),
    click.option(
        "--experience", metavar="RUN", multiple=True, help="An earlier search whose journal teaches what letters do."
    ),
)
SEARCH = ("searcher", "budget", "max_trainings", "max_drop", "objective", "cache", "experience")


def search_options(function: F) -> F:
    """The options of a search that are keys of the profile's search table."""
    for option in reversed(_SEARCH):
        function = option(function)
    return function


def defaults(group: click.Group, path: Path = Path(options.SETTINGS_FILE)) -> dict[str, dict[str, Any]]:
    """nacdeploy.toml as click's default map: every option of every command that the file names.

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
        name: [p.name for p in command.params if p.name and isinstance(p, click.Option)]
        for name, command in commands.items()
        if command
    }
    _check_keys(given, {NAMES.get(p, p) for names in parameters.values() for p in names}, path)
    return {
        name: {p: _as_typed(given[NAMES.get(p, p)]) for p in names if NAMES.get(p, p) in given}
        for name, names in parameters.items()
    }


def _as_typed(value: Any) -> Any:
    """A value as it would stand on the command line, so that the option's own checks apply to it."""
    return value if isinstance(value, bool) else str(value)


def on_command_line(name: str) -> bool:
    """Whether the parameter was typed, rather than taken from nacdeploy.toml or its default."""
    return click.get_current_context().get_parameter_source(name) is ParameterSource.COMMANDLINE


def is_model_of(run: Path, name: str | None) -> bool:
    """Whether a model is a user's file, and the one of a run: naming it there lets it run."""
    if name is None or ".py:" not in name:
        return False
    try:
        recorded: Any = records.read_json(run / "run.json")
    except UsageError:  # said by whoever reads it next
        return False
    profile = recorded.get("profile") if isinstance(recorded, dict) else None
    return isinstance(profile, dict) and profile.get("model") == name


def _check_keys(given: dict[str, Any], known: set[str], path: Path) -> None:
    for key, value in given.items():
        if key not in known:
            raise UsageError(f"{path}: unknown option '{key}'{nearest(key, known)}")
        if isinstance(value, dict):
            raise UsageError(f"{path}: '{key}' is a table; the file holds option names only, tables go into a profile")
        if not isinstance(value, str | int | float):
            raise UsageError(f"{path}: '{key}' takes one value, such as {key} = \"...\"")
