"""Progress: what a long job tells its user, without knowing how it is shown. The command line shows it with rich."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Bar(Protocol):
    """One job of known length."""

    def update(self, n_done: int, total: int, note: str = "") -> None: ...


class Progress(Protocol):
    """Where a job says what it does."""

    def say(self, line: str) -> None: ...
    def bar(self, title: str) -> AbstractContextManager[Bar]: ...


class Silent:
    """Shows nothing: the default of the Python API."""

    def say(self, line: str) -> None:
        pass

    @contextmanager
    def bar(self, title: str) -> Iterator["Silent"]:
        yield self

    def update(self, n_done: int, total: int, note: str = "") -> None:
        pass
