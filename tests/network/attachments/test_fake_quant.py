"""Grids, scales and edges of the simulated quantization."""

import copy

import pytest
import torch
from small_networks import SHAPE, DataDependent, Plain, Residual, images, network
from torch import Tensor, nn

from nacdeploy.base.precision import Precision
from nacdeploy.exporters.targets import grid_named, grid_names
from nacdeploy.network.attachments import fake_quant, placement, weight_quantizers
from nacdeploy.network.attachments.fake_quant import ActivationQuantizer, Rule
from nacdeploy.network.attachments.placement import Plan
from nacdeploy.network.captured.graph import Captured
from nacdeploy.network.network import Network

W8A8 = Precision(8, 8)


@pytest.fixture
def reference() -> tuple[Tensor, Tensor]:
    """The inputs of golden/nac_fakequant.npz: weights (8, 4, 3, 3) and activations (2, 4, 6, 6), drawn from seed 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torch.randn(8, 4, 3, 3), torch.relu(torch.randn(2, 4, 6, 6))


# Source of the numbers: NAC's quantizer (symmetric, max-abs, one scale per tensor), golden/nac_fakequant.npz: the first
# six elements of w8, w6, w4 and of a8 there.
NAC_WEIGHTS = {
    127: (-1.1278827, -1.1547371, -0.24168918, -0.42966962, 0.85933924, 0.69821316),
    31: (-1.1001621, -1.1001621, -0.22003242, -0.44006485, 0.8801297, 0.6600973),
    7: (-0.97442937, -0.97442937, -0.48721468, -0.48721468, 0.97442937, 0.48721468),
}
NAC_ACTIVATIONS = (0.5490188, 0.80738056, 0.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize("maximum", NAC_WEIGHTS, ids=["8 bit", "6 bit", "4 bit"])
def test_symmetric_weights_equal_nac_when_per_tensor(maximum: int, reference: tuple[Tensor, Tensor]) -> None:
    rounded = fake_quant.fake_quantize_symmetric(reference[0], maximum, axis=None).flatten()[:6]
    torch.testing.assert_close(rounded, torch.tensor(NAC_WEIGHTS[maximum]), rtol=0, atol=1e-6)


def test_symmetric_activations_equal_nac(reference: tuple[Tensor, Tensor]) -> None:
    quantizer = ActivationQuantizer(8, "conv", grid_named("trt"))
    quantizer.set_range(float(reference[1].min()), float(reference[1].max()))
    torch.testing.assert_close(quantizer(reference[1]).flatten()[:6], torch.tensor(NAC_ACTIVATIONS), rtol=0, atol=1e-6)


def test_scale_is_per_output_channel_and_hits_the_maximum(reference: tuple[Tensor, Tensor]) -> None:
    weight = reference[0]
    scale = fake_quant.symmetric_scale(weight, 63)
    assert scale.shape == (8,)
    assert torch.equal(scale, weight.abs().flatten(1).amax(1) / 63)
    integers, same = fake_quant.integers(weight, 63)
    assert integers.abs().flatten(1).amax(1).tolist() == [63] * 8
    assert torch.equal(scale, same)


@pytest.mark.parametrize("maximum", [127, 63, 7])
def test_integers_times_scales_are_the_simulated_weights(maximum: int, reference: tuple[Tensor, Tensor]) -> None:
    integers, scale = fake_quant.integers(reference[0], maximum)
    simulated = fake_quant.fake_quantize_symmetric(reference[0], maximum)
    torch.testing.assert_close(integers * scale.reshape(-1, 1, 1, 1), simulated, rtol=0, atol=1e-6)


@pytest.mark.parametrize("zero", ["one channel", "everything"])
def test_zero_weights_stay_zero(zero: str, reference: tuple[Tensor, Tensor]) -> None:
    weight = reference[0].clone()
    weight[slice(0, 1) if zero == "one channel" else slice(None)] = 0
    assert fake_quant.fake_quantize_symmetric(weight, 127)[0].abs().max() == 0
    assert fake_quant.integers(weight, 127)[0][0].abs().max() == 0


def test_gradient_passes_straight_through_inside_the_grid(reference: tuple[Tensor, Tensor]) -> None:
    weight = reference[0].clone().requires_grad_()
    fake_quant.fake_quantize_symmetric(weight, 7).sum().backward()
    assert weight.grad is not None
    assert weight.grad.unique().tolist() == [1.0]


@pytest.mark.parametrize(("bits", "grid", "maximum"), [(8, "ort", 63), (8, "trt", 127), (4, "ort", 7), (4, "trt", 7)])
def test_largest_weight_integer_follows_the_target(bits: int, grid: str, maximum: int) -> None:
    assert grid_named(grid).weight_maximum(bits) == maximum


@pytest.mark.parametrize("grid", [*dict.fromkeys(grid_names())])
@pytest.mark.parametrize("kind", ["conv", "linear"])
@pytest.mark.parametrize(("low", "high"), [(0.0, 4.0), (-1.0, 3.0), (0.5, 2.0), (-3.0, -1.0), (0.0, 0.0)])
def test_activation_grid_contains_zero_and_covers_its_range(grid: str, kind: str, low: float, high: float) -> None:
    quantizer = ActivationQuantizer(8, kind, grid_named(grid))
    quantizer.set_range(low, high)
    scale, zero_point = quantizer.scale_and_zero_point()
    lowest, highest = quantizer.limits
    assert quantizer(torch.zeros(1)).item() == 0
    assert lowest <= zero_point <= highest
    ends = torch.tensor([low, high])
    assert (quantizer(ends) - ends).abs().max() <= scale
    assert len(quantizer(torch.linspace(low, high, 5000)).unique()) <= 256


def test_ort_grid_is_affine_where_conv_reads_and_symmetric_where_linear_reads() -> None:
    conv, linear = (ActivationQuantizer(8, kind, grid_named("ort")) for kind in ("conv", "linear"))
    for quantizer in (conv, linear):
        quantizer.set_range(0.0, 2.55)
    assert conv.limits == (0, 255)
    assert linear.limits == (-127, 127)
    torch.testing.assert_close(conv.scale_and_zero_point()[0].item(), 0.01)
    torch.testing.assert_close(linear.scale_and_zero_point()[0].item(), 2.55 / 127)
    assert linear.scale_and_zero_point()[1] == 0


def test_trt_grid_is_symmetric_everywhere() -> None:
    quantizer = ActivationQuantizer(8, "conv", grid_named("trt"))
    quantizer.set_range(-1.0, 3.0)
    assert quantizer.limits == (-127, 127)
    assert quantizer(torch.tensor([-3.0, 3.0, 9.0])).tolist() == pytest.approx([-3.0, 3.0, 3.0])


def plan(backbone: nn.Module, **rule: object) -> tuple[Network, Plan]:
    made = network(backbone)
    return made, placement.plan(made.graph, made.backbone, made.layers, Rule(W8A8, **rule), made.grid)  # type: ignore[arg-type]


def test_plan_of_a_chain_quantizes_what_each_layer_reads() -> None:
    _, found = plan(Plain())
    assert found.weight_bits == {"0": 8, "3": 8, "8": 8}
    assert {"_0", "_3", "_8"} <= found.inputs.keys()
    assert all(list(inputs) == [0] for inputs in found.inputs.values())
    assert {key for inputs in found.inputs.values() for key in inputs.values()} == found.kinds.keys()


def test_plan_of_an_addition_quantizes_both_inputs() -> None:
    made, found = plan(Residual())
    assert made.graph is not None
    addition = next(node for node in made.graph.nodes if "add" in node.name)
    assert sorted(found.inputs[addition.name]) == [0, 1]
    assert {found.kinds[key] for key in found.inputs[addition.name].values()} == {"conv"}


def test_tensor_that_two_nodes_read_has_one_quantizer() -> None:
    made, found = plan(Residual())
    readers = [key for inputs in found.inputs.values() for key in inputs.values()]
    assert len(readers) > len(set(readers)) == len(found.kinds)
    made.quantize(Rule(W8A8))
    assert set(made.quantizers) == set(readers)


def test_excluded_layers_stay_float() -> None:
    _, found = plan(Residual(), exclude=("stem", "classifier"))
    assert set(found.weight_bits) == {"conv1", "conv2"}


def test_narrow_layers_stay_float() -> None:
    _, found = plan(Plain(), min_channels=8)
    assert set(found.weight_bits) == {"3"}


def test_everything_excluded_quantizes_nothing() -> None:
    _, found = plan(Residual(), exclude=("stem", "conv1", "conv2", "classifier"))
    assert (found.weight_bits, found.inputs, found.kinds) == ({}, {}, {})


def test_uncaptured_network_is_quantized_at_its_layers_inputs() -> None:
    made, found = plan(DataDependent())
    assert made.graph is None
    assert found.weight_bits == {"conv1": 8, "conv2": 8, "classifier": 8}
    assert [list(inputs) for inputs in found.inputs.values()] == [[0]] * 3


def test_uncaptured_network_simulates_and_leaves_its_layers_alone() -> None:
    made = network(DataDependent())
    plain = made(images())
    made.quantize(Rule(W8A8))
    for quantizer in made.quantizers.values():
        quantizer.set_range(-4.0, 4.0)  # type: ignore[operator]
    simulated = made(images())
    assert not torch.equal(simulated, plain)
    torch.testing.assert_close(simulated, plain, rtol=0, atol=0.3)
    assert torch.equal(made.backbone(images()), plain)


@pytest.mark.parametrize("backbone", [Residual, DataDependent])
def test_captured_and_uncaptured_simulation_agree_on_their_common_edges(backbone: type[nn.Module]) -> None:
    """Without edges between layers (additions, averages), a graph adds nothing to what the layers' inputs give."""
    made = network(backbone())
    blind = copy.deepcopy(made)
    blind.captured = Captured(None)
    for each in (made, blind):
        each.quantize(Rule(W8A8))
        for quantizer in each.quantizers.values():
            quantizer.set_range(-4.0, 4.0)  # type: ignore[operator]
    if backbone is Residual:
        assert not torch.equal(made(images()), blind(images()))
    else:
        assert torch.equal(made(images()), blind(images()))


