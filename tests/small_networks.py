"""Small networks of every kind of connection, written by hand."""

from typing import Any

import torch
from torch import Tensor, nn

from nacdeploy.base.precision import Precision
from nacdeploy.exporters.targets import grid_named
from nacdeploy.network.attachments.attachment import Attachment
from nacdeploy.network.attachments.fake_quant import Rule
from nacdeploy.network.captured.graph import WEIGHTED, with_weights
from nacdeploy.network.network import Network
from nacdeploy.network.semantics import Use

SHAPE = (3, 8, 8)


def conv(n_in: int, n_out: int, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(n_in, n_out, 3, padding=1, groups=groups, bias=False)


class Plain(nn.Sequential):
    """conv - bn - relu - conv - bn - relu - pool - linear."""

    def __init__(self) -> None:
        head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))
        body = (conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 16), nn.BatchNorm2d(16), nn.ReLU())
        super().__init__(*body, *head)


class Residual(nn.Module):
    """Both inputs of the addition come from convolutions of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.ReLU())
        self.conv1, self.bn1, self.conv2, self.bn2 = conv(8, 8), nn.BatchNorm2d(8), conv(8, 8), nn.BatchNorm2d(8)
        self.classifier = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))
        return self.classifier(x.mean((2, 3)))


class Concat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.joined = conv(3, 8), conv(3, 4), conv(12, 8)
        self.norm = nn.BatchNorm2d(12)
        self.classifier = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(torch.cat([self.left(x), self.right(x)], 1)))
        return self.classifier(torch.relu(self.joined(x)).mean((2, 3)))


class Depthwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.expand, self.norm1 = conv(3, 8), nn.BatchNorm2d(8)
        self.depthwise, self.norm2 = conv(8, 8, groups=8), nn.BatchNorm2d(8)
        self.project = nn.Conv2d(8, 6, 1)
        self.classifier = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm1(self.expand(x)))
        x = torch.relu(self.norm2(self.depthwise(x)))
        return self.classifier(torch.relu(self.project(x)).mean((2, 3)))


class Grouped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.grouped, self.last = conv(3, 8), conv(8, 8, groups=2), conv(8, 8)
        self.classifier = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.grouped(torch.relu(self.first(x))))
        return self.classifier(torch.relu(self.last(x)).mean((2, 3)))


class FlattenLinear(nn.Sequential):
    """The linear layer reads every pixel of every channel."""

    def __init__(self) -> None:
        reading = (nn.Flatten(), nn.Linear(8 * 16, 12), nn.ReLU(), nn.Linear(12, 5))
        super().__init__(conv(3, 8), nn.ReLU(), nn.MaxPool2d(2), *reading)


class Signal(nn.Module):
    """Convolutions along one axis: a stride, a dilation, groups, a residual, pools of both kinds; no bias in front of a
    norm."""

    def __init__(self, n_classes: int = 5) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv1d(3, 16, 5, 2, 2, bias=False), nn.BatchNorm1d(16)
        self.deep, self.depthwise = nn.Conv1d(16, 16, 3, padding=2, dilation=2), nn.Conv1d(16, 16, 3, 1, 1, groups=16)
        self.wide, self.classifier = nn.Conv1d(16, 24, 3), nn.Linear(24, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool1d(torch.relu(self.norm(self.stem(x.flatten(2)))), 2)
        x = torch.relu(x + self.depthwise(torch.relu(self.deep(x))))
        return self.classifier(torch.relu(self.wide(x)).mean(2))


class Volume(nn.Module):
    """Convolutions along three axes."""

    def __init__(self, n_classes: int = 5) -> None:
        super().__init__()
        stem = (nn.Conv3d(1, 16, 3, padding=1), nn.BatchNorm3d(16), nn.ReLU(), nn.MaxPool3d((1, 2, 2)))
        deep = (nn.Conv3d(16, 16, 3, (1, 2, 2), 1), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten())
        self.body, self.classifier = nn.Sequential(*stem, *deep), nn.Linear(16, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.body(x[:, None]))


class Attention(nn.Module):
    """Tokens of a convolution, a layer norm, one head of attention."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm = nn.Conv2d(3, 8, 2, stride=2), nn.LayerNorm(8)
        self.query, self.key, self.value, self.last = (nn.Linear(8, 8) for _ in range(4))
        self.classifier = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.last(self.patches(x).flatten(2).transpose(1, 2))
        x = self.norm(x)
        query, key, value = self.query(x), self.key(x), self.value(x)
        weights = torch.softmax(torch.matmul(query, key.transpose(1, 2)), -1)
        return self.classifier(torch.matmul(weights, value)[:, 0])


