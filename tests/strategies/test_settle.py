"""Settling follows from the weights and the data alone."""

import copy

import pytest
import torch
from conftest import follow, make_profile
from torch import nn

from nacdeploy.exporters.targets import grid_named
from nacdeploy.network.attachments.fake_quant import ActivationQuantizer
from nacdeploy.network.network import Network
from nacdeploy.profile import Profile
from nacdeploy.strategies.settle import (
    calibrate_gates,
    calibration_images,
    choose_statistics,
    reestimated,
    running_norms,
    settle,
    take_statistics,
)
from nacdeploy.strategies.state import CompressionState, measure, state_key
from nacdeploy.task import Task
from nacdeploy.task import evaluate as evaluation


@pytest.fixture(scope="module")
def quantized(baseline: CompressionState, task: Task) -> CompressionState:
    return follow(baseline, "PQ", task, make_profile())


def scrambled(network: Network) -> Network:
    """The same weights; other norm statistics and ranges."""
    other = copy.deepcopy(network)
    for module in other.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.fill_(3.0)  # type: ignore[union-attr]
            module.running_var.fill_(7.0)  # type: ignore[union-attr]
            module.num_batches_tracked.fill_(99)  # type: ignore[union-attr]
        if isinstance(module, ActivationQuantizer):
            module.set_range(-9.0, 9.0)
    return other


def ranges(network: Network) -> dict[str, tuple[float, float]]:
    return {key: (float(q.low), float(q.high)) for key, q in network.quantizers.items()}  # type: ignore[arg-type]


@pytest.mark.parametrize("calibration", ["auto", "minmax", "percentile", "mse"])
def test_settling_twice_gives_the_same_bits(calibration: str, quantized: CompressionState, task: Task) -> None:
    profile = make_profile(quantize={"calibration": calibration})
    network = copy.deepcopy(quantized.network)
    settle(network, task, profile)
    once = state_key(network)
    settle(network, task, profile)
    assert state_key(network) == once


def test_settling_forgets_ranges_of_before(quantized: CompressionState, task: Task, profile: Profile) -> None:
    network = scrambled(quantized.network)
    take_statistics(network, quantized.network)
    assert state_key(network) != quantized.key
    settle(network, task, profile)
    assert state_key(network) == quantized.key


def test_settling_an_untouched_network_changes_nothing(baseline: CompressionState, task: Task) -> None:
    network = scrambled(baseline.network)
    before = state_key(network)
    settle(network, task, make_profile())
    assert state_key(network) == before


def test_statistics_that_belong_to_the_weights_are_kept(baseline: CompressionState, task: Task) -> None:
    network = copy.deepcopy(baseline.network)
    assert choose_statistics(network, task, make_profile()) == "kept"
    assert state_key(network) == baseline.key


def test_statistics_of_other_weights_are_found_anew(baseline: CompressionState, task: Task) -> None:
    network = scrambled(baseline.network)
    assert choose_statistics(network, task, make_profile()) == "re-estimated"
    assert evaluation.evaluate(network, task, task.data.validation).score > baseline.metrics.score - 0.1


def lost(baseline: CompressionState) -> Network:
    """A network of one answer for all images, under statistics of others in which all values vanish."""
    network = copy.deepcopy(baseline.network)
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.weight)
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.fill_(1e6)  # type: ignore[union-attr]
    return network


def test_statistics_of_a_lost_network_are_found_anew(baseline: CompressionState, task: Task) -> None:
    """They know nothing that is worth keeping, though new ones answer no better."""
    network = lost(baseline)
    assert choose_statistics(network, task, make_profile()) == "re-estimated"
    assert evaluation.own_score(network, task, task.data.validation) < 0.13


def test_lost_network_learns_with_quantizers_too(baseline: CompressionState, task: Task) -> None:
    network = lost(baseline)
    choose_statistics(network, task, make_profile())
    state = CompressionState(network, measure(network, task), baseline.metrics)
    trained = [follow(state, word, task, make_profile()).metrics.score for word in ("F(epochs=3)", "QF(epochs=3)")]
    assert trained[1] > trained[0] - 0.1 > 0.4


def test_norm_that_no_node_calls_keeps_its_statistics(task: Task) -> None:
    backbone = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 10))
    backbone.spare = nn.BatchNorm2d(4)  # type: ignore[assignment]
    backbone.forward = nn.Sequential(*backbone[:4]).forward  # type: ignore[method-assign]
    network = Network(backbone.eval(), grid_named("ort"), (1, 8, 8))
    assert list(running_norms(network)) == ["1"]


