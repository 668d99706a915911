"""The command line: parse, one library call, print. Commands are imported when asked for, torch when they run."""

import errno
import importlib
import os
import signal
import sys
import warnings

import click

from nacdeploy.base.errors import NO_MEMORY, NacdeployError, is_out_of_memory, unknown
from nacdeploy.base.outside import leaving
from nacdeploy.cli import options

COMMANDS = (
    "train",
    "analyze",
    "search",
    "transfer",
    "compress",
    "finetune",
    "export",
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
    context.default_map = options.defaults(cli)


def main() -> None:
    """Run the command line: 0 for success, 1 for a failure, 2 for wrong usage; each failure is one line on stderr."""
    leaving.on_termination()
    warnings.formatwarning = lambda message, *where, **more: f"warning: {message}\n"
    try:
        code = cli.main(standalone_mode=False) or 0
    except click.exceptions.Exit as done:
        code = done.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = error.exit_code
    except click.ClickException as error:
        code = _failed(error.format_message() + _usage_hint(error), error.exit_code)
    except leaving.Terminated:
        code = _failed("told to end; what was finished is kept", 128 + signal.SIGTERM)
    except (click.Abort, KeyboardInterrupt):
        code = _failed("interrupted; what was finished is kept", 1)
    except NacdeployError as error:
        code = _failed(str(error), error.exit_code)
    except BrokenPipeError:  # whoever read our output has seen enough
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - python flushes it at exit
        code = 1
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        code = _failed(f"{error.strerror or error}{where}; {_what_helps(error)}", 1)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        code = _failed(NO_MEMORY, 1)
    sys.exit(code if isinstance(code, int) else 0)


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


if __name__ == "__main__":
    main()
