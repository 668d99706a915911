"""Quantized networks without data or training, for tests and measurements of builders; the ranges come from noise."""

import torch
from torch import Tensor, nn

from nacdeploy.base.precision import Precision
from nacdeploy.exporters.targets import grid_named
from nacdeploy.models import resolve
from nacdeploy.network.attachments.attachment import Attachment
from nacdeploy.network.attachments.fake_quant import Rule
from nacdeploy.network.captured.graph import WEIGHTED
from nacdeploy.network.network import Network
from nacdeploy.network.semantics import Use


class _Ranges:
    """Passes every tensor on and keeps the least and the largest value at every edge."""

    def __init__(self) -> None:
        self.found: dict[str, tuple[float, float]] = {}

    def edge(self, key: str, x: Tensor, use: Use) -> Tensor:
        low, high = self.found.get(key, (0.0, 0.0))
        self.found[key] = (min(low, float(x.min())), max(high, float(x.max())))
        return x

    def layer(self, name: str, module: nn.Module, x: Tensor) -> Tensor:
        return module(x)

    def attached(self, key: str, module: Attachment, x: Tensor) -> Tensor:
        return module(x)


def plain(name: str, side: int, *, width: float | None = None, two_four: bool = False) -> Network:
    """Make a built-in network with random weights on TensorRT's grid, for images (3, side, side) and ten classes.

    With `two_four`, two of four weights in a row along the input channels are zero, if the number of channels allows
    it.
    """
    torch.manual_seed(0)
    backbone = resolve(name, n_classes=10, channels=3, input_size=(side, side), width=width).build().eval()
    if two_four:
        _keep_two_of_four(backbone)
    return Network(backbone, grid_named("trt"), (3, side, side)).eval()


def quantized(name: str, side: int, *, width: float | None = None, two_four: bool = False) -> Network:
    """Make `plain` with w8a8 quantizers."""
    network, ranges = plain(name, side, width=width, two_four=two_four), _Ranges()
    network.quantize(Rule(Precision(8, 8)))
    with torch.no_grad():
        network.run(torch.randn(8, 3, side, side, generator=torch.Generator().manual_seed(1)), ranges)
    for key, quantizer in network.quantizers.items():
        quantizer.set_range(*ranges.found[key])  # type: ignore[operator]
    return network


def _keep_two_of_four(backbone: nn.Module) -> None:
    for module in backbone.modules():
        if isinstance(module, WEIGHTED) and module.weight.shape[1] % 4 == 0:
            rows = module.weight.data.movedim(1, -1)
            groups = rows.reshape(-1, 4)
            kept = torch.zeros_like(groups).scatter_(1, groups.abs().topk(2, dim=1).indices, 1.0)
            module.weight.data = (groups * kept).reshape(rows.shape).movedim(-1, 1).contiguous()
