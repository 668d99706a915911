"""Early exits: linear heads at places of the captured graph, and the confidence gate that takes them.

The order of the places is NAC's: breadth-first through a balanced tree over the places for convolutional networks,
deepest first for transformers. Leaving early by confidence follows BranchyNet (Teerapittayanon et al., 2016).
"""

from collections import deque
from collections.abc import Callable, Sequence
from math import prod
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")
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


class ExitHead(nn.Module):
    """A classifier on an inner tensor: (N, C, ...) pooled to a coarse grid, or (N, L, C) averaged over tokens.

    A grid of several cells keeps the spatial information that early layers have not yet put into channels.
    """

    threshold: Tensor

    def __init__(
        self, place: str, node: str, shape: Sequence[int], n_classes: int, grid: int, is_tokens: bool | None = None
    ) -> None:
        super().__init__()
        self.place, self.node = place, node
        self.is_tokens = len(shape) == 3 if is_tokens is None else is_tokens
        sizes = shape[2:]
        kernel = 1 if self.is_tokens else max(1, min(sizes) // grid)
        self.pool = _POOLS[len(sizes)](kernel)
        self.flatten = nn.Flatten()
        cells = 1 if self.is_tokens else prod(size // kernel for size in sizes)
        channels = shape[2] if self.is_tokens else shape[1]
        self.linear = nn.utils.skip_init(nn.Linear, channels * cells, n_classes)
        nn.init.zeros_(self.linear.weight)  # a linear classifier needs no random start
        nn.init.zeros_(self.linear.bias)
        self.register_buffer("threshold", torch.full((), 2.0))

    def reduced(self, x: Tensor) -> Tensor:
        """Return the classifier's input (N, features)."""
        return x.mean(1) if self.is_tokens else self.flatten(self.pool(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.reduced(x))


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
