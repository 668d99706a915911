"""Weights chosen by data: on their grid, zeros and scales kept, and closer to what the layers computed in float."""

import copy

import pytest
import torch
from conftest import follow, make_profile
from small_networks import Depthwise, Grouped, Plain, Residual, images, network
from torch import Tensor, nn

from nacdeploy.base.precision import Precision
from nacdeploy.network.attachments.fake_quant import Rule
from nacdeploy.network.attachments.sparsity import Sparsity
from nacdeploy.network.attachments.weight_quantizers import NEIGHBOURS
from nacdeploy.network.network import Network, layer_integers, masked_weight, simulated_weight
from nacdeploy.strategies.operators.quantize.reconstruct import reconstruct, rounded
from nacdeploy.strategies.settle import unquantized
from nacdeploy.strategies.state import CompressionState
from nacdeploy.task import Task

KINDS = (Plain, Residual, Depthwise, Grouped)


def quantized(kind: type[nn.Module], weights: str = "balanced", bits: int = 4) -> Network:
    made = network(kind(), "ort")
    made.quantize(Rule(Precision(bits, 8), weights=weights))
    return made


def error(made: Network, before: Network, x: Tensor) -> float:
    """Return the square of what rounded weights change in the answers."""
    part = copy.deepcopy(made)
    part.quantizers = nn.ModuleDict({key: nn.Identity() for key in part.quantizers})
    with torch.no_grad():
        return float((part(x) - unquantized(before)(x)).square().sum())


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_closer_than_with_nearest_integers(kind: type[nn.Module]) -> None:
    before, x = quantized(kind, "symmetric"), images(16)
    after = copy.deepcopy(before)
    assert set(reconstruct(after, x)) == set(before.plan.weight_bits)
    assert error(after, before, x) < 0.7 * error(before, before, x)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weights", NEIGHBOURS)
def test_chosen_weights_are_on_the_grid_of_the_former_scales(kind: type[nn.Module], weights: str) -> None:
    before, x = quantized(kind, weights), images(16)
    after = copy.deepcopy(before)
    for name in reconstruct(after, x):
        chosen, former = after.layers[name], layer_integers(before, name, before.layers[name])
        again = simulated_weight(after, name, chosen)
        assert former is not None and again is not None
        assert torch.allclose(again, chosen.weight, atol=1e-6)
        found = layer_integers(after, name, chosen)
        assert found is not None and torch.allclose(found[1], former[1])


def test_mean_of_a_layer_with_a_bias_is_that_of_the_float_layer() -> None:
    layer = nn.Linear(6, 4)
    made = Network(nn.Sequential(layer), network(Plain(), "ort").grid, (6,))
    made.quantize(Rule(Precision(3, 8)))
    x = torch.rand(64, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = layer(x).mean(0)
        assert not torch.allclose(
            nn.functional.linear(x, simulated_weight(made, "0", layer), layer.bias).mean(0), wanted
        )
        reconstruct(made, x)
        assert torch.allclose(made.layers["0"](x).mean(0), wanted, atol=1e-5)


def test_masked_weights_stay_zero_and_hidden_values_stay() -> None:
    made, x = network(Plain(), "ort"), images(16)
    made.sparsify(Sparsity("2:4"))
    made.quantize(Rule(Precision(4, 8)))
    before = copy.deepcopy(made)
    for name in reconstruct(made, x):
        hidden = masked_weight(before, name, before.layers[name]) == 0
        assert torch.equal(made.layers[name].weight[hidden], before.layers[name].weight[hidden])
        assert not masked_weight(made, name, made.layers[name])[hidden].any()


def test_integers_are_the_nearest_where_inputs_have_nothing_in_common() -> None:
    steps = torch.randn(2, 5, 40, generator=torch.Generator().manual_seed(0)) * 20
    products = torch.eye(40).expand(2, 40, 40)
    assert torch.equal(rounded(steps, products, 127), steps.round().clamp(-127, 127))


def test_integers_make_up_for_each_other_where_inputs_are_alike() -> None:
    steps = torch.full((1, 1, 8), 3.4)
    steps[0, 0, 0] = 127.0
    alike = torch.ones(1, 8, 8) + 0.01 * torch.eye(8)
    found = rounded(steps, alike, 127)
    assert abs(float(found.sum() - steps.sum())) <= 0.5 < abs(float(steps.round().sum() - steps.sum()))


def test_q_keeps_more_of_the_signal_by_data(baseline: CompressionState, task: Task) -> None:
    x = task.data.normalize(task.data.validation.images[:64])
    plain, chosen = (follow(baseline, f"Q(bits=w4a8,reconstruct={number})", task, make_profile()) for number in (0, 1))
    with torch.no_grad():
        wanted = baseline.network(x)
        errors = [float((each.network(x) - wanted).square().sum()) for each in (plain, chosen)]
    assert errors[1] < 0.8 * errors[0]
    assert chosen.steps[-1].decision.reconstructed and not plain.steps[-1].decision.reconstructed


def test_control_sets_the_ranges_that_it_found(baseline: CompressionState, task: Task) -> None:
    found = follow(baseline, "Q(bits=w4a8,min_snr_db=18,reconstruct=1)", task, make_profile())
    ranges = found.steps[-1].decision.ranges
    assert set(found.network.quantizers) <= set(ranges)
    for key, quantizer in found.network.quantizers.items():
        assert (float(quantizer.low), float(quantizer.high)) == pytest.approx(ranges[key])
