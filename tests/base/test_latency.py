"""Interleaved timing, on a clock that the subjects advance: no test depends on the machine's speed."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from nacdeploy.base.errors import UsageError
from nacdeploy.base.latency import Comparison, Subject, compare, is_stable, machine


class Bench:
    """A clock in ns, and subjects that take the time they are told; `log` holds the order of the calls."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.log: list[str] = []

    def clock(self) -> int:
        return self.now_ns

    def subject(self, name: str, duration_ms: Callable[[], float]) -> Callable[[], None]:
        def call() -> None:
            self.log.append(name)
            self.now_ns += int(duration_ms() * 1e6)

        return call

    def compare(self, n_rounds: int = 6, round_ms: float = 20, **durations_ms: Callable[[], float]) -> Comparison:
        subjects = {name: self.subject(name, duration) for name, duration in durations_ms.items()}
        return compare(
            subjects,
            baseline=next(iter(subjects)),
            batch_size=4,
            threads=1,
            n_rounds=n_rounds,
            round_ms=round_ms,
            clock=self.clock,
        )


def test_compare_reports_times_and_ratios() -> None:
    found = Bench().compare(slow=lambda: 10.0, fast=lambda: 2.0)
    fast = found.latencies["fast"]
    assert (fast.p50_ms, fast.p90_ms, fast.mean_ms) == pytest.approx((2.0, 2.0, 2.0))
    assert fast.throughput_per_s == pytest.approx(2000)
    assert (fast.batch_size, fast.threads, fast.n_calls) == (4, 1, 60)
    ratio = found.ratios["fast"]
    assert (ratio.low, ratio.value, ratio.high) == pytest.approx((5.0, 5.0, 5.0))
    assert found.ratios["slow"].value == 1.0


def test_compare_keeps_the_ratio_when_the_machine_slows_down() -> None:
    bench = Bench()

    def slowdown() -> float:
        return 1 + bench.now_ns / 1e9

    found = bench.compare(20, 20, slow=lambda: 10 * slowdown(), fast=lambda: 2 * slowdown())
    latency = found.latencies["fast"]
    assert latency.p90_ms > 1.2 * latency.p50_ms
    assert found.ratios["fast"].value == pytest.approx(5.0, rel=0.05)


def test_compare_interval_holds_the_ratio_and_is_the_same_each_time() -> None:
    def noisy() -> Comparison:
        durations = iter(range(10**6))
        return Bench().compare(12, 5, slow=lambda: 10.0, fast=lambda: 2.0 + (next(durations) % 7) / 10)

    first, second = noisy(), noisy()
    ratio = first.ratios["fast"]
    assert first == second
    assert ratio.low < ratio.value < ratio.high


def test_compare_rotates_the_order_in_each_round() -> None:
    bench = Bench()
    bench.compare(3, 1, a=lambda: 1.0, b=lambda: 1.0, c=lambda: 1.0)
    assert "".join(bench.log[-9:]) == "abcbcacab"


def test_compare_calls_each_subject_about_round_ms_per_round() -> None:
    found = Bench().compare(2, 20, slow=lambda: 50.0, fast=lambda: 0.5)
    assert found.latencies["slow"].n_calls == 2
    assert found.latencies["fast"].n_calls == 2 * 40


def test_compare_survives_a_clock_that_sees_no_time_pass() -> None:
    found = Bench().compare(1, 1, nothing=lambda: 0.0)
    assert found.latencies["nothing"].p50_ms == pytest.approx(1e-6)


def test_device_times_are_taken_in_the_same_rounds_and_shown_apart() -> None:
    bench = Bench()
    copies = {"slow": 9.0, "fast": 1.5}
    subjects = {
        name: Subject(bench.subject(name, lambda ms=ms: ms + 1), lambda ms=ms: ms) for name, ms in copies.items()
    }
    subjects["cpu"] = Subject(bench.subject("cpu", lambda: 4.0))
    found = compare(subjects, baseline="slow", batch_size=1, threads=1, n_rounds=4, round_ms=20, clock=bench.clock)
    assert found.ratios["fast"].value == pytest.approx(10 / 2.5)
    assert found.device_ratios["fast"].value == pytest.approx(9 / 1.5)
    assert found.device_latencies["slow"].p50_ms == pytest.approx(9.0)
    assert found.device_latencies.keys() == {"slow", "fast"} and "cpu" in found.latencies