def test_network_without_a_rule_answers_as_its_backbone() -> None:
    made = network(Residual())
    assert torch.equal(made(images()), made.backbone(images()))
    assert made.example_input().shape == (1, *SHAPE)


def test_changing_the_grid_keeps_the_ranges() -> None:
    made = network(Plain(), "ort")
    made.quantize(Rule(W8A8))
    for quantizer in made.quantizers.values():
        quantizer.set_range(-1.0, 2.0)  # type: ignore[operator]
    before = made(images())
    made.lay_on(grid_named("trt"))
    assert {float(q.high) for q in made.quantizers.values()} == {2.0}  # type: ignore[arg-type]
    assert not torch.equal(made(images()), before)
    made.lay_on(grid_named("ort"))
    assert torch.equal(made(images()), before)


@pytest.mark.parametrize("maximum", [127, 63, 7])
def test_rounding_errors_of_a_channel_sum_to_half_a_step(maximum: int, reference: tuple[Tensor, Tensor]) -> None:
    integers, scale = fake_quant.integers(reference[0], maximum, fake_quant.balanced)
    errors = (reference[0] / scale.reshape(-1, 1, 1, 1) - integers).flatten(1)
    assert errors.sum(1).abs().max() <= 0.5 + 1e-3
    assert errors.abs().max() < 1
    nearest = (reference[0] / scale.reshape(-1, 1, 1, 1)).round()
    assert int((integers != nearest).sum()) > 0  # what rounding to the nearest does not give by itself


