"""The layers of a network as models to time."""

from torch import Tensor, nn

from nacdeploy.latencies.layers import layers_of
from nacdeploy.network.network import Network
from nacdeploy.strategies.state import CompressionState


class Listed(nn.Module):
    """A convolution whose stride and padding are lists, as EfficientNet's are."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.conv.stride, self.conv.padding, self.conv.dilation = [2, 2], [1, 1], [1, 1]  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).mean((2, 3))


def test_layers_are_told_apart_when_a_network_holds_lists(baseline: CompressionState) -> None:
    network = Network(Listed(), baseline.network.grid, (1, 8, 8)).eval()
    (layer,) = layers_of(network)
    assert len({layer, *layers_of(network)}) == 1
    assert (layer.strides, layer.pads, layer.dilations) == ((2, 2), (1, 1, 1, 1), (1, 1))
