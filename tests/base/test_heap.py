"""Freed memory goes back to the system."""

from pathlib import Path

import numpy as np

from nacdeploy.base import heap

PIECE = 8 * 2**20  # bytes: glibc would keep it once pieces of this size were freed


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_freed_pieces_are_returned_at_once() -> None:
    np.ones(3 * PIECE, np.uint8)  # freed at once: from now on glibc would hold pieces up to this size
    with heap.frugal():
        before = resident()
        pieces = [np.ones(PIECE, np.uint8) for _ in range(20)]
        last = pieces[-1]
        held = resident() - before
        del pieces
        left = resident() - before
    assert held >= 19 * PIECE and left <= 3 * PIECE and last[0] == 1
