"""Small networks as exported files with their lowering rows, for the tests of what is read from them."""

from collections.abc import Callable
from functools import cache

import onnx
import torch
from small_networks import SHAPE, network
from torch import nn

from nacdeploy.base.precision import Precision
from nacdeploy.exporters.artifacts import onnx_checks
from nacdeploy.exporters.artifacts.artifact import Lowering
from nacdeploy.exporters.artifacts.onnx_layers import OnnxLayer, onnx_layers
from nacdeploy.exporters.onnx_graph.trace import to_onnx
from nacdeploy.exporters.targets.ort.profiling import node_shapes
from nacdeploy.network.attachments.fake_quant import Rule
from nacdeploy.network.network import Network

IMAGES = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(3)).numpy()


class Attention(nn.Module):
    """Two products of activations between linear layers over tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 2, 2)
        self.query, self.key, self.value = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.classifier = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        weights = torch.softmax(self.query(x) @ self.key(x).transpose(1, 2), -1)
        return self.classifier((weights @ self.value(x)).mean(1))


def exported(
    backbone: Callable[[], nn.Module], target: str = "ort", *, quantized: bool = True
) -> tuple[Network, onnx.ModelProto, list[Lowering]]:
    """A network, a copy of its ONNX file and the rows of what was asked of it."""
    made, content, asked = _exported(backbone, target, quantized)
    model = onnx.load_model_from_string(content)
    return made, model, onnx_checks.lowering_rows(model, asked)


@cache
def _exported(
    backbone: Callable[[], nn.Module], target: str, quantized: bool
) -> tuple[Network, bytes, dict[str, onnx_checks.Wish]]:
    made = network(backbone(), target)
    if quantized:
        made.quantize(Rule(Precision(8, 8), every_convolution=True))
        for quantizer in made.quantizers.values():
            quantizer.set_range(0.0, 2.0)  # type: ignore[operator]
    graph = to_onnx(made, 20)
    return made, graph.model, graph.asked


def layers_of(model: onnx.ModelProto, rows: list[Lowering]) -> tuple[OnnxLayer, ...]:
    """The layers of a file with the shapes of one image."""
    shapes = node_shapes(model.SerializeToString(), IMAGES)
    return onnx_layers(model, rows, {node: (s.input, s.output) for node, s in shapes.items()})
