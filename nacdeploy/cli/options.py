"""Options that several commands share: one name means one thing everywhere. nacdeploy.toml gives their defaults."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

import click
from click.core import ParameterSource

from nacdeploy.base import records
from nacdeploy.base.errors import UsageError
from nacdeploy.cli import document
from nacdeploy.sessions import options

F = TypeVar("F", bound=Callable[..., Any])


def _documented(context: click.Context, parameter: click.Parameter, value: bool) -> bool:
    """Let whatever runs under --json, a user's network too, print to stderr: stdout is one document."""
    if value and not context.resilient_parsing:
        context.with_resource(document.only_document_on_stdout())
    return value


def trusted_model(function: F) -> F:
    """Add the options that name the file of a record's network or task, which may then run."""
    named = click.option("--model", metavar="M", help="path/file.py:factory that is named by a record, and may run.")
    task = click.option("--task", metavar="F", help="path/file.py:function of a task that a record names, and may run.")
    return named(task(function))


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
latency_table = click.option(
    "--latency-table",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Times of another machine, written there by analyze --latency-table.",
)
as_json = click.option("--json", "as_json", is_flag=True, callback=_documented, help="Print one JSON document.")


def shared(*names: str) -> Callable[[F], F]:
    """Return the options that commands share (`sessions/options.py`) as one decorator, listed in the order given; the
    command is also told what nacdeploy.toml says, as `settings_file`."""

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def told(**given: Any) -> Any:
            return function(**given, settings_file=_settings_file(given))

        for name in reversed(names):
            told = _option(name)(told)
        return cast(F, told)

    return decorate


def _option(name: str) -> Callable[[F], F]:
    """Return a shared option as the command line spells it."""
    kind, spelling = get_args({**options.HINTS, **options.SEARCH_HINTS}[name])
    flag = f"--{name.replace('_', '-')}"
    if kind is bool:
        flags = f"{flag}/--no-{name.replace('_', '-')}"  # nacdeploy.toml may say either
        return click.option(flags, default=spelling.default, is_flag=True, help=spelling.help)
    shown = {"default": spelling.default, "show_default": True} if spelling.default is not None else {}
    shown |= {"multiple": True} if kind == Sequence[Path | str] | None else {}
    return click.option(flag, type=_type(kind, spelling), metavar=spelling.metavar, help=spelling.help, **shown)


def _type(kind: Any, spelling: options.Spelling) -> Any:
    """Return the type by which click reads the value of an option; None: as text."""
    numbers: dict[Any, tuple[Any, Any]] = {int | None: (int, click.IntRange), float | None: (float, click.FloatRange)}
    if kind not in numbers:
        return None
    plain, ranged = numbers[kind]
    return plain if spelling.least is None else ranged(min=spelling.least)


def _settings_file(given: dict[str, Any]) -> dict[str, Any]:
    """Return the values of nacdeploy.toml for a command's options: as the command takes them, or as written in the
    file if the command line overrides them."""
    context = click.get_current_context()
    taken = [name for name in context.default_map or {} if name in given]
    is_from_file = {name: context.get_parameter_source(name) is ParameterSource.DEFAULT_MAP for name in taken}
    return {name: given[name] if is_from_file[name] else (context.default_map or {})[name] for name in taken}


task_options = shared(*options.TASK)
data = _option("data")


def trackers(function: F) -> F:
    """Add the options that say who records a run beside the record."""
    for name in reversed(options.TRACKERS):
        function = _option(name)(function)
    return function


def budget(function: F) -> F:
    """Add the options that say what a network may lose and how long it may take."""
    for name in ("speedup", "target_ms", "max_drop"):
        function = _option(name)(function)
    return function


def search_options(function: F) -> F:
    """Add the options of a search that are keys of the profile's search table."""
    for name in reversed(options.SEARCH):
        function = _option(name)(function)
    return function


def on_command_line(name: str) -> bool:
    """Tell whether the parameter was typed, rather than taken from nacdeploy.toml or its default."""
    return click.get_current_context().get_parameter_source(name) is ParameterSource.COMMANDLINE


def is_model_of(run: Path, name: str | None) -> bool:
    """Tell whether a model is a user's file, and the one of a run: naming it there lets it run."""
    if name is None or ".py:" not in name:
        return False
    try:
        recorded: Any = records.read_json(run / "run.json")
    except UsageError:  # said by whoever reads it next
        return False
    profile = recorded.get("profile") if isinstance(recorded, dict) else None
    return isinstance(profile, dict) and profile.get("model") == name
