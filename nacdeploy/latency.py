"""Latency: the only module that reads a clock for results.

Subjects are timed in turns, round by round, so that a machine that slows down slows all of them; a ratio is taken
within each round. A subject is any call that returns when its work is done (a GPU call synchronises itself).
"""

import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nacdeploy.errors import UsageError, unknown

Clock = Callable[[], int]

_N_RESAMPLES = 2000
_INSTRUCTION_SETS = {
    "AVX2": {"avx2"},
    "AVX512": {"avx512f"},
    "VNNI": {"avx512_vnni", "avx_vnni"},
    "AMX": {"amx_int8"},
    "NEON": {"asimd", "neon"},
    "DOTPROD": {"asimddp"},
    "I8MM": {"i8mm"},
}


@dataclass(frozen=True)
class Latency:
    """Times of one subject over all its calls; one call handles one batch."""

    p50_ms: float
    p90_ms: float
    mean_ms: float
    throughput_per_s: float
    n_calls: int
    batch_size: int
    threads: int


@dataclass(frozen=True)
class Ratio:
    """Baseline time over subject time (more is better) and its 95 % bootstrap interval over the paired rounds."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """The latencies of subjects timed together, and their ratios to the baseline."""

    latencies: dict[str, Latency]
    ratios: dict[str, Ratio]
    baseline: str
    machine: str


def compare(
    subjects: Mapping[str, Callable[[], object]],
    *,
    baseline: str,
    batch_size: int,
    threads: int,
    n_rounds: int,
    round_ms: float,
    clock: Clock = time.perf_counter_ns,
) -> Comparison:
    """Time subjects interleaved: in each round each of them runs for about `round_ms`, in rotating order.

    `batch_size` and `threads` are recorded; the subjects hold them.

    Raises:
        UsageError: the baseline is no subject, or there are no rounds.
    """
    if baseline not in subjects:
        raise unknown("baseline", baseline, subjects)
    if n_rounds < 1:
        raise UsageError(f"n_rounds is {n_rounds}; at least one round is needed")
    n_calls = {name: _calls_per_round(call, round_ms, clock) for name, call in subjects.items()}
    times: dict[str, list[NDArray[Any]]] = {name: [] for name in subjects}
    for index in range(n_rounds):
        for name in _rotated(list(subjects), index):
            times[name].append(_time_calls(subjects[name], n_calls[name], clock))
    medians = {name: np.array([np.median(turn) for turn in rounds]) for name, rounds in times.items()}
    return Comparison(
        latencies={name: _latency(np.concatenate(times[name]), batch_size, threads) for name in subjects},
        ratios={name: _ratio(medians[baseline], medians[name]) for name in subjects},
        baseline=baseline,
        machine=machine(),
    )


def machine(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The CPU's name, the number of its cores and the instruction sets that matter to inference."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name = fields.get("model name") or platform.processor() or platform.machine()
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    present = [label for label, names in _INSTRUCTION_SETS.items() if names & flags]
    return ", ".join([name, f"{os.cpu_count()} cores", *([" ".join(present)] if present else [])])


def _calls_per_round(call: Callable[[], object], round_ms: float, clock: Clock) -> int:
    """Warm up for one round and see how many calls fit into it. The first call, which allocates, does not count."""
    call()
    n_calls, start = 0, clock()
    while True:
        call()
        n_calls += 1
        elapsed_ms = (clock() - start) / 1e6
        if elapsed_ms >= round_ms or n_calls >= 10_000:
            return max(1, round(n_calls * round_ms / max(elapsed_ms, round_ms)))


def _rotated(names: list[str], index: int) -> list[str]:
    start = index % len(names)
    return names[start:] + names[:start]


def _time_calls(call: Callable[[], object], n_calls: int, clock: Clock) -> NDArray[Any]:
    """The time of each of some calls, in ms; a clock too coarse to see a call counts it as 1 ns."""
    durations_ns = []
    for _ in range(n_calls):
        start = clock()
        call()
        durations_ns.append(max(clock() - start, 1))
    return np.array(durations_ns) / 1e6


def _latency(times_ms: NDArray[Any], batch_size: int, threads: int) -> Latency:
    p50_ms, p90_ms = (float(value) for value in np.percentile(times_ms, [50, 90]))
    mean_ms = float(times_ms.mean())
    return Latency(p50_ms, p90_ms, mean_ms, 1000 * batch_size / mean_ms, len(times_ms), batch_size, threads)


def _ratio(baseline_ms: NDArray[Any], subject_ms: NDArray[Any]) -> Ratio:
    """The median over rounds of the paired ratio; the interval by the percentile bootstrap (Efron, 1979)."""
    ratios = baseline_ms / subject_ms
    picks = np.random.default_rng(0).integers(0, len(ratios), (_N_RESAMPLES, len(ratios)))
    low, high = np.percentile(np.median(ratios[picks], axis=1), [2.5, 97.5])
    return Ratio(float(np.median(ratios)), float(low), float(high))


class Stopwatch:
    """The wall time since it was made, for records of how long a job took; never for comparing speeds."""

    def __init__(self) -> None:
        self._start_ns = time.perf_counter_ns()

    def seconds(self) -> float:
        return (time.perf_counter_ns() - self._start_ns) / 1e9
