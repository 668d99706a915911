"""An orderly end on SIGTERM and on Ctrl-C: half-made results are removed on the way out.

Either signal raises `Terminated` in the main thread. Other code may drop it: a bare `except` around an import, a
callback whose errors Python only prints. So it is raised again until it is on its way out. Other code may also take the
signals for itself, or must not be left half-way: see `held`.
"""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_AGAIN_S = 0.2
_NUMBERS = (signal.SIGTERM, signal.SIGINT)
_former: dict[int, Any] = {}  # the handlers before ours, while ours are there
_asked: list[int] = []  # the signals that came
_holds: list[bool] = []  # a block of `held` runs


class Terminated(BaseException):
    """The process was told to end, by the signal `number`. Like an interruption it passes every handler of errors."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def on_signals() -> Iterator[None]:
    """Let SIGTERM and SIGINT raise `Terminated` within the block; once one came, SIGTERM stays without effect."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _asked.clear()
    _former.update({number: signal.signal(number, _told) for number in _NUMBERS})
    _former[signal.SIGALRM] = signal.signal(signal.SIGALRM, _again)
    printed, sys.unraisablehook = sys.unraisablehook, _unless_leaving
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.unraisablehook = printed
        for number, handler in _former.items():
            signal.signal(number, signal.SIG_IGN if _asked and number == signal.SIGTERM else handler)
        _former.clear()


@contextmanager
def held() -> Iterator[None]:
    """Let a signal wait until the block has ended, and no library's own handler take our place within the block.

    A second signal does not wait.
    """
    if not _former or threading.current_thread() is not threading.main_thread():
        yield
        return
    install = signal.signal
    signal.signal = lambda number, handler: (  # type: ignore[assignment]
        signal.getsignal(number) if number in _NUMBERS else install(number, handler)
    )
    _holds.append(True)
    try:
        yield
    finally:
        _holds.pop()
        signal.signal = install
        if _asked and not _holds and not _is_leaving():
            raise Terminated(_asked[0])


def _told(number: int, frame: FrameType | None) -> None:
    is_second = bool(_asked)
    _asked.append(number)
    signal.setitimer(signal.ITIMER_REAL, _AGAIN_S, _AGAIN_S)
    if is_second and _is_leaving() and number == signal.SIGTERM:
        return  # once is enough: a second one would cut the way out short
    if is_second or not _holds:
        raise Terminated(number)


def _again(number: int, frame: FrameType | None) -> None:
    if _asked and not _holds and not _is_leaving():
        raise Terminated(_asked[0])


def _is_leaving() -> bool:
    """Tell whether `Terminated` is on its way out: the code that runs cleans up behind it."""
    error = sys.exc_info()[1]
    while error is not None and not isinstance(error, Terminated):
        error = error.__context__
    return error is not None


def _unless_leaving(dropped: Any) -> None:
    if not isinstance(dropped.exc_value, Terminated):
        sys.__unraisablehook__(dropped)
