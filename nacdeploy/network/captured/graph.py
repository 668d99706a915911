"""A captured graph: its nodes, and the interpreter that runs it.

Nodes call modules (convolutions, linear layers, norms, dropout) or plain functions, and read parameters, buffers and
constants. The node of a module stands for the computation of the module's parent class: additions of a subclass have
nodes of their own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

CONVOLVING = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
WEIGHTED = (*CONVOLVING, nn.Linear)
Weighted: TypeAlias = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear
IMAGES = "images"

_aten = torch.ops.aten


@dataclass(frozen=True)
class Captured:
    """A graph and its surroundings. It names modules by their paths and never changes, so that copies of a network
    share it.

    Attributes:
        graph: the graph, or None if the network cannot be captured.
        weights: by layer the graphs of weights that are computed from parameters (weight norms, standardised weights).
        why_not: why there is no graph.
        modules: the modules of the network by path and type.
    """

    graph: fx.Graph | None
    weights: Mapping[str, fx.Graph] = field(default_factory=dict)
    why_not: str = ""
    modules: tuple[tuple[str, type], ...] = ()

    def __deepcopy__(self, memo: dict[int, Any]) -> "Captured":
        return self


def carries_images(node: fx.Node) -> bool:
    """Tell whether a node's value is a tensor that follows from the images: no parameter, no constant, no size."""
    return bool(node.meta.get("carries", False))


def stack(node: fx.Node) -> list[str]:
    """Return the paths of the modules around a node, the outermost first."""
    return [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()]


def operator_name(target: Any) -> str:
    """Return the name of an operator (`conv2d` for aten.conv2d.default) or of a Python function."""
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name.rpartition("::")[2]
    return str(getattr(target, "__name__", target))


def weighted_consumer(node: fx.Node, backbone: nn.Module) -> nn.Module | None:
    """Return the convolution or linear layer that a node calls, or None."""
    if node.op != "call_module":
        return None
    module = backbone.get_submodule(str(node.target))
    return module if isinstance(module, WEIGHTED) else None


def multiplies(node: fx.Node) -> bool:
    """Tell whether some operator multiplies with a parameter, or with a value computed from parameters alone."""
    return any(
        operator_name(user.target).startswith(_MULTIPLYING) if user.meta.get("follows") else multiplies(user)
        for user in node.users
        if user.op == "call_function"
    )


_MULTIPLYING: tuple[str, ...] = (
    "linear",
    "matmul",
    "bmm",
    "mm",
    "addmm",
    "baddbmm",
    "conv",
    "bilinear",
    "einsum",
    "embedding",
    "lstm",
)
_MULTIPLYING += ("gru", "rnn")


def call_plain(module: nn.Module, x: Tensor) -> Tensor:
    """Compute the node of a module: for a subclass of a layer or norm only its parent's part.

    The rest of the subclass's forward has nodes of its own.
    """
    for base, forward in _FORWARDS.items():
        if isinstance(module, base):
            return forward(module, x)
    return module(x)


def with_weights(module: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Run a convolution or linear layer with other weights than its own."""
    if isinstance(module, nn.Linear):
        return nn.functional.linear(x, weight, bias)
    kind = next(kind for kind in CONVOLUTIONS.values() if isinstance(module, kind))
    return kind._conv_forward(module, x, weight, bias)


def call_with(module: nn.Module, x: Tensor, weight: Tensor | None) -> Any:
    """Compute the node of a layer with another weight than its own, or with its own if none is given."""
    return call_plain(module, x) if weight is None else with_weights(module, x, weight, module.bias)  # type: ignore[arg-type]


CONVOLUTIONS: dict[str, Any] = dict(zip(("conv1d", "conv2d", "conv3d"), CONVOLVING, strict=True))
_FORWARDS: dict[type[nn.Module], Callable[[Any, Tensor], Tensor]] = {
    **{kind: lambda m, x: with_weights(m, x, m.weight, m.bias) for kind in (*CONVOLUTIONS.values(), nn.Linear)},
    _BatchNorm: _BatchNorm.forward,
    nn.LayerNorm: nn.LayerNorm.forward,
    nn.GroupNorm: nn.GroupNorm.forward,
}
FOLDED = tuple(_FORWARDS)  # the kinds of modules whose operators become calls of them
DROPOUTS = {_aten.dropout.default, _aten.feature_dropout.default, _aten.alpha_dropout.default}


class Interpreter(fx.Interpreter):
    """Runs a captured graph on its modules: subclasses by their nodes, on the device of the images, with dropout if
    the network trains."""

    def __init__(self, backbone: nn.Module, captured: Captured) -> None:
        super().__init__(backbone, graph=captured.graph)
        self._captured = captured
        self._device: torch.device | None = None

    def run_node(self, n: fx.Node) -> Any:
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        return self.compute(n, args, kwargs)

    def compute(self, n: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Compute the value of a node from the values of its inputs."""
        if n.op == "placeholder":
            value = super().placeholder(n.target, args, kwargs)
            self._device = (value[0] if isinstance(value, tuple) else value).device  # a tuple: inputs of `ports.take`
            return value
        if n.op == "get_attr":
            return self.constant(n)
        if n.op == "call_module":
            return self.layer(str(n.target), self.module.get_submodule(str(n.target)), args[0])
        if n.op == "call_function":
            args, kwargs = self._as_now(n, args, kwargs)
        return getattr(self, n.op)(n.target, args, kwargs)

    def layer(self, name: str, module: nn.Module, x: Tensor) -> Any:
        """Compute the output of a layer, norm or dropout."""
        weight = computed_weight(self.module, self._captured, name)
        return call_with(module, x, weight)

    def constant(self, n: fx.Node) -> Any:
        """Return a parameter, buffer or constant of the graph."""
        value = n.meta["value"] if "value" in n.meta else self.fetch_attr(str(n.target))
        return value.to(self._device) if self._device is not None and isinstance(value, Tensor) else value

    def _as_now(self, n: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], Any]:
        """Set devices and dropouts as they are now, not as they were when the network was captured."""
        if self._device is not None and isinstance(kwargs.get("device"), torch.device):
            kwargs = {**kwargs, "device": self._device}
        if args and isinstance(args[0], tuple) and operator_name(n.target) == "sym_size":
            args = (args[0][0], *args[1:])  # the batch of packed inputs that are apart
        if n.target in DROPOUTS and args[2] is False:
            args = (*args[:2], self.module.training)
        return args, kwargs


def computed_weight(backbone: nn.Module, captured: Captured, layer: str) -> Tensor | None:
    """Compute the weight of a layer from its other parameters, or return None if the weight is a parameter itself."""
    graph = captured.weights.get(layer)
    return None if graph is None else Interpreter(backbone, Captured(graph)).run()
