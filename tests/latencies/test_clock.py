"""The clock of a session reads a table from a file, and says what the table lacks; times here are made up."""

from pathlib import Path
from typing import Any

import pytest

from nacdeploy.base import records
from nacdeploy.base.errors import NacdeployError, UsageError
from nacdeploy.exporters import targets
from nacdeploy.latencies.clock import TableClock
from nacdeploy.latencies.layers import calls_of
from nacdeploy.latencies.setting import Setting
from nacdeploy.latencies.table import LatencyTable, LayerTime, NetworkTime, between, read
from nacdeploy.profile import Profile
from nacdeploy.strategies.state import CompressionState
from nacdeploy.task import Task

ELSEWHERE = Setting("a phone", "ort", "ONNX Runtime 9", 1, 1)
CALL_MS = 0.01


@pytest.fixture
def table(baseline: CompressionState, tmp_path: Path) -> Path:
    """A table of another machine: every layer of the network takes the millionth of its weights."""
    layers = [layer for _, layer in calls_of(baseline.network)]
    times = tuple(
        LayerTime(layer, layer.weight_shape[0] * layer.weight_shape[1] / 1e6) for layer in dict.fromkeys(layers)
    )
    networks = (NetworkTime("a", "b", "float32", 2.0, 1.0), NetworkTime("c", "b", "int8", 1.0, 0.5))
    records.write_json(tmp_path / "phone.json", LatencyTable(ELSEWHERE, 1.0, CALL_MS, times, networks))
    return tmp_path / "phone.json"


@pytest.fixture
def carried(table: Path, task: Task, profile: Profile, tmp_path: Path) -> TableClock:
    return TableClock(task, profile, tmp_path / "latencies", table)


def test_carried_table_answers_without_a_measurement(carried: TableClock, baseline: CompressionState) -> None:
    shape = baseline.network.layers["stages.2.0.conv2"].weight.shape  # type: ignore[union-attr]
    grids = carried.layers_ms(baseline.network, {"stages.2.0.conv2": ((shape[1],), (shape[0],))})
    assert grids == {"stages.2.0.conv2": ((shape[0] * shape[1] / 1e6,),)}
    assert (carried.is_here, carried.where) == (False, "ONNX Runtime 9 on a phone")
    assert not (carried.root).exists()


def test_carried_table_knows_its_networks_by_precision(carried: TableClock) -> None:
    assert carried.kept("another", "float32") == ((2.0, 1.0 - CALL_MS),), "the sum of layers, without the call"
    assert carried.kept("b", "int8") == ((1.0, 0.5 - CALL_MS),)


def test_carried_table_names_the_layer_it_lacks(carried: TableClock, baseline: CompressionState) -> None:
    with pytest.raises(UsageError, match=r"holds no time of a layer 3x8x3x3 on 8x8x8 \(float\): write the table with"):
        carried.layers_ms(baseline.network, {"stages.0.0.conv1": ((8,), (3,))})


@pytest.mark.parametrize(
    ("at", "expected"),
    [((8, 8), 1.0), ((12, 8), 2.0), ((12, 16), 3.0), ((16, 24), 5.0), ((8, 40), None), ((4, 8), None)],
)
def test_time_lies_between_those_of_the_nearest_channels(at: tuple[int, int], expected: float | None) -> None:
    known = {(8, 8): 1.0, (16, 8): 3.0, (8, 24): 3.0, (16, 24): 5.0}
    assert between(known, at) == expected


def test_single_point_beside_the_grid_hides_no_rectangle() -> None:
    """As networks that were cut leave behind in a table that is kept."""
    known = {(8, 8): 1.0, (16, 8): 3.0, (8, 24): 3.0, (16, 24): 5.0}
    assert between({**known, (12, 20): 9.0, (13, 8): 7.0}, (12, 16)) == 3.0
    assert between({**known, (12, 16): 9.0}, (12, 16)) == 9.0


def test_carried_table_times_no_network(carried: TableClock, baseline: CompressionState) -> None:
    with pytest.raises(NacdeployError, match="was measured elsewhere"):
        carried.networks_ms([baseline.network])


def test_target_that_is_not_here_is_refused_in_one_line(task: Task, profile: Profile, tmp_path: Path) -> None:
    clock = TableClock(task, profile.model_copy(update={"target": targets.parse("torch-trt")}), tmp_path)
    with pytest.raises(NacdeployError, match=r"'torch-trt' is not timed here.* give a table that was written on the"):
        clock.networks_ms([])


@pytest.mark.parametrize(("key", "value"), [("target", "openvino"), ("threads", 4), ("batch_size", 8)])
def test_carried_table_of_another_target_or_method_is_refused(
    key: str, value: Any, table: Path, task: Task, profile: Profile, tmp_path: Path
) -> None:
    data = records.read_json(table)
    data["setting"][key] = value
    records.write_json(table, data)
    with pytest.raises(UsageError, match=f"holds times of {key} '{value}', and '.*' is asked for: give"):
        TableClock(task, profile, tmp_path, table).kept("b", "int8")


@pytest.mark.parametrize("ms", [0.0, -1.0])
@pytest.mark.parametrize("key", ["p50_ms", "sum_ms"])
def test_table_with_a_time_that_cannot_be_is_refused(key: str, ms: float, table: Path) -> None:
    data = records.read_json(table)
    data["networks"][0][key] = ms
    records.write_json(table, data)
    with pytest.raises(UsageError, match="not above 0 ms"):
        read(table)


def test_times_are_kept_for_the_next_session(baseline: CompressionState, task: Task, tmp_path: Path) -> None:
    from conftest import make_profile

    profile = make_profile(bench={"round_ms": 1.0, "n_rounds": 3}, search={"n_latency_rounds": 3})
    sizes = {"stages.2.0.conv2": ((16, 32), (16, 32))}
    first = TableClock(task, profile, tmp_path).layers_ms(baseline.network, sizes)
    again = TableClock(task, profile, tmp_path)
    n_kept = again.times.n_layers
    assert again.layers_ms(baseline.network, sizes) == first
    assert again.times.n_layers == n_kept >= 4
