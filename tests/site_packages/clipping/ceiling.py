"""A learned ceiling (PACT: Choi et al., 2018, eq. 1): min(x, a) behind a ReLU, where `a` gets the gradients of all that
is above it."""

import math

import torch
from torch import Tensor, nn

from nacdeploy.network.attachments.attachment import Attachment, OnnxWriter


class Ceiling(Attachment):
    """No value is above the ceiling: one for the tensor (), or one for each channel (C,) of (N, C, H, W)."""

    def __init__(self, n_channels: int | None) -> None:
        super().__init__()
        self.ceiling = nn.Parameter(torch.full(() if n_channels is None else (n_channels,), math.inf))
        self.by_channel = () if n_channels is None else ("ceiling",)

    def forward(self, x: Tensor) -> Tensor:
        return torch.minimum(x, self._along())

    def lower(self, writer: OnnxWriter, source: str) -> str:
        highest = writer.constant("highest", self._along())
        if self.by_channel:
            return writer.node("Min", [source, highest])
        return writer.node("Clip", [source, writer.constant("lowest", torch.zeros(())), highest])

    def _along(self) -> Tensor:
        return self.ceiling.reshape(-1, 1, 1) if self.by_channel else self.ceiling
