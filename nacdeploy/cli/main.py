"""The command line: parse, one library call, print. Commands are imported when asked for, torch when they run."""

import errno
import importlib
import os
import signal
import sys
import warnings

import click

from nacdeploy.base.errors import NO_MEMORY, NacdeployError, is_out_of_memory, unknown
from nacdeploy.base.outside import leaving, stack

COMMANDS = {  # with their help, which stands here so that `nacdeploy --help` imports none of them
    "train": "Train the FP32 baseline of a model; leaves a checkpoint folder.",
    "analyze": "What each layer costs, what it is coupled to, and what it loses when it alone is compressed.",
    "search": "Search for the best chain; leaves its checkpoint and strategy.json.",
    "transfer": "Apply a strategy to a model, every letter deciding anew; leaves a checkpoint.",
    "compress": "Run a compression experiment, one-time or automatic; leaves a checkpoint, or what its script exports.",
    "finetune": "Train a compressed checkpoint further; leaves a new checkpoint.",
    "export": "Make a checkpoint deployable: ONNX with real INT8, checked; with --target trt also engines.",
    "optimize": (
        "Make a bare ONNX file faster, without labels or training: quantize, check, time. The file is not touched."
    ),
    "tune": "Move the thresholds of an artifact's exits: to a largest drop, a time, or values; no new export.",
    "bench": "Time artifacts against the FP32 baseline, turn by turn, and score them on the test split.",
    "explain": (
        "Say why an artifact is or is not faster, layer by layer, worst first: read from the artifact, measured here."
    ),
    "verify": "Check the files of an artifact or its tar against their hashes, build its engines again and compare.",
    "package": "Write an artifact into one tar to ship, checked first: the same bytes from every copy of it.",
    "encode": (
        "Write a checkpoint or an artifact into one small file, exact to the bit: Huffman codes, zero runs, zstd."
    ),
    "decode": "Restore what `nacdeploy encode` wrote, byte for byte.",
    "show": (
        "Show a strategy (word, strategy.json, catalog:NAME), a checkpoint, an artifact, a run, or settings in force."
    ),
    "report": "Write one self-contained HTML page about a run, finished or under way.",
    "trust": (
        "Let a model file or script run, or follow what another's record names, as they are now; without PATH: list."
    ),
    "doctor": "Say what is installed, what is missing and how to add it, and which targets work here.",
}


class Commands(click.Group):
    """The commands by name, one thin file each."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"nacdeploy.cli.{cmd_name}").command
        command.help = COMMANDS[cmd_name]
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        limit = formatter.width - 6 - max(map(len, COMMANDS))
        short = [(name, click.Command(name, help=text).get_short_help_str(limit)) for name, text in COMMANDS.items()]
        with formatter.section("Commands"):
            formatter.write_dl(short)

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
    from nacdeploy.cli import settings_file

    context.default_map = settings_file.defaults(cli)


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


if __name__ == "__main__":
    main()
