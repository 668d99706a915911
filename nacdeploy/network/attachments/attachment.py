"""Attachment: a module that an operator puts on a tensor. Every reader of the tensor gets the module's output instead.

An attachment stands beside the backbone, as quantizers, masks, shared values and exit heads do, and is part of the
function of the float network. A `Network` runs the attachment, trains its parameters, keeps its values in the state
dict and its structure in content keys, and lets it follow cuts and factors. The exporter writes the nodes that the
attachment names.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor, nn


class OnnxWriter(Protocol):
    """A writer of the ONNX nodes of one attachment; each attachment has a name space of its own.

    >>> class Printed:
    ...     def constant(self, name, value):
    ...         return name
    ...     def node(self, operator, inputs, **attributes):
    ...         print(operator, inputs)
    ...         return f"{operator}_output"
    >>> writer: OnnxWriter = Printed()
    >>> writer.node("Clip", ["relu", writer.constant("lowest", 0.0), writer.constant("highest", 6.0)])
    Clip ['relu', 'lowest', 'highest']
    'Clip_output'
    """

    def constant(self, name: str, value: Tensor) -> str:
        """Add an initializer and return its name for the nodes that read it."""
        ...

    def node(self, operator: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Add a node of one output and return the name of that output."""
        ...


class Attachment(nn.Module):
    """A module on the tensor that a node of the captured graph computes; subclasses define its function.

    An attachment treats every value, or every channel, by itself and keeps the shape, so that it commutes with a cut of
    channels. Its `repr` names its structure without its values, and is part of content keys.

    Attributes:
        node: the node that computes the tensor; the network updates the name when the graph is made anew.
        by_channel: the names of its parameters and buffers (C,) with one value for each channel, which a cut slices.
    """

    node: str = ""
    by_channel: tuple[str, ...] = ()

    def forward(self, x: Tensor) -> Tensor:
        """Return the tensor that readers get in place of `x`, of the same shape."""
        raise NotImplementedError

    def lower(self, writer: OnnxWriter, source: str) -> str:
        """Write the function of `forward` in evaluation mode as ONNX nodes that read `source`; return the name of
        the result."""
        raise NotImplementedError
