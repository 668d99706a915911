"""MobileViT-XXS (Mehta & Rastegari, 2021), a network that NAC compressed, as one of your own: no base class.

    nacdeploy train    --model examples/mobilevit.py:small --data fashion-mnist --input-size 32 --out mobilevit
    nacdeploy transfer --checkpoint mobilevit --strategy QPEF
    nacdeploy export   --target ort
    nacdeploy bench    runs/export-ort-1

Blocks of MobileNetV2, and three MobileViT blocks: convolutions look at what is near, then each of the four pixels of a
2x2 patch attends to its fellows in all other patches. `xxs` is the paper's network, for images whose sides 64 divides;
`small` halves three times in place of five, for sides that 16 divides.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

PATCH, N_HEADS = 2, 4


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, batch norm and SiLU."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.SiLU())


class Inverted(nn.Module):
    """An inverted residual: twice the channels, a depthwise convolution, and a projection without activation."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.expand, self.depthwise = conv(inputs, 2 * inputs, 1), conv(2 * inputs, 2 * inputs, 3, stride, 2 * inputs)
        self.project = nn.Sequential(nn.Conv2d(2 * inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.adds else y


class Transformer(nn.Module):
    """A layer of a transformer, norms first: attention, then two linear layers; tokens are (B, T, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm2, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(2, (N_HEADS, -1)).transpose(1, 2) for part in self.qkv(self.norm1(x)).chunk(3, 2))
        x = x + self.out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.down(functional.silu(self.up(self.norm2(x))))


class MobileViTBlock(nn.Module):
    """Convolutions as local and a transformer as global representation, fused with the input; (N, C, H, W) stays."""

    def __init__(self, channels: int, width: int, depth: int) -> None:
        super().__init__()
        self.near, self.into = conv(channels, channels), nn.Conv2d(channels, width, 1, bias=False)
        self.layers, self.norm = nn.Sequential(*(Transformer(width) for _ in range(depth))), nn.LayerNorm(width)
        self.back, self.fuse = conv(width, channels, 1), conv(2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.into(self.near(x))
        n, d, height, width = y.shape
        rows, columns = height // PATCH, width // PATCH
        y = y.reshape(n, d, rows, PATCH, columns, PATCH).permute(0, 3, 5, 2, 4, 1)
        y = self.norm(self.layers(y.reshape(n * PATCH * PATCH, rows * columns, d)))
        y = y.reshape(n, PATCH, PATCH, rows, columns, d).permute(0, 5, 3, 1, 4, 2).reshape(n, d, height, width)
        return self.fuse(torch.cat([x, self.back(y)], 1))


class MobileViT(nn.Module):
    """Images (N, channels, H, W) to logits (N, n_classes); H and W are multiples of twice the product of `strides`."""

    def __init__(self, n_classes: int, channels: int, strides: tuple[int, int, int, int, int]) -> None:
        super().__init__()
        first, second, third, fourth, fifth = strides
        self.stem = nn.Sequential(conv(channels, 16, stride=first), Inverted(16, 16))
        self.stage1 = nn.Sequential(Inverted(16, 24, second), Inverted(24, 24), Inverted(24, 24))
        self.stage2 = nn.Sequential(Inverted(24, 48, third), MobileViTBlock(48, width=64, depth=2))
        self.stage3 = nn.Sequential(Inverted(48, 64, fourth), MobileViTBlock(64, width=80, depth=4))
        self.stage4 = nn.Sequential(Inverted(64, 80, fifth), MobileViTBlock(80, width=96, depth=3))
        self.last, self.classifier = conv(80, 320, 1), nn.Linear(320, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage4(self.stage3(self.stage2(self.stage1(self.stem(x)))))
        return self.classifier(self.last(x).mean((2, 3)))


def xxs(n_classes: int, channels: int) -> nn.Module:
    """Return the paper's network: 32 pixels of an image for one of the last map."""
    return MobileViT(n_classes, channels, (2, 2, 2, 2, 2))


def small(n_classes: int, channels: int) -> nn.Module:
    """Return the network for small images."""
    return MobileViT(n_classes, channels, (1, 1, 2, 2, 2))