def test_weights_on_the_grid_are_not_rounded_again(reference: tuple[Tensor, Tensor]) -> None:
    integers, scale = fake_quant.integers(reference[0], 127, fake_quant.balanced)
    again, _ = fake_quant.integers(integers * scale.reshape(-1, 1, 1, 1), 127, fake_quant.balanced)
    assert torch.equal(again, integers)


def test_masked_weights_stay_zero_when_a_channel_is_balanced(reference: tuple[Tensor, Tensor]) -> None:
    weight = reference[0].clone()
    weight[:, ::2] = 0
    assert fake_quant.integers(weight, 7, fake_quant.balanced)[0][:, ::2].abs().max() == 0


def test_depthwise_filter_answers_for_even_light_as_in_float() -> None:
    layer = nn.Conv2d(8, 8, 3, groups=8, bias=False)
    nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(0))
    light = torch.rand(1, 8, 1, 1, generator=torch.Generator().manual_seed(1)).expand(1, 8, 3, 3)
    rounded = weight_quantizers.simulated(layer.weight, "balanced", 8, grid_named("trt"))
    step = fake_quant.symmetric_scale(layer.weight, 127) * light[0, :, 0, 0]
    change = (layer(light) - nn.functional.conv2d(light, rounded, groups=8)).flatten().abs()
    assert (change <= step / 2 + 1e-6).all()


def test_linear_layers_are_rounded_to_the_nearest_where_convolutions_are_balanced() -> None:
    steps = 20 * torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(fake_quant.balanced(steps, 127), fake_quant.nearest(steps, 127))
    assert not torch.equal(fake_quant.balanced(steps[..., None, None], 127)[..., 0, 0], fake_quant.nearest(steps, 127))
