"""Progress: the reports of a long job to its user, however they are shown. The command line shows them with rich."""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from html import escape
from typing import Any, Protocol

Say = Callable[[str], None]


def nobody(*_: object) -> None:
    """Ignore a line: the default of every observer."""


class Bar(Protocol):
    """The progress of one job of known length.

    >>> with Silent().bar("training") as bar:
    ...     bar.update(1, 3, note="accuracy 0.91")
    """

    def update(self, n_done: int, total: int, note: str = "") -> None: ...


class Progress(Protocol):
    """A listener to which a job reports its lines and bars.

    >>> class Printed(Silent):
    ...     def say(self, line):
    ...         print(f"nacdeploy: {line}")
    >>> progress: Progress = Printed()
    >>> progress.say("exporting for ort")
    nacdeploy: exporting for ort
    """

    def say(self, line: str) -> None: ...
    def bar(self, title: str) -> AbstractContextManager[Bar]: ...


class Silent:
    """A listener that shows nothing: the default of the Python API."""

    def say(self, line: str) -> None:
        pass

    @contextmanager
    def bar(self, title: str) -> Iterator["Silent"]:
        yield self

    def update(self, n_done: int, total: int, note: str = "") -> None:
        pass


class InNotebook:
    """A listener in a notebook: lines below the cell, and a bar that moves in its place."""

    def say(self, line: str) -> None:
        print(line)

    @contextmanager
    def bar(self, title: str) -> Iterator["_NotebookBar"]:
        from IPython.display import display

        shown = display({"text/plain": title}, raw=True, display_id=True)
        yield _NotebookBar(title, shown)
        shown.update({"text/plain": f"{title}: done"}, raw=True)


class _NotebookBar:
    def __init__(self, title: str, shown: Any) -> None:
        self._title, self._shown = title, shown

    def update(self, n_done: int, total: int, note: str = "") -> None:
        text = escape(f"{self._title}: {n_done} of {total} {note}".rstrip())
        html = f'<progress value="{n_done}" max="{max(total, 1)}"></progress> {text}'
        self._shown.update({"text/html": html, "text/plain": text}, raw=True)


def default() -> Progress:
    """Return the listener of a Python call that names none: a notebook's cell, or nobody."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return InNotebook() if shell is not None and shell.has_trait("kernel") else Silent()
