"""Latency: the only module that reads a clock for results.

Subjects are timed in turns, round by round, so that a machine that slows down slows all subjects; a ratio is taken
within each round. A subject is a call that returns when its work is done (a GPU call synchronises itself). A subject on
a GPU may also measure the time of the device alone; those times are taken in the same rounds and shown apart.
"""

import os
import platform
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nacdeploy.base.errors import UsageError, unknown

Clock = Callable[[], int]

_N_RESAMPLES = 2000
_CALLS_OF_FASTEST = 5
_WARM_UP_ROUNDS = 10  # at most so many times round_ms
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
class Subject:
    """A call to be timed.

    Attributes:
        run: the call end to end, with copies to and from a device.
        device_ms: runs once on the device and returns the device's own time in ms; None on a CPU.
        varies: whether calls do different work, so that the mean of a turn counts and not its median.
    """

    run: Callable[[], object]
    device_ms: Callable[[], float] | None = None
    varies: bool = False


@dataclass(frozen=True)
class Latency:
    """The times of one subject over all its calls; one call handles one batch."""

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

    def __str__(self) -> str:
        return f"{self.value:.2f}x ({self.low:.2f}-{self.high:.2f})"


@dataclass(frozen=True)
class Comparison:
    """The latencies of subjects that were timed together, and their ratios to the baseline.

    Attributes:
        device_latencies: the device's own times, of the subjects that measure them.
        device_ratios: the ratios of the device's own times.
        turn_ms: the median over the rounds of what a turn took: its median call, or its fastest.
    """

    latencies: dict[str, Latency]
    ratios: dict[str, Ratio]
    baseline: str
    machine: str
    device_latencies: dict[str, Latency] = field(default_factory=dict)
    device_ratios: dict[str, Ratio] = field(default_factory=dict)
    turn_ms: dict[str, float] = field(default_factory=dict)


def compare(
    subjects: Mapping[str, Callable[[], object] | Subject],
    *,
    baseline: str,
    batch_size: int,
    threads: int,
    n_rounds: int,
    round_ms: float,
    fastest: bool = False,
    clock: Clock = time.perf_counter_ns,
) -> Comparison:
    """Time subjects interleaved: in each round each of them runs for about `round_ms`, in rotating order.

    `batch_size` and `threads` are recorded; the subjects hold them. A ratio compares the median calls of two turns;
    with `fastest` their fastest of at least a few, so that what other processes take away does not count. The means of
    both are compared where the calls of a subject vary.

    Raises:
        UsageError: the baseline is no subject, or there are no rounds.
    """
    if baseline not in subjects:
        raise unknown("baseline", baseline, subjects)
    if n_rounds < 1:
        raise UsageError(f"n_rounds is {n_rounds}; at least one round is needed")
    timers = {name: _timer(subject, clock) for name, subject in subjects.items()}
    device = {name: s.device_ms for name, s in subjects.items() if isinstance(s, Subject) and s.device_ms is not None}
    least = _CALLS_OF_FASTEST if fastest else 1
    n_calls = {name: max(least, _warm_up(timer, round_ms)) for name, timer in timers.items()}
    of_turn = np.min if fastest else np.median
    varying = {name for name, subject in subjects.items() if isinstance(subject, Subject) and subject.varies}
    times: dict[str, list[NDArray[Any]]] = {name: [] for name in subjects}
    device_times: dict[str, list[NDArray[Any]]] = {name: [] for name in device}
    for index in range(n_rounds):
        for name in _rotated(list(subjects), index):
            times[name].append(_times(timers[name], n_calls[name]))
            if name in device:
                device_times[name].append(_times(device[name], n_calls[name]))
    return Comparison(
        latencies={name: _latency(np.concatenate(times[name]), batch_size, threads) for name in times},
        ratios=_ratios(times, baseline, of_turn, varying),
        baseline=baseline,
        machine=machine(),
        device_latencies={
            n: _latency(np.concatenate(rounds), batch_size, threads) for n, rounds in device_times.items()
        },
        device_ratios=_ratios(device_times, baseline, of_turn),
        turn_ms={
            name: float(np.median([(np.mean if name in varying else of_turn)(turn) for turn in times[name]]))
            for name in times
        },
    )


