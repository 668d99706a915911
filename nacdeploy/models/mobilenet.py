"""MobileNetV2 for small images: stride 1 in the stem and the first two stages (Sandler et al., 2018, table 2)."""

import math
from dataclasses import dataclass

from torch import Tensor, nn

from nacdeploy.base.errors import UsageError


@dataclass(frozen=True)
class Stage:
    """One row of the paper's table 2."""

    expansion: int
    channels: int
    n_blocks: int
    stride: int


STAGES = (
    Stage(1, 16, 1, 1),
    Stage(6, 24, 2, 1),
    Stage(6, 32, 3, 2),
    Stage(6, 64, 4, 2),
    Stage(6, 96, 3, 1),
    Stage(6, 160, 3, 2),
    Stage(6, 320, 1, 1),
)
STEM_CHANNELS = 32
LAST_CHANNELS = 1280


def rounded(channels: float) -> int:
    """The nearest multiple of 8, at least 8 and never more than 10 % below what was asked."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * channels else nearest + 8


def _conv_norm(
    n_in: int, n_out: int, kernel_size: int, stride: int = 1, groups: int = 1, *, linear: bool = False
) -> list[nn.Module]:
    conv = nn.Conv2d(n_in, n_out, kernel_size, stride, kernel_size // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(n_out), *([] if linear else [nn.ReLU6()])]


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project: `(N, n_in, H, W)` to `(N, n_out, H / stride, W / stride)`."""

    def __init__(self, n_in: int, n_out: int, expansion: int, stride: int) -> None:
        super().__init__()
        inner = n_in * expansion
        self.layers = nn.Sequential(
            *(_conv_norm(n_in, inner, 1) if expansion > 1 else []),
            *_conv_norm(inner, inner, 3, stride, groups=inner),
            *_conv_norm(inner, n_out, 1, linear=True),
        )
        self.has_shortcut = stride == 1 and n_in == n_out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.has_shortcut else self.layers(x)


class MobileNetV2(nn.Module):
    """`(N, channels, H, W)` images to `(N, n_classes)` logits."""

    def __init__(self, width: float, n_classes: int, channels: int) -> None:
        super().__init__()
        widths = [rounded(STEM_CHANNELS * width), *(rounded(stage.channels * width) for stage in STAGES)]
        last = rounded(LAST_CHANNELS * max(1.0, width))
        self.stem = nn.Sequential(*_conv_norm(channels, widths[0], 3))
        self.stages = nn.Sequential(*(_stage(widths[i], widths[i + 1], stage) for i, stage in enumerate(STAGES)))
        self.last = nn.Sequential(*_conv_norm(widths[-1], last, 1))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(last, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.last(self.stages(self.stem(x)))
        return self.classifier(self.flatten(self.pool(x)))


def _stage(n_in: int, n_out: int, stage: Stage) -> nn.Sequential:
    first = InvertedResidual(n_in, n_out, stage.expansion, stage.stride)
    rest = (InvertedResidual(n_out, n_out, stage.expansion, 1) for _ in range(stage.n_blocks - 1))
    return nn.Sequential(first, *rest)


def build(name: str, *, n_classes: int, channels: int, input_size: tuple[int, int], width: float | None) -> nn.Module:
    """MobileNetV2; `width` multiplies all its channels. It runs on any `input_size`.

    Raises:
        UsageError: the width is not positive.
    """
    multiplier = 1.0 if width is None else width
    if not 0 < multiplier < math.inf:
        raise UsageError(f"width of {name} multiplies its channels and must be positive, not {multiplier:g}")
    return MobileNetV2(multiplier, n_classes, channels)