def test_device_ratios_are_left_out_where_the_baseline_tells_no_device_time() -> None:
    bench = Bench()
    subjects = {
        "cpu": bench.subject("cpu", lambda: 4.0),
        "gpu": Subject(bench.subject("gpu", lambda: 2.0), lambda: 1.0),
    }
    found = compare(subjects, baseline="cpu", batch_size=1, threads=1, n_rounds=3, round_ms=5, clock=bench.clock)
    assert found.device_ratios == {} and found.device_latencies.keys() == {"gpu"}


@pytest.mark.parametrize(
    ("times_ms", "stable"),
    [
        ([5.0] * 9, False),
        ([5.0] * 10, True),
        ([9.0, 8.0, 7.0, 6.5, 6.0, 5.5, 5.2, 5.1, 5.0, 5.0], False),
        ([9.0, 8.0] + [5.0] * 10, True),
        ([5.0, 5.0, 50.0, 5.0, 5.0, 5.0, 5.05, 70.0, 5.05, 5.0], True),
    ],
    ids=["too few", "constant", "still falling", "settled", "with outliers"],
)
def test_times_are_stable_when_their_median_stands(times_ms: list[float], stable: bool) -> None:
    assert is_stable(times_ms) is stable


def test_compare_warms_up_until_the_times_are_stable() -> None:
    durations = iter([40.0, *(20.0 - i for i in range(15)), *[5.0] * 10**6])
    bench = Bench()
    found = bench.compare(2, 20, only=lambda: next(durations))
    assert found.latencies["only"].p90_ms == pytest.approx(5.0)


def test_compare_does_not_warm_up_without_end() -> None:
    bench = Bench()
    bench.compare(1, 10, growing=lambda: 1.0 + bench.now_ns / 1e7)
    assert bench.now_ns < 1e9


@pytest.mark.parametrize(("baseline", "n_rounds", "message"), [("c", 3, "unknown baseline 'c'"), ("a", 0, "one round")])
def test_compare_refuses_what_it_cannot_compare(baseline: str, n_rounds: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        compare({"a": lambda: 1}, baseline=baseline, batch_size=1, threads=1, n_rounds=n_rounds, round_ms=1)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("model name\t: Some CPU @ 2GHz\nflags\t\t: fpu avx2 avx512f avx512_vnni\n", ("Some CPU", "AVX2 AVX512 VNNI")),
        ("model name\t: Old CPU\nflags\t\t: fpu sse2\n", ("Old CPU", "cores")),
        ("CPU part\t: 0xd40\nFeatures\t: fp asimd asimddp i8mm\n", ("cores", "NEON DOTPROD I8MM")),
    ],
)
def test_machine_names_the_cpu_and_what_matters(tmp_path: Path, content: str, expected: tuple[str, str]) -> None:
    (tmp_path / "cpuinfo").write_text(content)
    text = machine(tmp_path / "cpuinfo")
    assert text.startswith(expected[0]) or expected[0] in text
    assert text.endswith(expected[1])


def test_machine_works_without_cpuinfo(tmp_path: Path) -> None:
    assert "cores" in machine(tmp_path / "none")


def test_calls_that_vary_are_compared_by_their_means() -> None:
    """Three of four calls of the cascade take 1, the fourth takes 9: its mean is 3, its median 1."""
    now = [0]

    def clock() -> int:
        return now[0]

    def steady() -> None:
        now[0] += 6_000_000

    lengths = itertools.cycle([1, 1, 1, 9])

    def varying() -> None:
        now[0] += 1_000_000 * next(lengths)

    subjects = {"whole": Subject(steady), "cascade": Subject(varying, varies=True)}
    found = compare(subjects, baseline="whole", batch_size=1, threads=1, n_rounds=4, round_ms=40, clock=clock)
    assert found.ratios["cascade"].value == pytest.approx(2, rel=0.1)
    assert found.turn_ms["cascade"] == pytest.approx(3, rel=0.1)
    assert found.latencies["cascade"].p50_ms == 1
