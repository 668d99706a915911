"""One network in a process of its own: `python -m benchmarks.foreign.child MODEL SIZE GRID EVENTS COLUMN...`.

Every column begins and ends with a line of JSON in the file EVENTS: who watches this process knows what it was at when
it is killed.
"""

import ctypes
import json
import math
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.foreign import rows, static
from nacdeploy.base.errors import NacdeployError
from nacdeploy.testing import right
from nacdeploy.testing.foreign import Foreign, foreign
from nacdeploy.testing.right import Found

Check = Callable[[Foreign], Found]
MAX_REASON = 400
PR_SET_PDEATHSIG = 1
WATCHER = "COVERAGE_WATCHER"  # the process that this one is watched by


def main(model: str, size: str, grid: str, events: str, *columns: str) -> None:
    """Build the network, then try one column after another."""
    _die_with_the_watcher()
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    file = Path(events)
    made: list[Foreign] = []

    def build() -> Found:
        made.append(foreign(model, int(size), grid=grid))
        return built(made[0])

    is_built = _tried(file, "built", build)
    if is_built and made:
        compared = static.reference(made[0])
        for column in columns:
            if column != "built":
                _tried(file, column, partial(checks(compared)[column], made[0]))


def _die_with_the_watcher() -> None:
    """Leave nothing behind where the process that watches this one is killed, now or before."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.environ.get(WATCHER) not in (None, str(os.getppid())):
        sys.exit(1)


def checks(compared: right.Reference) -> dict[str, Check]:
    """What fills each column."""
    return {
        "captured": right.check_captured,
        "P": right.check_prune,
        "Q": partial(right.check_quantize, reference=compared),
        "S": right.check_sparsify,
        "D": right.check_decompose,
        "E": right.check_exits,
        "QPF": right.check_chain,
        "export": partial(right.check_export, reference=compared),
        "trt": right.check_engine,
        "PQ": partial(right.check_prune_quantize, reference=compared),
    }


def built(made: Foreign) -> Found:
    """The network answers with finite numbers that differ from image to image; `spread` is their part of the whole."""
    answers = made.answers().double()
    figures = {
        "parameters": sum(p.numel() for p in made.original.parameters()),
        "spread": float((answers - answers.mean(0)).norm() / answers.norm()),
    }
    is_finite = bool(torch.isfinite(answers).all())
    return Found("right" if is_finite else "wrong", "" if is_finite else "an answer is not finite", figures)


def _tried(file: Path, column: str, check: Callable[[], Found]) -> bool:
    """Whether the check came to its end."""
    _tell(file, {"begin": column})
    _reset_peak()
    begin = time.perf_counter()
    outcome, reason, figures = _outcome(check)
    seconds = time.perf_counter() - begin
    figures = {key: float(value) for key, value in figures.items() if math.isfinite(value)}
    told = {"outcome": outcome, "reason": reason[:MAX_REASON], "seconds": round(seconds, 2), "figures": figures}
    _tell(file, {"end": column, "peak_mib": round(_peak_mib(), 1), **told})
    return outcome in (rows.RIGHT, rows.WRONG)


def _outcome(check: Callable[[], Found]) -> tuple[str, str, dict[str, Any]]:
    try:
        found = check()
    except NacdeployError as error:
        is_unexpected = type(error).__name__ == "UnexpectedError"
        return rows.UNEXPECTED if is_unexpected else rows.REFUSED, _line(error), {}
    except MemoryError as error:
        return rows.MEMORY, _line(error), {}
    except Exception as error:
        traceback.print_exc()
        return rows.TRACEBACK, f"{_place(error)}: {type(error).__name__}: {_line(error)}", {}
    return found.outcome, found.reason, found.figures


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _place(error: BaseException) -> str:
    """The last line of the package that an exception came through."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "nacdeploy" in Path(frame.filename).parts] or frames
    return f"{Path(own[-1].filename).name}:{own[-1].lineno}"


def _tell(file: Path, event: dict[str, Any]) -> None:
    with file.open("a", encoding="utf-8") as opened:
        opened.write(json.dumps(event) + "\n")


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM back


def _peak_mib() -> float:
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))


if __name__ == "__main__":
    main(*sys.argv[1:])