@pytest.mark.parametrize("training", [True, False])
def test_settling_touches_neither_weights_nor_mode(
    training: bool, quantized: CompressionState, task: Task, profile: Profile
) -> None:
    network = copy.deepcopy(quantized.network).train(training)
    settle(network, task, profile)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), quantized.network.parameters(), strict=True))
    assert {module.training for module in network.modules()} == {training}
    norm = next(m for m in network.modules() if isinstance(m, nn.BatchNorm2d))
    assert norm.momentum == 0.1


def test_calibration_images_are_training_images_and_always_the_same(task: Task) -> None:
    first, second = (calibration_images(task.data, 40) for _ in range(2))
    assert torch.equal(first.images, second.images)
    train = {image.numpy().tobytes() for image in task.data.train.images}
    assert {image.numpy().tobytes() for image in first.images} <= train
    assert len(calibration_images(task.data, 10**6)) == len(task.data.train)


def test_norm_statistics_are_averages_over_the_images(baseline: CompressionState, task: Task) -> None:
    profile = make_profile(settle={"n_images": 100, "batch_size": 100})
    network = reestimated(scrambled(baseline.network), task, profile)
    stem = network.backbone.get_submodule("stem")
    assert isinstance(stem, nn.Sequential)
    images = task.data.normalize(calibration_images(task.data, 100).images)
    with torch.no_grad():
        values = stem[0](images).movedim(1, 0).flatten(1)
    norm = stem[1]
    torch.testing.assert_close(norm.running_mean, values.mean(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm.running_var, values.var(1), rtol=1e-4, atol=1e-5)


def test_minmax_range_is_the_extremes_of_the_images(baseline: CompressionState, task: Task) -> None:
    state = follow(baseline, "Q", task, make_profile(quantize={"calibration": "minmax", "n_calibration": 60}))
    images = task.data.normalize(calibration_images(task.data, 60).images)
    expected = (float(images.min()), float(images.max()))
    assert expected in ranges(state.network).values()


def test_percentile_clips_and_mse_errs_least(baseline: CompressionState, task: Task) -> None:
    made = {
        name: ranges(
            follow(baseline, "Q", task, make_profile(quantize={"calibration": name, "percentile": 99})).network
        )
        for name in ("minmax", "percentile", "mse")
    }
    for key, (low, high) in made["minmax"].items():
        for name in ("percentile", "mse"):
            assert low <= made[name][key][0] <= 0 <= made[name][key][1] <= high
    widths = {name: sum(high - low for low, high in each.values()) for name, each in made.items()}
    assert widths["percentile"] < widths["minmax"]
    assert widths["mse"] < widths["minmax"]


def test_100th_percentile_is_minmax(baseline: CompressionState, task: Task) -> None:
    tables = ({"calibration": "minmax"}, {"calibration": "percentile", "percentile": 100})
    a, b = (ranges(follow(baseline, "Q", task, make_profile(quantize=table)).network) for table in tables)
    assert a == b


def test_gate_is_calibrated_within_its_drop(baseline: CompressionState, task: Task) -> None:
    profile = make_profile(exits={"max_drop": 2.0})
    state = follow(baseline, "E", task, profile)
    own = evaluation.predict(state.network, task.data, task.data.validation)
    own_accuracy = float((own.argmax(1) == task.data.validation.labels).double().mean())
    assert state.metrics.score >= own_accuracy - 0.02 - 1e-9
    assert sum(state.metrics.exit_fractions) == pytest.approx(1)
    assert state.metrics.cost.expected_macs < baseline.metrics.cost.macs


@pytest.mark.parametrize("threshold", [0.5, 0.9])
def test_threshold_of_the_profile_is_taken(threshold: float, baseline: CompressionState, task: Task) -> None:
    state = follow(baseline, "E", task, make_profile(exits={"threshold": threshold}))
    assert [float(head.threshold) for head in state.network.heads.values()] == pytest.approx([threshold] * 2)


def test_gate_of_heads_that_know_nothing_stays_closed(baseline: CompressionState, task: Task) -> None:
    profile = make_profile(exits={"recipe": {"epochs": 0}, "max_drop": 0})
    state = follow(baseline, "E", task, profile)
    own = evaluation.predict(state.network, task.data, task.data.validation)
    assert state.metrics.score == pytest.approx(float((own.argmax(1) == task.data.validation.labels).double().mean()))
    assert state.metrics.exit_fractions == (0.0, 0.0, 1.0)


def test_gates_are_calibrated_again_after_later_letters(
    baseline: CompressionState, task: Task, profile: Profile
) -> None:
    state = follow(baseline, "EPP", task, profile)
    network = copy.deepcopy(state.network)
    for head in network.heads.values():
        head.threshold.fill_(0.123)
    calibrate_gates(network, task, profile)
    assert state_key(network) == state.key
