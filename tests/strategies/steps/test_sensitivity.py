"""Probes of single layers, and what they suggest."""

from typing import Any

import pytest
from conftest import make_profile
from small_networks import SHAPE, Residual

from nacdeploy import profile as profiles
from nacdeploy.base.errors import UsageError
from nacdeploy.exporters.targets import grid_named
from nacdeploy.network.network import Network
from nacdeploy.profile import Profile
from nacdeploy.strategies.state import CompressionState
from nacdeploy.strategies.steps.sensitivity import TECHNIQUES, Probe, Sensitivity, found_by, probes, strongest
from nacdeploy.task import Task

PROFILE = profiles.from_mapping({"name": "default"})


@pytest.fixture
def network() -> Network:
    return Network(Residual(), grid_named("ort"), SHAPE).eval()


def test_probes_go_from_mild_to_strong_and_prune_roots_alone(network: Network) -> None:
    found = list(probes(network, PROFILE, TECHNIQUES, (0.5, 0.25)))
    pruned = [p for p in found if p.technique == "prune"]
    assert len({p.layer for p in pruned}) == 2, "conv1, and the stem with conv2"
    assert [p.setting for p in pruned] == ["0.25", "0.5"] * 2
    quantized = [p for p in found if p.technique == "quantize"]
    assert [p.setting for p in quantized[:2]] == ["w8a8", "w4a8"]
    assert {p.layer for p in quantized} == {"stem.0", "conv1", "conv2", "classifier"}


def test_probes_are_of_the_named_layers_only(network: Network) -> None:
    assert {p.layer for p in probes(network, PROFILE, ["sparsify"], (0.5,), ["conv1"])} == {"conv1"}


@pytest.mark.parametrize(
    ("technique", "ratio", "layer", "message"),
    [
        ("prune", 1.0, "conv1", "between 0 and 1"),
        ("prune", 0.5, "conv3", "unknown layer 'conv3'.*conv"),
        ("prun", 0.5, "conv1", "unknown technique 'prun'.*prune"),
    ],
)
def test_wrong_probe_is_refused_in_one_line(
    network: Network, technique: str, ratio: float, layer: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        list(probes(network, PROFILE, [technique], [ratio], [layer]))


@pytest.mark.parametrize(
    ("technique", "setting", "tables"),
    [
        ("sparsify", "0.5", {"sparsify": {"pattern": "element", "ratios": {"classifier": 0.9}}}),
        ("sparsify", "0.5", {"sparsify": {"pattern": "element", "patterns": {"stages.2.0.conv2": "filter"}}}),
        ("quantize", "w4a8", {"quantize": {"layer_bits": {"stages.2.0.conv2": "w8a8"}}}),
        ("decompose", "0.5", {"decompose": {"ranks": {"stages.2.0.conv2": [4, 4]}}}),
    ],
)
def test_probe_tries_its_own_setting_whatever_the_profile_says_of_the_layer(
    technique: str, setting: str, tables: dict[str, Any], baseline: CompressionState, task: Task, profile: Profile
) -> None:
    probe = Probe("stages.2.0.conv2", technique, setting)
    found = found_by(probe, baseline, task, make_profile(**tables))
    assert found.bytes_ratio is not None
    assert found == found_by(probe, baseline, task, profile)


def row(layer: str, setting: str, drop: float | None) -> Sensitivity:
    return Sensitivity(layer, "prune", setting, 0.5, drop, 1.0, 1.0)


def test_strongest_setting_is_the_last_before_the_first_loss() -> None:
    found = [row("a", "0.25", 0.1), row("a", "0.5", 2.0), row("a", "0.75", 0.0), row("b", "0.25", 3.0)]
    assert strongest(found, "prune", 1.0) == {"a": "0.25"}
    assert strongest(found, "quantize", 1.0) == {}


def test_refused_probe_says_nothing_about_its_layer() -> None:
    assert strongest([row("a", "0.25", None), row("a", "0.5", 0.5)], "prune", 1.0) == {"a": "0.5"}


def test_row_names_its_probe() -> None:
    assert row("a", "0.5", 0.0).probe == Probe("a", "prune", "0.5")
