"""Costs against arithmetic by hand."""

from itertools import accumulate

import pytest
import torch
from conftest import follow, make_profile
from small_networks import DataDependent, Depthwise, Grouped, network
from torch import Tensor, nn

from nacdeploy.base.precision import Precision
from nacdeploy.network.attachments.fake_quant import Rule
from nacdeploy.network.cost import cost, layer_costs, memory_bits, nac_ratios
from nacdeploy.network.network import count_parameters
from nacdeploy.strategies.state import CompressionState
from nacdeploy.task import Task

WIDTH, SIZE, N_CLASSES = 8, 8, 10


def resnet8_macs() -> dict[str, int]:
    """MACs per part of a ResNet8 of width w on s x s grey images: n_in * n_out * kernel^2 * pixels, summed."""
    w, s = WIDTH, SIZE
    return {
        "stem": 1 * w * 9 * s**2,
        "stages.0": 2 * w * w * 9 * s**2,
        "stages.1": (w * 2 * w * 9 + 2 * w * 2 * w * 9 + w * 2 * w) * (s // 2) ** 2,
        "stages.2": (2 * w * 4 * w * 9 + 4 * w * 4 * w * 9 + 2 * w * 4 * w) * (s // 4) ** 2,
        "classifier": 4 * w * N_CLASSES,
    }


@pytest.fixture(scope="module")
def quantized(baseline: CompressionState, task: Task) -> CompressionState:
    return follow(baseline, "Q", task, make_profile())


def test_macs_of_resnet8_are_those_of_the_formula(baseline: CompressionState, task: Task) -> None:
    parts = dict.fromkeys(resnet8_macs(), 0)
    for layer in layer_costs(baseline.network, task.example_input()):
        parts[next(part for part in parts if layer.layer.startswith(part))] += layer.macs
    assert parts == resnet8_macs()
    assert baseline.metrics.cost.macs == sum(parts.values())


def test_float_bitops_are_1024_per_mac(baseline: CompressionState) -> None:
    assert baseline.metrics.cost.bitops == 1024 * baseline.metrics.cost.macs


@pytest.mark.parametrize(("word", "factor"), [("Q", 16), ("QQ", 32)])
def test_bitops_fall_by_the_product_of_both_ratios(
    word: str, factor: int, baseline: CompressionState, task: Task
) -> None:
    state = follow(baseline, word, task, make_profile())
    assert baseline.metrics.cost.bitops == factor * state.metrics.cost.bitops
    assert state.metrics.cost.macs == baseline.metrics.cost.macs


def test_bitops_of_excluded_layers_stay(baseline: CompressionState, task: Task) -> None:
    state = follow(baseline, "Q", task, make_profile(quantize={"exclude": ["stem"]}))
    macs = resnet8_macs()
    assert state.metrics.cost.bitops == 1024 * macs["stem"] + 64 * (sum(macs.values()) - macs["stem"])


def test_float_memory_is_32_bits_per_parameter_and_statistic(baseline: CompressionState) -> None:
    statistics = sum(b.numel() for b in baseline.network.backbone.buffers() if b.is_floating_point())
    n_parameters = count_parameters(baseline.network)
    assert baseline.metrics.cost.n_parameters == n_parameters
    assert baseline.metrics.cost.memory_bits == 32 * (n_parameters + statistics)
    assert baseline.metrics.cost.bytes == 4 * (n_parameters + statistics)


def test_quantized_memory_charges_every_scale(baseline: CompressionState, quantized: CompressionState) -> None:
    backbone = quantized.network.backbone
    weights = [backbone.get_parameter(f"{layer}.weight") for layer in quantized.network.plan.weight_bits]
    saved = sum(24 * weight.numel() for weight in weights)
    scales = sum(32 * len(weight) for weight in weights) + 64 * len(quantized.network.quantizers)
    assert len(weights) == 10
    assert quantized.metrics.cost.memory_bits == baseline.metrics.cost.memory_bits - saved + scales


@pytest.fixture(scope="module")
def with_exits(baseline: CompressionState, task: Task) -> CompressionState:
    return follow(baseline, "E", task, make_profile(exits={"recipe": {"epochs": 0}}))


# Heads on 4 x 4 cells of 8 and of 16 channels.
HEADS = (16 * 8 * N_CLASSES, 16 * 16 * N_CLASSES)


def test_ways_out_cost_what_ran_until_there(with_exits: CompressionState, task: Task) -> None:
    stem, *stages, classifier = resnet8_macs().values()
    backbone = list(accumulate([stem + stages[0], stages[1], stages[2] + classifier]))
    expected = [backbone[0] + HEADS[0], backbone[1] + sum(HEADS), backbone[2] + sum(HEADS)]
    ways = [cost(with_exits.network, task.example_input(), way).expected_macs for way in torch.eye(3).tolist()]
    assert ways == expected


def test_expected_cost_weighs_the_ways_out(with_exits: CompressionState, task: Task) -> None:
    ways = [cost(with_exits.network, task.example_input(), way) for way in torch.eye(3).tolist()]
    shares = (0.5, 0.25, 0.25)
    mixed = cost(with_exits.network, task.example_input(), shares)
    assert mixed.expected_macs == sum(s * way.expected_macs for s, way in zip(shares, ways, strict=True))
    assert mixed.expected_bitops == sum(s * way.expected_bitops for s, way in zip(shares, ways, strict=True))
    assert mixed.macs == ways[-1].expected_macs


def test_wrong_number_of_shares_is_not_silently_cut(with_exits: CompressionState, task: Task) -> None:
    with pytest.raises(ValueError, match="zip"):
        cost(with_exits.network, task.example_input(), (1.0,))


def test_heads_are_charged_in_memory(baseline: CompressionState, with_exits: CompressionState) -> None:
    heads = sum(count_parameters(head) for head in with_exits.network.exits.values())
    assert heads == sum(HEADS) + 2 * N_CLASSES
    assert with_exits.metrics.cost.memory_bits == baseline.metrics.cost.memory_bits + 32 * heads


@pytest.mark.parametrize(("word", "expected"), [("", (1, 1)), ("Q", (16, 4)), ("QQ", (32, 8))])
def test_nac_ratios_of_an_untouched_network_are_the_rungs_own(
    word: str, expected: tuple[float, float], baseline: CompressionState, task: Task
) -> None:
    state = follow(baseline, word, task, make_profile())
    ratios = nac_ratios(state.network, state.metrics.cost, baseline.metrics.cost, rho=0.136, depth=3)
    assert ratios == pytest.approx(expected)


def test_nac_memory_ratio_does_not_charge_heads(baseline: CompressionState, with_exits: CompressionState) -> None:
    _, memory = nac_ratios(with_exits.network, with_exits.metrics.cost, baseline.metrics.cost, rho=0.136, depth=3)
    assert memory == 1


def test_cut_halves_the_macs_between_two_halved_layers(baseline: CompressionState, task: Task) -> None:
    profile = make_profile(prune={"ratio": 0.5, "multiple": 4, "scope": "uniform"})
    state = follow(baseline, "P", task, profile)
    macs = resnet8_macs()
    inner = sum(macs[f"stages.{i}"] for i in range(3)) / 4
    assert state.metrics.cost.macs == inner + macs["stem"] / 2 + macs["classifier"] / 2


@pytest.mark.parametrize(
    ("backbone", "macs"),
    [(Depthwise, (3 * 8 * 9 + 8 * 9 + 8 * 6) * 64 + 30), (Grouped, (3 * 8 * 9 + 8 * 4 * 9 + 8 * 8 * 9) * 64 + 40)],
)
def test_groups_divide_the_macs(backbone: type[torch.nn.Module], macs: int) -> None:
    made = network(backbone())
    assert cost(made, made.example_input()).macs == macs


def test_uncaptured_network_is_counted_module_by_module() -> None:
    made = network(DataDependent())
    macs = (3 * 8 * 9 + 8 * 8 * 9) * 64 + 40
    assert cost(made, made.example_input()).macs == macs
    made.quantize(Rule(Precision(8, 8)))
    assert cost(made, made.example_input()).bitops == 64 * macs
    assert memory_bits(made) < 32 * count_parameters(made)


def test_counting_leaves_the_mode_alone(baseline: CompressionState, task: Task) -> None:
    baseline.network.train()
    cost(baseline.network, task.example_input())
    was_training = baseline.network.training
    baseline.network.eval()
    assert was_training


class Tied(nn.Module):
    """Two layers hold one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 5)
        self.c = nn.Conv2d(8, 8, 3, padding=1)
        self.c.weight = self.b.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.c(torch.relu(self.b(torch.relu(self.a(x)))))).mean((2, 3)))


def test_tied_weight_is_stored_once() -> None:
    made = network(Tied())
    before = memory_bits(made)
    made.quantize(Rule(Precision(8, 8)))
    assert 1 < before / memory_bits(made) < 4


class Recurrent(nn.Module):
    """Rows of an image, and a query that no input feeds."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(24, 6, batch_first=True), nn.Linear(6, 5)
        self.query, self.q = nn.Parameter(torch.randn(1, 1, 6)), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.rnn(x.permute(0, 2, 1, 3).flatten(2))[0]
        return self.head((hidden * self.q(self.query.expand(x.shape[0], -1, -1))).mean(1))


def test_recurrent_layer_and_expanded_query_are_counted() -> None:
    made = network(Recurrent())
    macs = {layer.layer: layer.macs for layer in layer_costs(made, made.example_input())}
    assert macs["q"] == 6 * 6
    assert macs["head"] == 6 * 5
    assert sum(macs.values()) - 66 == 8 * 4 * 6 * (24 + 6)  # eight rows, four gates
