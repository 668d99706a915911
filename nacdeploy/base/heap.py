"""Memory that is free, back to the system.

glibc keeps what was freed below 32 MiB a piece, in holes that few later tensors fit into: a few phases of a large
network leave more than a gigabyte of them.
"""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # as glibc's malloc.h numbers what mallopt sets
_LARGEST = 32 * 2**20  # what the threshold grows to by itself
_SMALL = 4 * 2**20


def give_back() -> None:
    """Return free memory of the C library to the system, where that is glibc."""
    if (trim := _of_glibc("malloc_trim")) is not None:
        trim(0)


@contextmanager
def frugal() -> Iterator[None]:
    """Return every piece of 4 MiB or more to the system as soon as it is free, where the C library is glibc.

    New memory costs time, so this is for a few passes of large tensors, and not for a training.
    """
    _from_now_on(_SMALL)
    try:
        yield
    finally:
        _from_now_on(_LARGEST)


def _from_now_on(threshold: int) -> None:
    if (set_option := _of_glibc("mallopt")) is not None:
        set_option(_MMAP_THRESHOLD, threshold)
        set_option(_TRIM_THRESHOLD, 2 * threshold)


def _of_glibc(name: str) -> Any:
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return getattr(library, name, None) if hasattr(library, "gnu_get_libc_version") else None
