"""Memory that is free, back to the system."""

import ctypes
import sys


def give_back() -> None:
    """Return free memory of the C library to the system, where that is glibc.

    glibc keeps what was freed below 32 MiB a piece: after a few phases of a large network that is a gigabyte.
    """
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)
