"""What an operator may attach to a tensor: a module that every reader of the tensor sees it through.

It stands beside the backbone, as quantizers, masks, shared values and exit heads do, and is part of what the float
network computes. A `Network` runs it, trains its parameters, keeps its values in the state dict and its structure in
content keys, lets it follow cuts and factors, and the exporter writes it as the nodes that it names.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor, nn


class OnnxWriter(Protocol):
    """Writes the nodes of one attachment, under names that are its own."""

    def constant(self, name: str, value: Tensor) -> str:
        """Add an initializer and return the name that nodes read it by."""
        ...

    def node(self, operator: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Add a node of one output and return the name of that output."""
        ...


class Attachment(nn.Module):
    """A module on the tensor that a node of the captured graph computes; subclasses say what it does.

    It treats every value, or every channel, by itself and keeps the shape, so that a cut of channels commutes with it.
    Its `repr` says what it is without its values, and is part of content keys.

    Attributes:
        node: the node whose tensor it stands on; the network keeps it true when the graph is made anew.
        by_channel: the names of its parameters and buffers (C,) with one value for each channel, which a cut slices.
    """

    node: str = ""
    by_channel: tuple[str, ...] = ()

    def forward(self, x: Tensor) -> Tensor:
        """What the readers see in place of `x`, of its shape."""
        raise NotImplementedError

    def lower(self, writer: OnnxWriter, source: str) -> str:
        """Write what `forward` computes in evaluation mode as ONNX nodes that read `source`; the name of the result."""
        raise NotImplementedError
