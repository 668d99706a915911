"""The main thread's stack under a limit on memory (`ulimit -v`).

The stack grows page by page while functions call functions, and growth beyond the limit is no error that can be caught:
the system ends the process by SIGSEGV. So the stack grows at the start, where a lack of memory can still be said.
"""

import ctypes
import resource
from pathlib import Path

_STACK_MIB = 2  # deeper than any command went in the campaign of benchmarks/reliability.py
_ROOM_MIB = 8  # for the line that says that there is too little
_MIB = 2**20


class _Block(ctypes.Structure):
    _fields_ = (("content", ctypes.c_char * (_STACK_MIB * _MIB)),)


def grown() -> None:
    """Let the stack have its size from now on, if memory is limited.

    Raises:
        MemoryError: the limit has no room for it.
    """
    most = resource.getrlimit(resource.RLIMIT_AS)[0]
    if most == resource.RLIM_INFINITY:
        return
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    if most - now < (_STACK_MIB + _ROOM_MIB) * _MIB:
        raise MemoryError
    call = ctypes.CFUNCTYPE(ctypes.c_int, _Block)(("Py_IsInitialized", ctypes.pythonapi))
    call(_Block())  # an argument by value lies on the stack, whose pages stay
