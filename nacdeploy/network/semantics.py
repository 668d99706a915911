"""Semantics: the values of a run at quantized edges, layers and attachments; and the run of a backbone under one."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, fx, nn

from nacdeploy.network.attachments.attachment import Attachment
from nacdeploy.network.attachments.placement import GATE, Plan
from nacdeploy.network.captured.capture import first_tensor
from nacdeploy.network.captured.graph import Captured, Interpreter

Use = tuple[str, int]


class Semantics(Protocol):
    """The values of a run at the quantized edges, at each layer, and at tensors with an attachment.

    An edge is the use of a tensor by a node: `key` names the edge's quantizer, `use` the reading node and the position
    of the tensor among that node's inputs.

        >>> from torch import nn
        >>> from nacdeploy.base.precision import Grid
        >>> from nacdeploy.network.network import Network, Simulation
        >>> class Layers(Simulation):
        ...     def layer(self, name, module, x):
        ...         print(name, tuple(x.shape))
        ...         return super().layer(name, module, x)
        >>> backbone = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 10))
        >>> network = Network(backbone, Grid("ort", 8, ("conv",)), (1, 8, 8))
        >>> semantics: Semantics = Layers(network)
        >>> outputs = network.run(network.example_input(), semantics)
        0 (1, 1, 8, 8)
        2 (1, 144)
    """

    def edge(self, key: str, x: Tensor, use: Use) -> Tensor: ...
    def layer(self, name: str, module: nn.Module, x: Tensor) -> Tensor: ...
    def attached(self, key: str, module: Attachment, x: Tensor) -> Tensor: ...


class Run(Interpreter):
    """One run of a captured graph under a semantics; the outputs of the `tapped` nodes (None: all) go to `tap`."""

    def __init__(
        self,
        backbone: nn.Module,
        captured: Captured,
        plan: Plan,
        attached: Mapping[str, Attachment],
        semantics: Semantics,
        tap: Callable[[str, Any], None],
        tapped: set[str] | None,
    ) -> None:
        super().__init__(backbone, captured)
        self._inputs: Mapping[str, Mapping[int, str]] = plan.inputs
        self._attached, self._semantics, self._tap, self._tapped = attached, semantics, tap, tapped

    def run_node(self, n: fx.Node) -> Any:
        keys = self._inputs.get(n.name, {})
        edges = {n.all_input_nodes[i]: (key, (n.name, i)) for i, key in keys.items() if i != GATE}

        def read(source: fx.Node) -> Any:
            value = self.env[source]
            if source not in edges:
                return value
            key, use = edges[source]
            return self._semantics.edge(key, value, use)

        args: Any
        kwargs: Any
        args, kwargs = fx.node.map_arg((n.args, n.kwargs), read)
        if GATE in keys:
            value = args[0] * self._semantics.edge(keys[GATE], torch.sigmoid(args[0]), (n.name, GATE))
        else:
            value = self.compute(n, args, kwargs)
        for key, module in self._attached.items():
            if module.node == n.name:
                value = self._semantics.attached(key, module, value)
        if self._tapped is None or n.name in self._tapped:
            self._tap(n.name, value)
        return value

    def layer(self, name: str, module: nn.Module, x: Tensor) -> Any:
        return self._semantics.layer(name, module, x)


def run_uncaptured(backbone: nn.Module, layers: Iterable[str], plan: Plan, semantics: Semantics, x: Tensor) -> Tensor:
    """Run a backbone without a graph: only its layers, and the edges before them, follow the semantics."""
    with ExitStack() as stack:
        for layer in layers:
            edge = plan.inputs.get(layer, {}).get(0)
            stack.enter_context(_called_through(backbone.get_submodule(layer), layer, edge, semantics))
        return first_tensor(backbone(x))


@contextmanager
def _called_through(module: nn.Module, name: str, edge: str | None, semantics: Semantics) -> Iterator[None]:
    """Route the calls of `module` through `semantics` for one run."""

    def forward(*given: Tensor, **named: Tensor) -> Tensor:
        (x,) = (*given, *named.values())
        return semantics.layer(name, module, x if edge is None else semantics.edge(edge, x, (name, 0)))

    module.forward = forward
    try:
        yield
    finally:
        del module.forward
