"""P by time keeps the most importance within a time, and its answer lies at or below it: by made-up times."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import pytest
from conftest import follow, make_profile

from nacdeploy.base import records
from nacdeploy.base.errors import RefusedError, UsageError
from nacdeploy.network.network import Network
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.operators.prune import allocation, by_time, layer_times
from nacdeploy.strategies.operators.prune.by_time import Budget
from nacdeploy.strategies.operators.prune.operator import Prune, PruneDecision
from nacdeploy.strategies.state import CompressionState
from nacdeploy.strategies.steps import letters
from nacdeploy.surgery.channels import channel_groups
from nacdeploy.task import Task
from nacdeploy.task.clock import Grid, Sizes


@dataclass
class MadeUp:
    """A clock with times by formula; whole networks take `factor` times their layers, and more in floats."""

    factor: float = 1.0
    is_here: bool = True
    where: str = "a made-up machine"
    n_timed: int = 0

    def layers_ms(self, network: Network, sizes: Mapping[str, Sizes]) -> Mapping[str, Grid]:
        return {
            name: tuple(tuple(_ms(network, name, n_in, n_out) for n_out in outs) for n_in in ins)
            for name, (ins, outs) in sizes.items()
        }

    def networks_ms(self, networks: Sequence[Network], family: str = "") -> tuple[float, ...]:
        self.n_timed += len(networks)
        return tuple(self.whole_ms(network) for network in networks)

    def kept(self, family: str, precision: str) -> tuple[tuple[float, float], ...]:
        return ((2.0 * self.factor, 2.0),) if precision == "int8" else ()

    def whole_ms(self, network: Network) -> float:
        shapes = {name: layer.weight.shape for name, layer in network.layers.items()}  # type: ignore[union-attr]
        return self.factor * sum(_ms(network, name, shape[1], shape[0]) for name, shape in shapes.items())


def _ms(network: Network, name: str, n_in: int, n_out: int) -> float:
    return (0.01 + n_in * n_out / 1000) / (4 if name in network.plan.weight_bits else 1)


@pytest.fixture
def clock() -> MadeUp:
    return MadeUp()


def decided(state: CompressionState, task: Task, clock: MadeUp, **prune: object) -> PruneDecision:
    operator = Prune.configure(make_profile(prune=prune), {})
    return operator.decide(state, replace(task, clock=clock))


@pytest.mark.parametrize("factor", [1.0, 1.3, 0.8])
@pytest.mark.parametrize("scope", ["global", "uniform"])
def test_cut_network_takes_at_most_the_time(factor: float, scope: str, baseline: CompressionState, task: Task) -> None:
    clock = MadeUp(factor)
    decision = decided(baseline, task, clock, time=0.5, scope=scope, multiple=1)
    cut = Prune.configure(make_profile(), {}).perform(baseline.network, decision)
    now_ms, before_ms = clock.whole_ms(cut), clock.whole_ms(baseline.network)
    assert decision.timed is not None
    assert decision.timed.measured_ms == pytest.approx(now_ms)
    assert now_ms <= 0.5 * before_ms
    assert now_ms >= (0.95 if scope == "global" else 0.8) * 0.5 * before_ms


def test_time_is_corrected_where_whole_networks_differ_from_their_layers(
    baseline: CompressionState, task: Task
) -> None:
    class Slower(MadeUp):
        def whole_ms(self, network: Network) -> float:
            real = super().whole_ms(network)
            return real if real > 1.5 or real < 0.3 else 1.3 * real  # of what lies in between the table knows nothing

    clock = Slower()
    decision = decided(baseline, task, clock, time=0.4, multiple=1)
    timed = decision.timed
    assert timed is not None and timed.measured_ms is not None
    assert 0.9 * timed.asked_ms <= timed.measured_ms <= timed.asked_ms


def test_least_widths_answer_where_the_table_finds_nothing_else(baseline: CompressionState, task: Task) -> None:
    """Every network but those that the table was fitted on is slower than their layers say: only the least is within
    the time, and a range that names it is kept to."""
    found, honest = channel_groups.groups(baseline.network), MadeUp()
    family = [by_time.cut_to(baseline.network, found, widths, 1) for widths in by_time._family(found, 1)]
    known = [honest.whole_ms(network) for network in (baseline.network, *family)]

    class Slower(MadeUp):
        def whole_ms(self, network: Network) -> float:
            real = super().whole_ms(network)
            return real if any(abs(real - each) < 1e-9 for each in known) else 1.5 * real

    least_ms = min(known)
    timed = decided(baseline, task, Slower(), target_ms=1.1 * least_ms, multiple=1).timed
    assert timed is not None and timed.measured_ms == pytest.approx(least_ms)


def test_fastest_network_need_not_be_the_smallest(baseline: CompressionState, task: Task) -> None:
    """One unit is slower than two, as where kernels take blocks of two units: times down to the fastest are kept."""

    class Blocks(MadeUp):
        def layers_ms(self, network: Network, sizes: Mapping[str, Sizes]) -> Mapping[str, Grid]:
            grids = super().layers_ms(network, sizes)
            return {
                name: tuple(
                    tuple(ms + slower(n_out) for ms, n_out in zip(row, sizes[name][1], strict=True)) for row in grid
                )
                for name, grid in grids.items()
            }

        def whole_ms(self, network: Network) -> float:
            shapes = [layer.weight.shape for layer in network.layers.values()]  # type: ignore[union-attr]
            return super().whole_ms(network) + sum(slower(shape[0]) for shape in shapes)

    def slower(n_out: int) -> float:
        return 0.5 if n_out == 2 else 0.0

    network, found, clock = baseline.network, channel_groups.groups(baseline.network), Blocks()
    times = layer_times.measured(network, found, 2, clock)
    widths = allocation.fastest(found, times, 2)
    smallest = {group.root: layer_times.widths_of(group, 2)[0] for group in found}
    assert set(widths.values()) == {4} and set(smallest.values()) == {2}
    fastest_ms = clock.whole_ms(by_time.cut_to(network, found, widths, 2))
    timed = decided(baseline, task, clock, target_ms=1.02 * fastest_ms, multiple=2).timed
    assert timed is not None and timed.measured_ms is not None and timed.measured_ms <= timed.asked_ms
    assert timed.asked_ms < clock.whole_ms(by_time.cut_to(network, found, smallest, 2))


def test_allocation_loses_the_least_importance_of_all(baseline: CompressionState, clock: MadeUp) -> None:
    network = baseline.network
    found = channel_groups.groups(network)[:4]
    times = layer_times.measured(network, found, 2, clock)
    every = {group.root: layer_times.widths_of(group, 2) for group in found}

    def lost(widths: Mapping[str, int]) -> float:
        return sum(allocation.loss(group, widths[group.root]) for group in found)

    for share in (0.4, 0.6, 0.9):
        most = share * times.sum_ms(times.now)
        grid = (dict(zip(every, widths, strict=True)) for widths in product(*every.values()))
        best = min(lost(widths) for widths in grid if times.sum_ms(widths) <= most)
        answer = allocation.allocated(found, times, 2, most)
        assert answer is not None
        assert times.sum_ms(answer) <= most
        assert lost(answer) == pytest.approx(best, rel=1e-3)


def test_sum_of_layers_is_that_of_the_cut_network(baseline: CompressionState, clock: MadeUp) -> None:
    network, found = baseline.network, channel_groups.groups(baseline.network)
    times = layer_times.measured(network, found, 2, clock)
    for widths in by_time._family(found, 2):
        cut = by_time.cut_to(network, found, widths, 2)
        assert times.sum_ms(widths) == pytest.approx(clock.whole_ms(cut), rel=0.02)


@pytest.mark.parametrize(("word", "precision"), [("P", "float32"), ("QP", "int8")])
def test_time_is_that_of_the_precision_the_network_has(
    word: str, precision: str, baseline: CompressionState, task: Task, clock: MadeUp
) -> None:
    state = follow(baseline, word[:-1], task, make_profile())
    decision = decided(state, task, clock, time=0.6)
    assert decision.timed is not None and decision.timed.precision == precision


def test_time_is_that_of_integers_where_a_q_comes(baseline: CompressionState, task: Task, clock: MadeUp) -> None:
    decision = decided(baseline, task, clock, time=0.6, runs_as="int8")
    assert decision.timed is not None
    assert (decision.timed.precision, decision.timed.before_ms < clock.whole_ms(baseline.network)) == ("int8", True)


@pytest.mark.parametrize("prune", [{"time": 0.001}, {"target_ms": 1e-4}, {"target_ms": 1e4}])
def test_time_out_of_reach_names_the_range(
    prune: dict[str, float], baseline: CompressionState, task: Task, clock: MadeUp
) -> None:
    with pytest.raises(RefusedError, match=r"asks for .* ms, and cutting channels reaches .* to .* ms here"):
        decided(baseline, task, clock, **prune)


def test_table_of_another_machine_decides_without_timing(baseline: CompressionState, task: Task) -> None:
    clock = MadeUp(factor=3.0, is_here=False)
    decision = decided(baseline, task, clock, time=0.5, runs_as="int8")
    assert decision.timed is not None
    assert (decision.timed.measured_ms, clock.n_timed) == (None, 0)
    assert decision.timed.expected_ms <= decision.timed.asked_ms
    with pytest.raises(RefusedError, match="holds no whole network in float32"):
        decided(baseline, task, clock, time=0.5)


def test_letter_s_own_measure_stands_in_place_of_the_profile_s() -> None:
    by_budget = make_profile(prune={"target_ms": 2.0})
    assert Prune.configure(by_budget, {}).table.target_ms == 2.0
    assert Prune.configure(by_budget, {"time": 0.5}).table.target_ms is None
    assert not Prune.configure(by_budget, {"ratio": 0.5}).is_by_time
    with pytest.raises(UsageError, match="give one of them"):
        Prune.configure(make_profile(), {"time": 0.5, "target_ms": 1.0})


@pytest.mark.parametrize(
    ("letter", "said"),
    [
        ("P(ratio=0.2,time=0.5)", "P\\(ratio, time\\): .*give one of them"),
        ("P(latency_table=lat.json,time=0.9)", "'latency_table' holds for every letter of a chain"),
    ],
)
def test_letter_with_what_it_would_not_follow_is_refused(letter: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        letters.make(Chain.parse(letter).links[0], make_profile())


def test_without_a_time_no_record_names_one() -> None:
    assert set(make_profile().model_dump()["prune"]) == {
        "ratio",
        "multiple",
        "scope",
        "ratios",
        "importance",
        "reconstruct",
        "n_calibration",
    }


def test_decision_survives_its_file(baseline: CompressionState, task: Task, clock: MadeUp) -> None:
    decision = decided(baseline, task, clock, time=0.5)
    assert records.from_data(PruneDecision, records.to_data(decision)) == decision
    said = Prune.configure(make_profile(prune={"time": 0.5}), {}).explain(decision)
    assert "ms left in FP32 (measured, the table expected" in said


def test_without_a_clock_it_says_so(baseline: CompressionState, task: Task) -> None:
    with pytest.raises(RefusedError, match="needs a clock"):
        Prune.configure(make_profile(prune={"time": 0.5}), {}).decide(baseline, task)


def test_budget_is_a_share_or_a_time() -> None:
    assert Budget(0.5, None).asked_ms(4.0) == 2.0
    assert Budget(None, 3.0).asked_ms(4.0) == 3.0


class Steep(MadeUp):
    """Whole networks take more than their layers, by a power that no table tells."""

    def whole_ms(self, network: Network) -> float:
        return super().whole_ms(network) ** 4


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_time_asked_for_is_met_where_the_table_is_far_from_the_truth(
    baseline: CompressionState, task: Task, share: float
) -> None:
    timed = decided(baseline, task, Steep(), time=share, multiple=1).timed
    assert timed is not None and timed.measured_ms is not None
    assert 0.93 * timed.asked_ms <= timed.measured_ms <= timed.asked_ms
