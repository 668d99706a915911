"""The exception tree: every error a user can cause is one line that says what, where and what would work.

What only a failure needs is imported by it: the command line imports this file before everything else.
"""

import re
from collections.abc import Iterable


class NacdeployError(Exception):
    """A failure with a one-line explanation. The command line prints it and exits with `exit_code`."""

    exit_code = 1


class UsageError(NacdeployError):
    """The call itself is wrong: an unknown name, a contradicting option, a malformed file."""

    exit_code = 2


class RefusedError(NacdeployError):
    """An operator does not apply to this model in this state; the text says why."""


NO_MEMORY = "not enough memory; allow more, or use a smaller batch, network or image"
# torch's allocator and its kernels have no exception of their own for it.
_OUT_OF_MEMORY = re.compile(
    r"can't allocate memory|not enough memory|bad_alloc|out of memory|[Cc]annot allocate memory|could not create a \w+"
    r"|can't start new thread|failed to map segment"
    r"|error return without exception set|returned NULL without setting an exc"  # Python's own calls
)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means a lack of memory: no fault of the code, and no reason for a traceback."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError | ImportError | SystemError) and bool(_OUT_OF_MEMORY.search(str(error)))
    )


class UnexpectedError(RefusedError):
    """A letter failed in a way that nobody foresaw, by a fault of nacdeploy or of the network's own code.

    The message is one line; the traceback is in a file that the message names.
    """

    def __init__(self, what: str, error: BaseException | None = None) -> None:
        if error is not None and is_out_of_memory(error):
            what = f"{what}: {NO_MEMORY}"
        elif error is not None:
            what = f"unexpected: {what}: {one_line(error)}; the traceback is in {_kept(error)}"
        super().__init__(what)


def one_line(error: BaseException) -> str:
    """Return the kind of an error and the first line of its text."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _kept(error: BaseException) -> str:
    """Write the traceback of an error to a file and return the file's name."""
    import tempfile
    import traceback

    with tempfile.NamedTemporaryFile("w", prefix="nacdeploy-unexpected-", suffix=".txt", delete=False) as file:
        file.write("".join(traceback.format_exception(error)))
    return file.name


class DivergedError(NacdeployError):
    """Training produced a loss that is not a number."""


class LostWorkerError(NacdeployError):
    """The process that ran a job died, each time that the job was tried."""


class MissingExtraError(NacdeployError):
    """An optional package is not installed; the text holds the pip line that adds it."""

    def __init__(self, package: str, extra: str, needed_for: str) -> None:
        super().__init__(f"{needed_for} needs the package '{package}': pip install 'nacdeploy[{extra}]'")


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the end of an "unknown name" message: the nearest known name, and all known names if they are few."""
    import difflib

    names = sorted(known)
    close = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.5)
    hint = f"; did you mean '{close[0]}'?" if close else ""
    listed = f"; known: {', '.join(names)}" if len(names) <= 24 else ""
    return hint + listed


def unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """Return the error for a name that is not in a closed list."""
    return UsageError(f"unknown {kind} '{name}'{nearest(name, known)}")
