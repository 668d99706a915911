"""Equalization: the float network answers bit for bit as before, and integers answer better where channels differ."""

import copy

import pytest
import torch
from conftest import follow, make_profile
from small_networks import Concat, Depthwise, FlattenLinear, Grouped, Plain, Residual, images, network
from torch import Tensor, nn

from nacdeploy.base.errors import RefusedError
from nacdeploy.base.precision import Precision
from nacdeploy.network.attachments.fake_quant import Rule
from nacdeploy.network.network import Network
from nacdeploy.strategies.baseline import initial_state
from nacdeploy.strategies.operators.quantize.equalize import equalize, imbalance, magnitudes
from nacdeploy.strategies.settle import unquantized
from nacdeploy.strategies.state import CompressionState, plain_key
from nacdeploy.task import Task

RULE = Rule(Precision(8, 8), integers_between=True)


class Gated(nn.Module):
    """A SiLU passes no factor on."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(nn.functional.silu(self.second(nn.functional.silu(self.first(x)))).mean((2, 3)))


def made(kind: type[nn.Module], by: float = 1.0) -> Network:
    """Return a quantized network; the third output channel of each convolution is `by` times as large."""
    found = network(kind(), "ort")
    with torch.no_grad():
        for module in found.backbone.modules():
            if isinstance(module, nn.Conv2d):
                module.weight[2].mul_(by)
    found.quantize(RULE)
    return found


@pytest.mark.parametrize("kind", [Plain, Residual, Concat, Depthwise, Grouped, FlattenLinear, Gated])
@pytest.mark.parametrize("share", [0.5, 1.0])
def test_float_network_answers_bit_for_bit_as_before(kind: type[nn.Module], share: float) -> None:
    before, x = made(kind, by=50.0), images(4)
    after = copy.deepcopy(before)
    equalize(after, magnitudes(after, x), share)
    with torch.no_grad():
        assert torch.equal(unquantized(before)(x), unquantized(after)(x))


@pytest.mark.parametrize(
    ("kind", "changes"), [(Depthwise, True), (FlattenLinear, True), (Residual, True), (Gated, False)]
)
def test_factors_pass_relu_and_additions_and_stop_at_a_smooth_activation(kind: type[nn.Module], changes: bool) -> None:
    before, x = made(kind, by=50.0), images(4)
    after = copy.deepcopy(before)
    equalize(after, magnitudes(after, x), 0.5)
    pairs = zip(before.backbone.parameters(), after.backbone.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs) == changes


def test_channels_that_differ_are_noticed() -> None:
    alike, unlike = made(FlattenLinear), made(FlattenLinear)
    unlike.backbone[0].weight.data[2] *= 4096  # type: ignore[index]
    unlike.backbone[4].weight.data[:, 32:48] /= 4096  # type: ignore[index]
    x = images(4)
    assert imbalance(alike, magnitudes(alike, x)) < 32 < imbalance(unlike, magnitudes(unlike, x))


@pytest.fixture
def unequal(baseline: CompressionState, task: Task) -> CompressionState:
    """A trained ResNet8 with a channel a thousand times as large inside a block, undone in the next layer."""
    found = copy.deepcopy(baseline.network)
    calls = [str(node.target) for node in found.graph.nodes if node.op == "call_module"]  # type: ignore[union-attr]
    norms = [name for name in calls if name.endswith("bn1") and "." in name]
    layer = found.backbone.get_submodule(norms[0].replace("bn1", "conv2"))
    norm = found.backbone.get_submodule(norms[0])
    with torch.no_grad():
        norm.weight[1] *= 1024  # type: ignore[index]
        norm.bias[1] *= 1024  # type: ignore[index]
        layer.weight[:, 1] /= 1024  # type: ignore[index]
    return initial_state(found, task)


def test_q_loses_nothing_by_a_channel_a_thousand_times_as_large(unequal: CompressionState, task: Task) -> None:
    after = follow(unequal, "Q", task, make_profile())
    assert after.steps[-1].decision.equalized is not None
    assert after.metrics.score > unequal.metrics.score - 0.01
    with pytest.raises(RefusedError, match="destroys the network"):
        follow(unequal, "Q(equalize=off)", task, make_profile())


def test_q_leaves_channels_that_are_alike(baseline: CompressionState, task: Task) -> None:
    after = follow(baseline, "Q", task, make_profile())
    assert after.steps[-1].decision.equalized is None
    assert plain_key(after.network) == plain_key(baseline.network)
