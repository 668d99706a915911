"""Leaving in good order when told to end (SIGTERM), as when interrupted: what is half made goes on the way out."""

import signal
import threading
from types import FrameType

_is_asked: list[bool] = []


class Terminated(BaseException):
    """The process was told to end. Like an interruption it passes every handler of errors."""


def on_termination() -> None:
    """From now on SIGTERM raises `Terminated`; a library that has put its own handler there is overruled."""
    if threading.current_thread() is threading.main_thread():
        _is_asked.append(True)
        signal.signal(signal.SIGTERM, _raise)


def restored() -> None:
    """As `on_termination`, where it was asked for before: a library has put its own handler in its place since."""
    if _is_asked:
        on_termination()


def _raise(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: a second one would cut the way out short
    raise Terminated
