"""The command line: parse, one library call, print. Commands are imported when asked for, torch when they run."""

import errno
import importlib
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import click

from nacdeploy.base.errors import NO_MEMORY, NacdeployError, UsageError, is_out_of_memory, nearest, unknown
from nacdeploy.base.outside import doors, leaving, stack
from nacdeploy.sessions.options import SETTINGS_FILE

COMMANDS = (
    "train",
    "analyze",
    "search",
    "transfer",
    "compress",
    "finetune",
    "export",
    "optimize",
    "bench",
    "explain",
    "verify",
    "encode",
    "decode",
    "show",
    "report",
    "trust",
    "doctor",
)

_NAMES = {"as_json": "json", "source": "from"}  # of parameters whose option has another name


class Commands(click.Group):
    """The commands by name, one thin file each."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"nacdeploy.cli.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            raise unknown("command", args[0], COMMANDS)
        return super().resolve_command(ctx, args)


@click.group(cls=Commands, name="nacdeploy")
@click.version_option(package_name="nacdeploy")
@click.pass_context
def cli(context: click.Context) -> None:
    """Find, transfer and deploy chains of network compression techniques.

    A chain is a word over letters: F finetune, P prune, E add exits, Q quantize, S sparsify, D decompose, C code.
    Without options the commands use nacdeploy.toml in the current folder, else the built-in profile 'demo'.
    Results lie under runs/.
    """
    context.default_map = defaults(cli, Path(SETTINGS_FILE))


def main() -> None:
    """Run the command line: 0 for success, 1 for a failure, 2 for wrong usage; each failure is one line on stderr."""
    with leaving.on_signals():
        code = _run()
    sys.exit(code)


def _run() -> int:
    """Run the command; return its exit code."""
    warnings.formatwarning = lambda message, *where, **more: f"warning: {message}\n"
    try:
        stack.grown()
        code = cli.main(standalone_mode=False) or 0
    except click.exceptions.Exit as done:
        code = done.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = error.exit_code
    except click.ClickException as error:
        code = _failed(error.format_message() + _usage_hint(error), error.exit_code)
    except leaving.Terminated as asked:
        how = "interrupted" if asked.number == signal.SIGINT else "told to end"
        code = _failed(f"{how}; what was finished is kept", 128 + asked.number)
    except (click.Abort, KeyboardInterrupt):
        code = _failed("interrupted; what was finished is kept", 128 + signal.SIGINT)
    except NacdeployError as error:
        code = _failed(str(error), error.exit_code)
    except BrokenPipeError:  # whoever read our output has seen enough
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - python flushes it at exit
        code = 1
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        code = _failed(f"{error.strerror or error}{where}; {_what_helps(error)}", 1)
    except (MemoryError, RuntimeError, ImportError, SystemError) as error:
        if not is_out_of_memory(error):
            raise
        code = _failed(NO_MEMORY, 1)
    return code if isinstance(code, int) else 0


def _what_helps(error: OSError) -> str:
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "allow more open files (ulimit -n)"
    if error.errno == errno.ENOMEM:
        return "allow more memory, or use a smaller batch, network or image"
    return "free some space or choose another place"


def _usage_hint(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    return f" See '{context.command_path} --help'" if context else ""


def _failed(text: str, code: int) -> int:
    click.echo(f"error: {' '.join(text.split())}", err=True)
    return code


def defaults(group: click.Group, path: Path) -> dict[str, dict[str, Any]]:
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
    """A value as it would stand on the command line, so that the option's own checks apply to it."""
    if option.multiple:
        return [str(each) for each in _listed(value, option)]
    return value if isinstance(value, bool) else str(value)


def _listed(value: Any, option: click.Option) -> list[Any]:
    """The values of an option: one, or as many as a list holds where it may be given often."""
    return value if option.multiple and isinstance(value, list) else [value]


def _check_keys(given: dict[str, Any], known: dict[str, click.Option], path: Path) -> None:
    for key, value in given.items():
        if key not in known:
            raise UsageError(f"{path}: unknown option '{key}'{nearest(key, known)}")
        if isinstance(value, dict):
            raise UsageError(f"{path}: '{key}' is a table; the file holds option names only, tables go into a profile")
        if not all(isinstance(one, str | int | float) for one in _listed(value, known[key])):
            raise UsageError(f"{path}: '{key}' takes one value, such as {key} = \"...\"")


if __name__ == "__main__":
    main()