class Attending(nn.Module):
    """Attention as in timm: one layer for queries, keys and values, fused or spelt out, with a gate on its answer."""

    def __init__(self, width: int = 24, n_heads: int = 4, head_dim: int = 6, is_fused: bool = True) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.attn_dim = n_heads, head_dim, n_heads * head_dim
        self.scale, self.is_fused = head_dim**-0.5, is_fused
        self.qkv, self.norm = nn.Linear(width, 3 * self.attn_dim), nn.LayerNorm(head_dim)
        self.gate, self.proj = nn.Linear(width, self.attn_dim), nn.Linear(self.attn_dim, width)

    def forward(self, x: Tensor) -> Tensor:
        n, length, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, length, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        if self.is_fused:
            mixed = nn.functional.scaled_dot_product_attention(self.norm(q), k, v)
        else:
            mixed = ((self.norm(q) * self.scale) @ k.transpose(-2, -1)).softmax(-1) @ v
        mixed = mixed.transpose(1, 2).reshape(n, length, self.attn_dim)
        return self.proj(mixed * self.gate(x).sigmoid())


class Separate(nn.Module):
    """Attention with a layer for each of queries, keys and values, as in BERT; heads in the shape of a view."""

    def __init__(self, width: int = 24, n_heads: int = 4) -> None:
        super().__init__()
        self.num_attention_heads, self.attention_head_size, self.all_head_size = n_heads, width // n_heads, width
        self.query, self.key, self.value = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, width)
        self.dense = nn.Linear(width, width)

    def split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], self.num_attention_heads, self.attention_head_size).permute(0, 2, 1, 3)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.split(self.query(x)) @ self.split(self.key(x)).transpose(-1, -2)
        mixed = (scores / self.attention_head_size**0.5).softmax(-1) @ self.split(self.value(x))
        mixed = mixed.permute(0, 2, 1, 3).contiguous()
        return self.dense(mixed.view(*mixed.shape[:-2], self.all_head_size))


class Heads(nn.Module):
    """Two blocks of attention of different kinds over the places of a map."""

    def __init__(self, n_classes: int = 5) -> None:
        super().__init__()
        self.stem, self.classifier = nn.Conv2d(3, 24, 2, 2), nn.Linear(24, n_classes)
        self.first, self.second, self.third = Attending(), Attending(is_fused=False), Separate()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2).contiguous()
        x = x + self.first(x)
        x = x + self.second(x)
        return self.classifier((x + self.third(x)).mean(1))


class DataDependent(nn.Module):
    """Its control flow depends on its input: there is no graph of it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.classifier = conv(3, 8), conv(8, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv1(x))
        if bool((x.sum() < -1e9).item()):
            x = -x
        return self.classifier(torch.relu(self.conv2(x)).mean((2, 3)))


class BranchOnShape(DataDependent):
    """Its control flow depends on the shape of its input: symbolic tracing would give up."""

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv1(x))
        if x.shape[2] > 100:
            x = x[:, :, ::2, ::2]
        return self.classifier(torch.relu(self.conv2(x)).mean((2, 3)))


def network(backbone: nn.Module, grid: str = "ort", seed: int = 0) -> Network:
    """A network in evaluation mode whose weights, norms and norm statistics all differ from channel to channel."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
        for module in backbone.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
                module.weight.add_(1.0)
                module.running_mean.copy_(0.1 * torch.randn(module.num_features, generator=generator))
                module.running_var.copy_(0.5 + torch.rand(module.num_features, generator=generator))
    return Network(backbone, grid_named(grid), SHAPE).eval()


def images(n: int = 8, seed: int = 1) -> Tensor:
    return torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(seed))


def quantized(made: Network, bits: int = 8, **rule: Any) -> Network:
    """With quantizers whose ranges were seen on the test images."""
    made.quantize(Rule(Precision(bits, 8), **{"every_convolution": True, **rule}))
    observed = Observed()
    with torch.no_grad():
        made.run(images(64), observed)
    for key, quantizer in made.quantizers.items():
        values = torch.cat(observed.seen[key])
        quantizer.set_range(float(values.min()), float(values.max()))  # type: ignore[operator]
    return made


class Observed:
    """Lets everything pass as it is and keeps what it saw at the edges."""

    def __init__(self) -> None:
        self.seen: dict[str, list[Tensor]] = {}

    def edge(self, key: str, x: Tensor, use: Use) -> Tensor:
        self.seen.setdefault(key, []).append(x.flatten())
        return x

    def layer(self, name: str, module: nn.Module, x: Tensor) -> Tensor:
        if isinstance(module, WEIGHTED):
            return with_weights(module, x, module.weight, module.bias)
        return module(x)

    def attached(self, key: str, module: Attachment, x: Tensor) -> Tensor:
        return module(x)
