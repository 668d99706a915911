"""Early exits: heads at places of the captured graph, and the confidence gate that takes them.

The order of the places is NAC's: breadth-first through a balanced tree over the places for convolutional networks,
deepest first for transformers. Leaving early by confidence follows BranchyNet (Teerapittayanon et al., 2016), the heads
with codewords NAC's own, after bags of features (Passalis and Tefas, 2017).
"""

from collections import deque
from collections.abc import Callable, Sequence
from math import prod
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")
N_CODEWORDS = 64
CELLS = 8  # a side, of the map that codewords read
_BAG_GRID = 2
_POOLS: dict[int, Any] = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}


def breadth_first(places: Sequence[T]) -> list[T]:
    """Return `places` in the order of a breadth-first walk through their balanced binary tree (root at len // 2)."""
    order: list[T] = []
    queue = deque([places])
    while queue:
        span = queue.popleft()
        if span:
            middle = len(span) // 2
            order.append(span[middle])
            queue += [span[:middle], span[middle + 1 :]]
    return order


Kind = Literal["linear", "bag"]


class BagOfFeatures(nn.Module):
    """A classifier of a map (N, C, ...): each cell is told by how near it is to each of 64 codewords, these shares are
    averaged over a coarse grid, and two linear layers read them."""

    def __init__(self, channels: int, sizes: Sequence[int], n_classes: int) -> None:
        super().__init__()
        kernel = max(1, min(sizes) // _BAG_GRID)
        cells = prod(size // kernel for size in sizes)
        convolution = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[len(sizes)]
        self.codebook = nn.utils.skip_init(convolution, channels, N_CODEWORDS, 1)
        self.pool = _POOLS[len(sizes)](kernel)
        self.hidden = nn.utils.skip_init(nn.Linear, N_CODEWORDS * cells, N_CODEWORDS)
        self.out = nn.utils.skip_init(nn.Linear, N_CODEWORDS, n_classes)
        self.reset(0)

    def reset(self, seed: int, seen: Tensor | None = None) -> None:
        """Draw the weights anew; `seen` (N, C, ...) is of the size of what will be read."""
        draw = torch.Generator().manual_seed(seed)
        size = 1.0 if seen is None else float(seen.square().mean().sqrt()) + 1e-6
        for layer in (self.codebook, self.hidden, self.out):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="linear", generator=draw)
            nn.init.zeros_(layer.bias)
        with torch.no_grad():
            self.codebook.weight /= size

    def forward(self, x: Tensor) -> Tensor:
        near = (torch.tanh(self.codebook(x)) + 1) / 2
        shares = near / (near.sum(1, keepdim=True) + 1e-6)
        told = N_CODEWORDS * self.pool(shares).flatten(1) - 1  # what all codewords share tells nothing
        return self.out(torch.relu(self.hidden(told)))


class ExitHead(nn.Module):
    """A classifier on an inner tensor: (N, C, ...) pooled to a coarse grid, or (N, L, C) averaged over tokens.

    A grid of several cells keeps the spatial information that early layers have not yet put into channels. What reads
    the pooled tensor is one linear layer, or codewords (`BagOfFeatures`); tokens are read by a linear layer.
    """

    threshold: Tensor

    def __init__(
        self,
        place: str,
        node: str,
        shape: Sequence[int],
        n_classes: int,
        grid: int,
        is_tokens: bool | None = None,
        kind: Kind = "linear",
    ) -> None:
        super().__init__()
        self.place, self.node = place, node
        self.is_tokens = len(shape) == 3 if is_tokens is None else is_tokens
        self.kind: Kind = "linear" if self.is_tokens else kind
        sizes = shape[2:]
        kernel = 1 if self.is_tokens else max(1, min(sizes) // grid)
        self.pool = _POOLS[len(sizes)](kernel)
        self.flatten = nn.Flatten()
        cells = [] if self.is_tokens else [size // kernel for size in sizes]
        channels = shape[2] if self.is_tokens else shape[1]
        if self.kind == "bag":
            self.bag = BagOfFeatures(channels, cells, n_classes)
        else:
            self.linear = nn.utils.skip_init(nn.Linear, channels * prod(cells), n_classes)
            self.reset(0)
        self._read = (channels, *cells)
        self.register_buffer("threshold", torch.full((), 2.0))

    @property
    def classifier(self) -> nn.Module:
        """The part that is trained, which reads `reduced`."""
        return self.bag if self.kind == "bag" else self.linear

    @property
    def reader(self) -> tuple[str, Any]:
        """The layer that reads the channels, and its name."""
        return ("bag.codebook", self.bag.codebook) if self.kind == "bag" else ("linear", self.linear)

    @property
    def layers(self) -> tuple[tuple[Any, tuple[int, ...]], ...]:
        """The layers with weights, and the shape (without the batch) that each reads."""
        if self.kind == "linear":
            return ((self.linear, (self.linear.in_features,)),)
        read = (self.bag.codebook.in_channels, *self._read[1:])
        return ((self.bag.codebook, read), *((each, (each.in_features,)) for each in (self.bag.hidden, self.bag.out)))

    @property
    def macs(self) -> int:
        """The multiplications of one image."""
        return sum(module.weight.numel() * prod(shape[1:]) for module, shape in self.layers)

    def reset(self, seed: int, seen: Tensor | None = None) -> None:
        """Begin anew before a training: a linear classifier needs no random start."""
        if self.kind == "bag":
            self.bag.reset(seed, seen)
        else:
            nn.init.zeros_(self.linear.weight)
            nn.init.zeros_(self.linear.bias)

    def reduced(self, x: Tensor) -> Tensor:
        """Return the classifier's input: (N, features), or a map (N, C, ...) for codewords."""
        if self.is_tokens:
            return x.mean(1)
        return self.pool(x) if self.kind == "bag" else self.flatten(self.pool(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.reduced(x))


def take_exits(
    outputs: Sequence[Tensor], thresholds: Sequence[float], confidence: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Return the gate's answer: outputs (N, K) of the first exit whose confidence (N,) reaches its threshold, and the
    exits' indices (N,).

    The last entry of `outputs` is the network's own end, which takes all remaining images.
    """
    answer, taken = outputs[-1].clone(), torch.full((len(outputs[-1]),), len(outputs) - 1)
    for index in reversed(range(len(outputs) - 1)):
        confident = confidence(outputs[index]) >= thresholds[index]
        answer[confident], taken[confident] = outputs[index][confident], index
    return answer, taken
