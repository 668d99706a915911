"""An orderly end on SIGTERM, like on an interruption: half-made results are removed on the way out."""

import signal
import threading
from types import FrameType

_is_asked: list[bool] = []


class Terminated(BaseException):
    """The process was told to end. Like an interruption it passes every handler of errors."""


def on_termination() -> None:
    """Let SIGTERM raise `Terminated` from now on, in place of any library's own handler."""
    if threading.current_thread() is threading.main_thread():
        _is_asked.append(True)
        signal.signal(signal.SIGTERM, _raise)


def restored() -> None:
    """Repeat `on_termination` if it was called before: a library has installed its own handler since."""
    if _is_asked:
        on_termination()


def _raise(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: a second one would cut the way out short
    raise Terminated
