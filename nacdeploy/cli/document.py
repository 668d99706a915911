"""The one JSON document on stdout: while it is asked for, everything else that is printed goes to stderr."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import TextIO

_stdout: list[TextIO] = []


@contextmanager
def only_document_on_stdout() -> Iterator[None]:
    """Send prints to stderr within the block, also those of native code and of child processes; only `write` reaches
    stdout."""
    sys.stdout.flush()
    with _own_descriptor() as stdout, redirect_stdout(sys.stderr):
        _stdout.append(stdout)
        try:
            yield
        finally:
            _stdout.pop()


def write(text: str) -> None:
    """Print the document."""
    out = _stdout[-1] if _stdout else sys.stdout
    out.write(text + "\n")
    out.flush()


@contextmanager
def _own_descriptor() -> Iterator[TextIO]:
    """Yield stdout on a descriptor of its own, with stderr's in its place; a stdout without a descriptor is
    unchanged."""
    kept = -1
    with suppress(OSError, ValueError):
        if sys.stdout.fileno() == 1 and sys.stderr.fileno() == 2:
            kept = os.dup(1)
    if kept < 0:
        yield sys.stdout
        return
    os.dup2(2, 1)
    try:
        with open(os.dup(kept), "w", encoding="utf-8") as out:  # noqa: PTH123 - a descriptor has no path
            yield out
    finally:
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).fflush(None)  # what native code has printed and keeps in its buffer
        os.dup2(kept, 1)
        os.close(kept)
