"""Paddings in front of convolutions become their own, and answers stay."""

import onnx
import pytest
import torch
from small_networks import images, network, quantized
from torch import Tensor, nn
from torch.nn import functional

from nacdeploy.exporters.onnx_graph.trace import to_onnx
from nacdeploy.exporters.parity import first_divergence, worst_steps
from nacdeploy.exporters.targets.ort.runner import OnnxRunner
from nacdeploy.network.captured.decibels import snr_db
from nacdeploy.network.network import Network


class Padded(nn.Module):
    """An uneven padding in front of a convolution, as of TensorFlow's "same"."""

    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.first, self.second, self.last = (
            nn.Conv2d(3, 8, 3),
            nn.Conv2d(8, 8, 3, stride=2, padding=1),
            nn.Linear(8, 5),
        )
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        x = functional.pad(torch.relu(self.first(x)), (0, 1, 0, 1), value=self.value)
        return self.last(torch.relu(self.second(x)).mean((2, 3)))


HEAD = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))


def operators(made: Network) -> list[str]:
    return [node.op_type for node in onnx.load_model_from_string(to_onnx(made, 20).model).graph.node]


@pytest.mark.parametrize("in_integers", [False, True])
def test_zeros_are_padded_by_the_convolution_itself(in_integers: bool) -> None:
    made = network(Padded(), "ort")
    if in_integers:
        made = quantized(made, integers_between=True)
    assert "Pad" not in operators(made)
    x = images(4)
    with torch.no_grad():
        wanted = made(x)
    found = torch.from_numpy(OnnxRunner(to_onnx(made, 20).model, optimization="disabled").run(x.numpy())[0])
    assert snr_db(wanted, found) > (40 if in_integers else 100)


def test_layers_behind_a_folded_padding_are_compared() -> None:
    made = quantized(network(Padded(), "ort"), integers_between=True)
    graph = to_onnx(made, 20)
    assert first_divergence(made, graph, images(4).numpy(), OnnxRunner, 30) is None
    steps = worst_steps(made, graph, images(4).numpy())
    assert len(steps) >= 2
    assert max(steps.values()) <= 1


def test_other_values_stay_padded() -> None:
    assert "Pad" in operators(network(Padded(1.0), "ort"))


@pytest.mark.parametrize("second", [nn.Conv2d(8, 8, 3), nn.ConvTranspose2d(8, 8, 3)], ids=["conv", "transposed"])
def test_layers_left_in_float_are_float_in_the_optimised_session_too(second: nn.Module) -> None:
    """Between integers ONNX Runtime rounds float weights to 8 bits, on one scale for the layer."""
    made = network(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), second, nn.Conv2d(8, 8, 3), *HEAD), "ort")
    with torch.no_grad():
        second.weight[:, 0].mul_(500)  # type: ignore[index, operator]
        made.backbone[3].weight[:, :1].div_(500)  # type: ignore[index, operator]
    made = quantized(made, integers_between=True, exclude=("2",))
    content = to_onnx(made, 20).model
    x = images(4).numpy()
    whole, plain = (torch.from_numpy(OnnxRunner(content, optimization=o).run(x)[0]) for o in ("all", "disabled"))
    assert snr_db(plain, whole) > 45
