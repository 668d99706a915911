"""Ranges of activations: which rule the network's own answers choose."""

import copy

import pytest
from conftest import follow, make_profile

from nacdeploy.network.network import Network
from nacdeploy.strategies.calibration import RULES, calibrate_ranges
from nacdeploy.strategies.operators.quantize.settings import QuantizeTable
from nacdeploy.strategies.settle import calibration_images, unquantized
from nacdeploy.strategies.state import CompressionState
from nacdeploy.task import Task
from nacdeploy.task import evaluate as evaluation


def calibrated(network: Network, task: Task, calibration: str, percentile: float) -> Network:
    table = QuantizeTable(calibration=calibration, percentile=percentile)
    made = copy.deepcopy(network)
    calibrate_ranges(made, task.data, calibration_images(task.data, 100), table)
    return made


def error(network: Network, task: Task) -> float:
    """Of the answers to the images that calibrate, against the float network's."""
    images = calibration_images(task.data, 100)
    own, plain = (evaluation.predict(each, task.data, images) for each in (network, unquantized(network)))
    return float((own - plain).square().sum())


@pytest.mark.parametrize("percentile", [60.0, 99.99])
def test_auto_takes_the_rule_with_which_the_network_answers_best(
    percentile: float, baseline: CompressionState, task: Task
) -> None:
    network = follow(baseline, "Q", task, make_profile()).network
    errors = {rule: error(calibrated(network, task, rule, percentile), task) for rule in RULES}
    assert error(calibrated(network, task, "auto", percentile), task) <= 1.1 * min(errors.values())


def test_auto_leaves_the_percentile_where_it_cuts_too_much(baseline: CompressionState, task: Task) -> None:
    network = follow(baseline, "Q", task, make_profile()).network
    chosen, cut = (error(calibrated(network, task, rule, 60.0), task) for rule in ("auto", "percentile"))
    assert chosen < cut / 2
