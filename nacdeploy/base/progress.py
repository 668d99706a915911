"""Progress: the reports of a long job to its user, however they are shown. The command line shows them with rich."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

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