def is_stable(times_ms: Sequence[float], window: int = 5, tolerance: float = 0.02) -> bool:
    """Tell whether the median of the last `window` times lies within `tolerance` (a fraction) of the median of the
    `window` times before."""
    if len(times_ms) < 2 * window:
        return False
    before, last = np.median(times_ms[-2 * window : -window]), np.median(times_ms[-window:])
    return bool(abs(last - before) <= tolerance * before)


def machine(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the CPU's name, the number of its cores and the instruction sets that matter to inference."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name = fields.get("model name") or platform.processor() or platform.machine()
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    present = [label for label, names in _INSTRUCTION_SETS.items() if names & flags]
    return ", ".join([name, f"{os.cpu_count()} cores", *([" ".join(present)] if present else [])])


def _timer(subject: Callable[[], object] | Subject, clock: Clock) -> Callable[[], float]:
    """Return a function that makes one call and returns the call's time in ms, at least 1 ns on a coarse clock."""
    call = subject.run if isinstance(subject, Subject) else subject

    def timed_ms() -> float:
        start = clock()
        call()
        return max(clock() - start, 1) / 1e6

    return timed_ms


def _warm_up(timer: Callable[[], float], round_ms: float) -> int:
    """Call until the times are stable, for at least one round and a limited number; return how many calls fit into a
    round.

    The first call, which allocates, does not count.
    """
    timer()
    times: list[float] = []
    while len(times) < 10_000 and sum(times) < _WARM_UP_ROUNDS * round_ms:
        times.append(timer())
        if sum(times) >= round_ms and is_stable(times):
            break
    return min(max(1, round(round_ms / float(np.median(times[-5:])))), 10_000)


def _rotated(names: list[str], index: int) -> list[str]:
    start = index % len(names)
    return names[start:] + names[:start]


def _times(timer: Callable[[], float], n_calls: int) -> NDArray[Any]:
    return np.array([timer() for _ in range(n_calls)])


def _latency(times_ms: NDArray[Any], batch_size: int, threads: int) -> Latency:
    p50_ms, p90_ms = (float(value) for value in np.percentile(times_ms, [50, 90]))
    mean_ms = float(times_ms.mean())
    return Latency(p50_ms, p90_ms, mean_ms, 1000 * batch_size / mean_ms, len(times_ms), batch_size, threads)


def _ratios(
    times: Mapping[str, list[NDArray[Any]]],
    baseline: str,
    of_turn: Callable[[NDArray[Any]], Any],
    varying: Collection[str] = (),
) -> dict[str, Ratio]:
    """Return the ratios of what the rounds' turns took to the baseline's, if the baseline was timed."""
    if baseline not in times:
        return {}

    def turns(name: str, by: Callable[[NDArray[Any]], Any]) -> NDArray[Any]:
        return np.array([by(turn) for turn in times[name]])

    ways = {name: np.mean if {name, baseline} & {*varying} else of_turn for name in times}
    return {name: _ratio(turns(baseline, by), turns(name, by)) for name, by in ways.items()}


def _ratio(baseline_ms: NDArray[Any], subject_ms: NDArray[Any]) -> Ratio:
    """Return the median over rounds of the paired ratio; the interval by the percentile bootstrap (Efron, 1979)."""
    ratios = baseline_ms / subject_ms
    picks = np.random.default_rng(0).integers(0, len(ratios), (_N_RESAMPLES, len(ratios)))
    low, high = np.percentile(np.median(ratios[picks], axis=1), [2.5, 97.5])
    return Ratio(float(np.median(ratios)), float(low), float(high))


class Stopwatch:
    """The wall time since the stopwatch was made, for records of how long a job took; never for comparing speeds."""

    def __init__(self) -> None:
        self._start_ns = time.perf_counter_ns()

    def seconds(self) -> float:
        return (time.perf_counter_ns() - self._start_ns) / 1e9
