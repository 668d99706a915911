"""Weights on integers: every quantizer's simulation is its integers times scales, and keeps zeros and gradients."""

import pytest
import torch
from small_networks import images, network, quantized
from torch import Tensor, nn

from nacdeploy.exporters.targets import grid_named
from nacdeploy.network.attachments import fake_quant, weight_quantizers
from nacdeploy.network.attachments.weight_quantizers import WEIGHT_QUANTIZERS

KINDS = pytest.mark.parametrize("kind", WEIGHT_QUANTIZERS)


def drawn(*shape: int) -> Tensor:
    return 0.5 * torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@KINDS
@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("grid", ["ort", "trt"])
def test_simulation_is_integers_times_scales(kind: str, bits: int, grid: str) -> None:
    weight = drawn(8, 4, 3, 3)
    whole, scale = weight_quantizers.integers(weight, kind, bits, grid_named(grid))
    simulated = weight_quantizers.simulated(weight, kind, bits, grid_named(grid))
    torch.testing.assert_close(whole * scale.reshape(-1, 1, 1, 1), simulated, rtol=0, atol=1e-6)
    assert whole.dtype == torch.int8
    assert whole.abs().max() <= grid_named(grid).weight_maximum(8)


@KINDS
def test_zeros_stay_zero_and_everything_is_finite(kind: str) -> None:
    weight = drawn(4, 6)
    weight[0], weight[1, ::2] = 0, 0
    simulated = weight_quantizers.simulated(weight, kind, 8, grid_named("ort"))
    assert simulated.isfinite().all()
    assert (simulated[weight == 0] == 0).all()
    assert (simulated[weight.abs() > 0.1] != 0).all()


@KINDS
def test_gradients_pass_through_the_rounding(kind: str) -> None:
    weight = drawn(4, 6).requires_grad_()
    weight_quantizers.simulated(weight, kind, 4, grid_named("ort")).sum().backward()
    assert weight.grad is not None
    assert (weight.grad > 0).all()


def test_symmetric_is_the_grid_of_before() -> None:
    weight = drawn(8, 4, 3, 3)
    expected = fake_quant.fake_quantize_symmetric(weight, 63)
    assert torch.equal(weight_quantizers.simulated(weight, "symmetric", 8, grid_named("ort")), expected)


@pytest.mark.parametrize("bits", [1, 2, 4, 7])
def test_dorefa_has_levels_without_a_zero(bits: int) -> None:
    """Zhou et al., 2016, eq. 9: 2^k values in even steps from -1 to 1."""
    weight = torch.linspace(-2, 2, 1001)
    levels = weight_quantizers.dorefa(weight, bits).unique()
    torch.testing.assert_close(levels, torch.linspace(-1, 1, 2**bits))


def test_dorefa_rounds_the_squashed_weight() -> None:
    weight = torch.tensor([[0.1, -0.4, 1.0, -2.0]])
    squashed = torch.tanh(weight) / torch.tanh(torch.tensor(2.0))
    expected = 2 * torch.round((squashed / 2 + 0.5) * 15) / 15 - 1
    torch.testing.assert_close(weight_quantizers.dorefa(weight, 4), expected)
    simulated = weight_quantizers.simulated(weight, "dorefa", 4, grid_named("ort"))
    torch.testing.assert_close(simulated, 2.0 * expected)  # the scale keeps the channel's largest weight


def test_binary_is_the_sign_times_the_mean_magnitude_of_what_is_kept() -> None:
    weight = torch.tensor([[0.5, -1.5, 1.0, 0.0], [-2.0, -2.0, 4.0, 0.0]])
    simulated = weight_quantizers.simulated(weight, "binary", 8, grid_named("ort"))
    expected = torch.tensor([1.0, 8 / 3])[:, None] * torch.sign(weight)
    torch.testing.assert_close(simulated, expected)


# Source of the numbers: golden/auptimizer.json, qat_affine and qat_known (ranges widened to contain 0).
@pytest.mark.parametrize(
    ("bits", "low", "high", "scale", "zero_point"),
    [
        (8, 1.0, 5.0, 0.019607843831181526, 0),
        (8, -3.0, -1.0, 0.0117647061124444, 255),
        (4, 0.0, 6.0, 0.4000000059604645, 0),
        (4, -3.0, -1.0, 0.20000000298023224, 15),
        (2, 1.0, 5.0, 1.6666666269302368, 0),
        (2, -3.0, -1.0, 1.0, 3),
    ],
)
def test_affine_scale_and_zero_point(bits: int, low: float, high: float, scale: float, zero_point: int) -> None:
    found = fake_quant.affine_scale(torch.tensor(low), torch.tensor(high), bits)
    assert float(found[0]) == pytest.approx(scale, rel=1e-7)
    assert int(found[1]) == zero_point


def test_affine_values_of_a_known_weight() -> None:
    weight = torch.tensor([[1.1287, 2.3456], [3.7814, 5.9723]])
    scale, zero_point = fake_quant.affine_scale(weight.min(), weight.max(), 8)
    values = (torch.round(weight / scale) + zero_point).clamp(0, 255).sub(zero_point) * scale
    torch.testing.assert_close(values, torch.tensor([[1.1242, 2.3421], [3.7707, 5.9723]]), rtol=1e-4, atol=0)


class _Branches(nn.Module):
    """Two layers read one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.classifier = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        return self.classifier(torch.relu(self.left(x) * self.right(x)).mean((2, 3)))


def test_tensor_of_two_readers_has_the_bits_of_the_more_exacting() -> None:
    made = quantized(network(_Branches()), layer_bits={"left": "w4a4", "stem": "w8a6"})
    bits = {layer: made.plan.activation_bits[made.plan.inputs[layer][0]] for layer in ("stem", "left", "right")}
    assert bits == {"stem": 6, "left": 8, "right": 8}
    assert dict(made.plan.weight_bits) == {"stem": 8, "left": 4, "right": 8, "classifier": 8}
    assert made(images()).shape == (8, 5)
