"""Vision transformers of DeiT's sizes (Touvron et al., 2021, table 1), without the distillation token.

Attention is written out (matmul, softmax, matmul) so that its operands can be found and quantised, and its inner width
is an attribute of its own so that the embedding width can be pruned without touching the heads.
"""

import torch
from torch import Tensor, nn

from nacdeploy.base.errors import UsageError

N_HEADS = {"deit_tiny": 3, "deit_small": 6, "deit_base": 12}
HEAD_DIM = 64
MLP_RATIO = 4
N_STAGES = 4
BLOCKS_PER_STAGE = 3


def patch_size(input_size: tuple[int, int]) -> int:
    """The side of a patch in pixels, chosen so that images of any usual size give some 50 to 200 patches."""
    side = min(input_size)
    if side >= 96:
        return 16
    return 4 if side >= 24 else 2


class PatchEmbedding(nn.Module):
    """`(N, channels, H, W)` images to `(N, 1 + patches, width)` tokens, the class token first."""

    def __init__(self, channels: int, input_size: tuple[int, int], width: int) -> None:
        super().__init__()
        side = patch_size(input_size)
        n_patches = (input_size[0] // side) * (input_size[1] // side)
        self.projection = nn.Conv2d(channels, width, side, side)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.zeros(1, 1 + n_patches, width))
        nn.init.trunc_normal_(self.class_token, std=0.02)
        nn.init.trunc_normal_(self.position, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        x = self.projection(x).flatten(2).transpose(1, 2)
        token = self.class_token.expand(x.shape[0], -1, -1)
        return torch.cat([token, x], dim=1) + self.position


class Attention(nn.Module):
    """Multi-head self-attention over `(N, tokens, width)`; the heads' widths do not depend on the embedding's."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = width // num_heads
        self.scale = self.head_dim**-0.5
        inner = self.num_heads * self.head_dim
        self.qkv = nn.Linear(width, 3 * inner)
        self.projection = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).reshape(x.shape[0], x.shape[1], 3, self.num_heads, self.head_dim)
        qkv = qkv.permute(2, 0, 3, 1, 4)
        scores = torch.matmul(qkv[0] * self.scale, qkv[1].transpose(-2, -1))
        mixed = torch.matmul(torch.softmax(scores, dim=-1), qkv[2])
        return self.projection(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """A pre-norm transformer block over `(N, tokens, width)`."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(width, num_heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, MLP_RATIO * width), nn.GELU(), nn.Linear(MLP_RATIO * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class DeiT(nn.Module):
    """`(N, channels, H, W)` images of one size to `(N, n_classes)` logits."""

    def __init__(self, width: int, num_heads: int, n_classes: int, channels: int, input_size: tuple[int, int]) -> None:
        super().__init__()
        self.stem = PatchEmbedding(channels, input_size, width)
        self.stages = nn.Sequential(
            *(nn.Sequential(*(Block(width, num_heads) for _ in range(BLOCKS_PER_STAGE))) for _ in range(N_STAGES))
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.classifier = nn.Linear(width, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stages(self.stem(x)))
        return self.classifier(x[:, 0])


def build(name: str, *, n_classes: int, channels: int, input_size: tuple[int, int], width: float | None) -> nn.Module:
    """A vision transformer; `width` is its embedding width.

    Raises:
        UsageError: the width is not a multiple of the number of heads, or the image is smaller than a patch.
    """
    num_heads = N_HEADS[name]
    embedding = num_heads * HEAD_DIM if width is None else width
    if embedding < num_heads or embedding % num_heads:
        raise UsageError(f"width of {name} must be a multiple of its {num_heads} heads, not {embedding:g}")
    if min(input_size) < patch_size(input_size):
        raise UsageError(f"{name} needs images of at least 2x2 pixels, not {input_size[0]}x{input_size[1]}")
    return DeiT(int(embedding), num_heads, n_classes, channels, input_size)
