"""The main thread's stack under a limit on memory (`ulimit -v`).

The stack grows page by page while functions call functions, and growth beyond the limit is no error that can be caught:
the system ends the process by SIGSEGV. So the stack grows at the start, where a lack of memory can still be said.
"""

import resource

_STACK_MIB = 2  # deeper than any command went in the campaign of benchmarks/reliability.py
_ROOM_MIB = 8  # for the line that says that there is too little
_MIB = 2**20


def grown() -> None:
    """Let the stack have its size from now on, if memory is limited.

    Raises:
        MemoryError: the limit has no room for it.
    """
    most = resource.getrlimit(resource.RLIMIT_AS)[0]
    if most == resource.RLIM_INFINITY:
        return
    from pathlib import Path  # imported by who has a limit: `nacdeploy --help` needs neither this nor ctypes

    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    if most - now < (_STACK_MIB + _ROOM_MIB) * _MIB:
        raise MemoryError
    _touched(_STACK_MIB * _MIB)


def _touched(n_bytes: int) -> None:
    """Write to the next bytes of the stack: an argument by value lies there, and its pages stay."""
    import ctypes

    block = type("Block", (ctypes.Structure,), {"_fields_": (("content", ctypes.c_char * n_bytes),)})
    ctypes.CFUNCTYPE(ctypes.c_int, block)(("Py_IsInitialized", ctypes.pythonapi))(block())
