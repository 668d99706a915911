"""Under a limit on memory a deep stack ends in an error, not in SIGSEGV."""

import signal
import subprocess
import sys

import pytest

DEEP = """
import resource, sys
from pathlib import Path
from nacdeploy.base.outside import stack
sys.setrecursionlimit(10**5)
one, other = [], []
for _ in range(4000):
    one, other = [one], [other]
now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + int(sys.argv[1]) * 2**20, resource.RLIM_INFINITY))
held = []
try:
    if sys.argv[2] == "grown":
        stack.grown()
    for size in (2**20, 2**16, 2**12):
        try:
            while True:
                held.append(bytearray(size))
        except MemoryError:
            pass
    is_equal = one == other  # C calls C, 4000 deep
    held.clear()
    print("deep")
except MemoryError:
    print("no memory")
"""


def ended(*arguments: str) -> tuple[int, str]:
    done = subprocess.run([sys.executable, "-c", DEEP, *arguments], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.strip()


def test_deep_calls_where_no_memory_is_left_do_not_end_the_process() -> None:
    assert ended("64", "as it is") == (-signal.SIGSEGV, "")
    assert ended("64", "grown") == (0, "deep")


@pytest.mark.parametrize("mib", ["1", "4"])
def test_limit_without_room_for_the_stack_is_said(mib: str) -> None:
    assert ended(mib, "grown") == (0, "no memory")
