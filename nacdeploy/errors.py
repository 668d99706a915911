"""The exception tree: every error a user can cause is one line that says what, where and what would work."""

import difflib
from collections.abc import Iterable


class NacdeployError(Exception):
    """A failure with a one-line explanation. The command line prints it and exits with `exit_code`."""

    exit_code = 1


class UsageError(NacdeployError):
    """The call itself is wrong: an unknown name, a contradicting option, a malformed file."""

    exit_code = 2


class RefusedError(NacdeployError):
    """An operator does not apply to this model in this state; the text says why."""


class DivergedError(NacdeployError):
    """Training produced a loss that is not a number."""


class LostWorkerError(NacdeployError):
    """The process that ran a job died, each time that the job was tried."""


class MissingExtraError(NacdeployError):
    """An optional package is not installed; the text holds the pip line that adds it."""

    def __init__(self, package: str, extra: str, needed_for: str) -> None:
        super().__init__(f"{needed_for} needs the package '{package}': pip install 'nacdeploy[{extra}]'")


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an "unknown name" message: the nearest known name, and the known names where they are few."""
    names = sorted(known)
    close = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.5)
    hint = f"; did you mean '{close[0]}'?" if close else ""
    listed = f"; known: {', '.join(names)}" if len(names) <= 24 else ""
    return hint + listed


def unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that is not in a closed list."""
    return UsageError(f"unknown {kind} '{name}'{nearest(name, known)}")
