"""Options that several commands share: one name means one thing everywhere. nacdeploy.toml gives their defaults."""

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from nacdeploy.cli import document
from nacdeploy.errors import UsageError, nearest
from nacdeploy.records import read_text

F = TypeVar("F", bound=Callable[..., Any])
SETTINGS_FILE = "nacdeploy.toml"


def _documented(context: click.Context, parameter: click.Parameter, value: bool) -> bool:
    """Under --json whatever runs, a user's network too, prints to stderr: stdout is one document."""
    if value and not context.resilient_parsing:
        context.with_resource(document.only_document_on_stdout())
    return value


model = click.option("--model", metavar="M", help="Built-in name, torchvision:NAME, timm:NAME or path/file.py:factory.")
trusted_model = click.option(
    "--model", metavar="M", help="path/file.py:factory that is named by a record, and may run."
)
data = click.option("--data", metavar="D", help="digits, fashion-mnist, cifar10, cifar100 (:DIR) or folder:PATH.")
width = click.option("--width", type=float, help="Width of a built-in model.")
normalize = click.option(
    "--normalize",
    metavar="N",
    help="Of the images: imagenet, data (their own), model (the network's), or MEAN/STD such as 0.5/0.25.",
)
classes = click.option(
    "--classes", metavar="FILE", help="Class names by output of the network, or 'index': folders are called by them."
)
checkpoint = click.option(
    "--checkpoint", metavar="C", help="FP32 network: a folder of ours, a .safetensors or .pt file."
)
profile = click.option(
    "--profile", metavar="P", default="demo", show_default=True, help="Shipped name or path/to.toml."
)
seed = click.option("--seed", type=click.IntRange(min=0), help="Seed of everything that is drawn.")
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
as_json = click.option("--json", "as_json", is_flag=True, callback=_documented, help="Print one JSON document.")
wandb = click.option(
    "--wandb/--no-wandb", default=True, help="Log to Weights & Biases (offline without key or network)."
)
NAMES = {"as_json": "json", "source": "from"}


def shared(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Several options as one decorator, listed in the order given."""

    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


new_head = click.option(
    "--new-head", is_flag=True, help="Where --checkpoint has other classes, draw a new head and train from there."
)
task_options = shared(model, data, width, normalize, classes, checkpoint, new_head, profile, seed)


def defaults(group: click.Group, path: Path = Path(SETTINGS_FILE)) -> dict[str, dict[str, Any]]:
    """nacdeploy.toml as click's default map: every option of every command that the file names.

    Raises:
        UsageError: the file is not readable, or names an option that no command has.
    """
    if not path.is_file():
        return {}
    try:
        given = tomllib.loads(read_text(path))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path} is not readable TOML: {error}") from error
    given = {key.replace("-", "_"): value for key, value in given.items()}
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
        recorded = json.loads((run / "run.json").read_text(encoding="utf-8"))["profile"]["model"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return bool(recorded == name)


def _check_keys(given: dict[str, Any], known: set[str], path: Path) -> None:
    for key, value in given.items():
        if key not in known:
            raise UsageError(f"{path}: unknown option '{key}'{nearest(key, known)}")
        if isinstance(value, dict):
            raise UsageError(f"{path}: '{key}' is a table; the file holds option names only, tables go into a profile")
        if not isinstance(value, str | int | float):
            raise UsageError(f"{path}: '{key}' takes one value, such as {key} = \"...\"")
