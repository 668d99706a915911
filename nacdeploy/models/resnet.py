"""Residual networks for small images: a 3x3 stride-1 stem without max pooling (He et al., 2016, section 4.2).

The shortcut of a block that changes the shape is a 1x1 convolution with batch norm (option B of the paper).
"""

from dataclasses import dataclass

from torch import Tensor, nn

from nacdeploy.base.errors import UsageError


@dataclass(frozen=True)
class Layout:
    """Blocks per stage and the channels of the first stage; each later stage doubles them and halves the image."""

    n_blocks: tuple[int, ...]
    width: int


LAYOUTS = {
    "resnet8": Layout((1, 1, 1), 16),
    "resnet20": Layout((3, 3, 3), 16),
    "resnet34": Layout((3, 4, 6, 3), 64),
}


def _conv_norm(n_in: int, n_out: int, kernel_size: int, stride: int) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    padding = kernel_size // 2
    return nn.Conv2d(n_in, n_out, kernel_size, stride, padding, bias=False), nn.BatchNorm2d(n_out)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: `(N, n_in, H, W)` to `(N, n_out, H / stride, W / stride)`."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv_norm(n_in, n_out, 3, stride)
        self.relu1 = nn.ReLU()
        self.conv2, self.bn2 = _conv_norm(n_out, n_out, 3, 1)
        same = n_in == n_out and stride == 1
        self.shortcut = nn.Identity() if same else nn.Sequential(*_conv_norm(n_in, n_out, 1, stride))
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.shortcut(x)
        x = self.relu1(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        return self.relu2(x + shortcut)


class ResNet(nn.Module):
    """`(N, channels, H, W)` images to `(N, n_classes)` logits."""

    def __init__(self, layout: Layout, n_classes: int, channels: int) -> None:
        super().__init__()
        widths = [layout.width * 2**i for i in range(len(layout.n_blocks))]
        self.stem = nn.Sequential(*_conv_norm(channels, layout.width, 3, 1), nn.ReLU())
        inputs = [layout.width, *widths]
        self.stages = nn.Sequential(
            *(_stage(inputs[i], widths[i], n, stride=1 if i == 0 else 2) for i, n in enumerate(layout.n_blocks))
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(widths[-1], n_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(self.stem(x))
        return self.classifier(self.flatten(self.pool(x)))


def _stage(n_in: int, n_out: int, n_blocks: int, stride: int) -> nn.Sequential:
    rest = (BasicBlock(n_out, n_out, 1) for _ in range(n_blocks - 1))
    return nn.Sequential(BasicBlock(n_in, n_out, stride), *rest)


def build(name: str, *, n_classes: int, channels: int, input_size: tuple[int, int], width: float | None) -> nn.Module:
    """A residual network; `width` is the channels of its first stage. It runs on any `input_size`.

    Raises:
        UsageError: the width is not a positive whole number.
    """
    layout = LAYOUTS[name]
    if width is not None:
        if width < 1 or not float(width).is_integer():
            raise UsageError(f"width of {name} is a number of channels, not {width:g}; its default is {layout.width}")
        layout = Layout(layout.n_blocks, int(width))
    return ResNet(layout, n_classes, channels)
