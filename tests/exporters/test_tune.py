"""Precision by measured time, on a clock that is a cost model: what is found follows from the costs alone."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import onnx
import pytest
from explained import Attention
from small_networks import BranchOnShape, Depthwise, Residual, network, quantized
from torch import nn

from nacdeploy.base import records
from nacdeploy.base.errors import NacdeployError
from nacdeploy.base.latency import Comparison, Ratio
from nacdeploy.exporters.onnx_graph.trace import Traced, lower, trace
from nacdeploy.exporters.speed_guard import Guarded, guarded, speed_note
from nacdeploy.exporters.targets.ort.runner import OnnxRunner
from nacdeploy.exporters.targets.timing import timer
from nacdeploy.exporters.tune import Measurements, Names, Precisions, Tuner, member_kinds, with_float
from nacdeploy.network.network import Network
from nacdeploy.profile.tables.deployment import BenchTable

LAYER = "layers."
NETWORKS: dict[str, tuple[Network, Traced]] = {}


def prepared(backbone: Callable[[], nn.Module]) -> tuple[Network, Traced]:
    """A quantized network and its trace, made once; no test changes them."""
    name = backbone.__name__  # type: ignore[attr-defined]
    if name not in NETWORKS:
        made = quantized(network(backbone()))
        NETWORKS[name] = made, trace(made, 20)
    return NETWORKS[name]


@dataclass
class Clock:
    """A timer whose times are read from the models: a cost for each layer by its precision, one for each tensor that
    is quantized. It stops, as if killed, after `n_calls`."""

    integer_ms: Mapping[str, float]
    float_ms: float = 10.0
    boundary_ms: float = 0.0
    n_calls: int | None = None
    called: int = field(default=0, init=False)

    def __call__(self, models: Mapping[str, bytes], baseline: str) -> Comparison:
        if self.called == self.n_calls:
            raise KeyboardInterrupt
        self.called += 1
        times = {name: self.time_ms(model) for name, model in models.items()}
        ratios = {name: Ratio(*[times[baseline] / time] * 3) for name, time in times.items()}
        return Comparison({}, ratios, baseline, "a cost model")

    def time_ms(self, model: bytes) -> float:
        graph = onnx.load_model_from_string(model).graph
        weights = [tensor.name.removeprefix(LAYER) for tensor in graph.initializer if tensor.name.startswith(LAYER)]
        integers = [name.removesuffix(".weight_q") for name in weights if name.endswith(".weight_q")]
        floats = [name for name in weights if name.endswith(".weight")]
        n_boundaries = sum(node.op_type == "QuantizeLinear" for node in graph.node)
        spent = sum(self.integer_ms.get(layer, 5.0) for layer in integers) + self.float_ms * len(floats)
        return spent + self.boundary_ms * n_boundaries

    def of(self, backbone: Callable[[], nn.Module], floats: Names) -> float:
        made, traced = prepared(backbone)
        return self.time_ms(lower(traced, with_float(made, floats)).model)


def tuner(backbone: Callable[[], nn.Module], clock: Clock, path: Path | None = None) -> Tuner:
    made, traced = prepared(backbone)
    return Tuner(made, traced, clock, Measurements(path))


def choices(backbone: Callable[[], nn.Module]) -> list[Names]:
    """Every subset of the members."""
    members = sorted(member_kinds(prepared(backbone)[0]))
    return [frozenset(c) for n in range(len(members) + 1) for c in itertools.combinations(members, n)]


def guard(
    backbone: Callable[[], nn.Module], clock: Clock, *, autotune: bool = False, path: Path | None = None
) -> Guarded:
    made, traced = prepared(backbone)
    return guarded(made, traced, clock, target="ort", autotune=autotune, measurements=path, report=lambda line: None)


# --- what is found -----------------------------------------------------------------------------------------------

COSTS: list[dict[str, float]] = [
    {},
    {"conv1": 12.0},
    {"stem.0": 30.0, "classifier": 11.0},
    {"conv1": 12.0, "conv2": 12.0, "stem.0": 3.0},
]


@pytest.mark.parametrize("costs", COSTS)
def test_tuner_finds_the_fastest_of_all_choices_where_layers_do_not_disturb_each_other(
    costs: dict[str, float],
) -> None:
    clock = Clock(costs)
    found = tuner(Residual, clock).tuned()
    assert found == {layer for layer, integer_ms in costs.items() if integer_ms > clock.float_ms}
    assert clock.of(Residual, found) == min(clock.of(Residual, choice) for choice in choices(Residual))


@pytest.mark.parametrize("boundary_ms", [0.5, 2.0, 4.0, 20.0])
@pytest.mark.parametrize("costs", COSTS)
@pytest.mark.parametrize("backbone", [Residual, Depthwise], ids=lambda each: each.__name__)
def test_no_single_change_is_faster_and_all_float_is_not(
    backbone: Callable[[], nn.Module], costs: dict[str, float], boundary_ms: float
) -> None:
    """Boundaries make layers depend on each other: what greedy promises is that it stops on no slope."""
    clock = Clock(costs, boundary_ms=boundary_ms)
    found = tuner(backbone, clock).tuned()
    members = frozenset(member_kinds(prepared(backbone)[0]))
    flips = [found ^ {member} for member in members]
    assert clock.of(backbone, found) <= min(clock.of(backbone, choice) for choice in (*flips, members, frozenset()))


def test_a_layer_kind_that_never_pays_goes_to_float_as_a_whole() -> None:
    assert tuner(Depthwise, Clock({"depthwise": 40.0})).tuned() == {"depthwise"}


def test_products_of_attention_are_chosen_too() -> None:
    class Costly(Clock):
        """Quantized products cost more than anything else: they have boundaries that no layer needs."""

        def time_ms(self, model: bytes) -> float:
            graph = onnx.load_model_from_string(model).graph
            made_by = {name: node.op_type for node in graph.node for name in node.output}
            products = [n for n in graph.node if n.op_type == "MatMul" and not any(LAYER in i for i in n.input)]
            return super().time_ms(model) + 9.0 * sum(made_by[node.input[0]] == "DequantizeLinear" for node in products)

    kinds = member_kinds(prepared(Attention)[0])
    assert tuner(Attention, Costly({})).tuned() == {name for name, kind in kinds.items() if kind == "product"}


def test_everything_is_float_where_integers_never_pay() -> None:
    clock = Clock({}, float_ms=1.0)
    assert tuner(Residual, clock).tuned() == member_kinds(prepared(Residual)[0]).keys()


def test_noise_changes_nothing() -> None:
    """A flip whose interval holds 1 is left."""

    class Noisy(Clock):
        def __call__(self, models: Mapping[str, bytes], baseline: str) -> Comparison:
            made = super().__call__(models, baseline)
            ratios = {name: Ratio(r.value * 1.01, r.value * 0.98, r.value * 1.04) for name, r in made.ratios.items()}
            return Comparison({}, ratios, baseline, "a noisy cost model")

    assert tuner(Residual, Noisy({"conv1": 10.2}, float_ms=10.0)).tuned() == frozenset()


def test_network_without_a_graph_is_tuned_by_its_layers() -> None:
    assert tuner(BranchOnShape, Clock({"conv2": 30.0})).tuned() == {"conv2"}


def test_all_float_is_never_timed_against_itself() -> None:
    found = tuner(Residual, Clock({}))
    assert found.speed(found.members) == Ratio(1.0, 1.0, 1.0)
    assert found.measured.ratios == {}


# --- measurements are kept ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_calls", [1, 3, 6])
def test_stopped_tuning_goes_on_without_measuring_again(n_calls: int, tmp_path: Path) -> None:
    costs, path = {"conv1": 12.0, "stem.0": 30.0}, tmp_path / "times.json"
    whole = Clock(costs, boundary_ms=1.0)
    expected = tuner(Residual, whole).tuned()
    stopped, resumed = Clock(costs, boundary_ms=1.0, n_calls=n_calls), Clock(costs, boundary_ms=1.0)
    with pytest.raises(KeyboardInterrupt):
        tuner(Residual, stopped, path).tuned()
    assert tuner(Residual, resumed, path).tuned() == expected
    assert stopped.called + resumed.called == whole.called


def test_finished_tuning_is_repeated_from_its_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "times.json"
    first = tuner(Residual, Clock({"conv1": 12.0}), path).tuned()
    assert tuner(Residual, Clock({}, n_calls=0), path).tuned() == first


def test_file_of_measurements_that_is_none_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "times.json"
    path.write_text('{"a": 3}')
    with pytest.raises(NacdeployError, match=r"times\.json") as refusal:
        Measurements(path)
    assert "\n" not in str(refusal.value)


# --- the record --------------------------------------------------------------------------------------------------


def test_precisions_survive_json_and_say_what_was_chosen() -> None:
    found = tuner(Residual, Clock({"conv1": 12.0}))
    floats = found.tuned()
    record = found.precisions(floats, "ort", "here")
    assert record.layers == {"classifier": "int8", "conv1": "float", "conv2": "int8", "stem.0": "int8"}
    assert record.kinds["classifier"] == "linear"
    assert record.speed == found.speed(floats)
    assert record.n_timed == len(found.measured.ratios)
    assert records.from_data(Precisions, records.to_data(record)) == record


# --- the guard ---------------------------------------------------------------------------------------------------


def test_guard_changes_nothing_where_integers_are_faster() -> None:
    clock = Clock({"conv1": 12.0})
    kept = guard(Residual, clock)
    assert kept.network is prepared(Residual)[0]
    assert (kept.floats, clock.called) == (frozenset(), 1)
    assert kept.notes == ("latency guard: 1.48x (1.48-1.48) the speed of the same network in float",)
    assert kept.precisions is not None
    assert set(kept.precisions.layers.values()) == {"int8"}


def test_autotune_changes_what_the_guard_would_leave() -> None:
    tuned = guard(Residual, Clock({"conv1": 12.0}), autotune=True)
    assert tuned.floats == {"conv1"}
    assert tuned.network.plan.weight_bits.keys() == {"stem.0", "conv2", "classifier"}


def test_autotune_that_keeps_everything_keeps_the_network() -> None:
    assert guard(Residual, Clock({}), autotune=True).network is prepared(Residual)[0]


def test_guard_falls_back_layer_by_layer_and_says_what_it_cost() -> None:
    kept = guard(Residual, Clock({"conv1": 60.0}))
    (note,) = kept.notes
    assert kept.floats == {"conv1"}
    assert kept.precisions is not None
    assert kept.precisions.speed.value == pytest.approx(40 / 25)
    assert note == (
        "precision by measured time, to be no slower than float: all on integers 0.53x (0.53-0.53); "
        "3 of 4 layers stay on integers (1.60x (1.60-1.60) the speed of float), in float: conv1"
    )


def test_guard_ends_in_float_where_integers_never_pay() -> None:
    kept = guard(Residual, Clock({}, float_ms=1.0))
    assert kept.floats == member_kinds(prepared(Residual)[0]).keys()
    assert not kept.network.quantizers
    assert "0 of 4 layers stay on integers (integers never paid here)" in kept.notes[0]


def test_guard_goes_on_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "times.json"
    first = guard(Residual, Clock({"conv1": 60.0}), path=path)
    assert guard(Residual, Clock({}, n_calls=0), path=path).notes == first.notes


def test_speed_note_is_loud_where_the_artifact_is_slower() -> None:
    made, traced = prepared(Residual)
    integers, floats = (lower(traced, with_float(made, f)).model for f in ((), member_kinds(made)))
    assert speed_note(integers, floats, Clock({})).startswith("2.00x (2.00-2.00) the speed of the FP32 network")
    assert speed_note(integers, floats, Clock({"conv1": 60.0})).startswith("SLOWER than the FP32 network")
    assert speed_note(integers, floats, Clock({"conv1": 60.0}), 2).startswith("all 2 exits in one graph: ")


# --- a real clock ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2])
def test_tuning_by_onnx_runtime_gives_a_whole_record(threads: int, tmp_path: Path) -> None:
    """What is chosen is the machine's affair."""
    made, traced = prepared(Depthwise)
    shape = (1, *made.input_shape)
    images = made.example_input().expand(shape).numpy()
    clock = timer(partial(OnnxRunner, threads=threads), images, BenchTable(threads=threads, round_ms=0.5), 3)
    found = guarded(
        made,
        traced,
        clock,
        target="ort",
        autotune=True,
        measurements=tmp_path / "times.json",
        report=lambda line: None,
    )
    assert found.precisions is not None
    assert found.precisions.layers.keys() == found.precisions.kinds.keys() == member_kinds(made).keys()
    assert {name for name, held in found.precisions.layers.items() if held == "float"} == found.floats
    assert found.network.plan.weight_bits.keys() == made.plan.weight_bits.keys() - found.floats
    kept = Measurements(tmp_path / "times.json").ratios
    assert len(kept) == found.precisions.n_timed > 0
    assert all(ratio.low <= ratio.value <= ratio.high for ratio in kept.values())
