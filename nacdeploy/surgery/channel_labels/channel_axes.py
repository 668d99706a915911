"""The places of a network's channels: one run of the captured graph puts labels on the channels along every axis of
every tensor.

A layer's outputs are new channels. Arithmetic that combines two channels makes them one. An operator that moves values
moves their labels. An operator that mixes channels in a way that zeros would change (a mean or softmax over them) fixes
them. An operator without a rule fixes its inputs, so that channels under an unknown operator are not cut. The method
follows DepGraph (Fang et al., 2023), on operators with bound arguments in place of gradient functions: its time is
linear in the size of the graph.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nacdeploy.models.ports import MARKED
from nacdeploy.network.captured.graph import Captured, Interpreter, operator_name, stack
from nacdeploy.network.network import Network, Structure, no_grad_eval
from nacdeploy.surgery.channel_labels.channel_classes import Classes, Labels
from nacdeploy.surgery.channel_labels.channel_operators import Call
from nacdeploy.surgery.channel_labels.channel_rules import Axes, Rules, blank
from nacdeploy.surgery.channel_labels.heads import Split, splits

ANSWER = "the network answers with it"

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Labelling:
    """The labels of all axes of a network.

    Attributes:
        classes: the classes of channels that fall together.
        places: the labels of the backbone's tensors, by name.
        layers: the labels of each layer's outputs and inputs in its product.
        nodes: the labels of the tensors that graph nodes write.
        order: the layers from the network's end backwards.
        heads: the nodes that split channels into heads, along which labels run in place of the channels.
    """

    classes: Classes
    places: dict[str, Axes]
    layers: dict[str, tuple[Labels, Labels]]
    nodes: dict[str, Axes]
    order: tuple[str, ...]
    heads: Mapping[str, Split] = field(default_factory=dict)


def labelled(network: Network) -> Labelling:
    """Label the channels of a captured network by running its graph on a blank image: once for each structure."""
    known = _KNOWN.get(network.structure)
    if known is None:
        known = _KNOWN[network.structure] = _labelled(network, None)
    return known


def relabelled(network: Network, heads: Mapping[str, Split]) -> Labelling:
    """Label a network anew, with these splits into heads in place of all; later questions get this answer."""
    _KNOWN[network.structure] = _labelled(network, heads)
    return _KNOWN[network.structure]


_KNOWN: WeakKeyDictionary[Structure, Labelling] = WeakKeyDictionary()


def _labelled(network: Network, heads: Mapping[str, Split] | None) -> Labelling:
    with no_grad_eval(network):
        images = network.example_input()
        images = images.to(next((p for p in network.parameters() if p.is_floating_point()), images))
        heads = splits(network.backbone, network.captured, images) if heads is None else heads
        axes = {name: each.axis for name, each in heads.items()}
        run = _Propagation(network.backbone, network.captured, Classes(), {}, {}, heads=axes)
        run.run(images)
    nodes = {node.name: axes for node, axes in run.labels.items() if isinstance(axes, tuple)}
    return Labelling(run.classes, run.places, run.layers, nodes, _backwards(network.captured.graph), heads)


def _backwards(graph: fx.Graph | None) -> tuple[str, ...]:
    """Return the modules that a graph calls, in the order of a walk from its end."""
    waiting = [node for node in (graph.nodes if graph else ()) if node.op == "output"]
    seen, met = set(waiting), list[str]()
    while waiting:
        for node in waiting.pop().all_input_nodes:
            if node not in seen:
                seen.add(node)
                waiting.append(node)
                met += [str(node.target)] if node.op == "call_module" else []
    return tuple(dict.fromkeys(met))


class _Propagation(Interpreter):
    """Runs a graph with labels beside the values."""

    def __init__(
        self,
        backbone: nn.Module,
        captured: Captured,
        classes: Classes,
        places: dict[str, Axes],
        layers: dict[str, tuple[Labels, Labels]],
        weight_of: str = "",
        heads: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(backbone, captured)
        self._weight_of = weight_of
        self.classes, self.places, self.layers = classes, places, layers
        self.rules = Rules(classes, heads=heads or {})
        self.labels, self._of = self.rules.written, self.rules.labels_of
        self._tensors = dict((*backbone.named_parameters(), *backbone.named_buffers()))
        held = [*backbone.named_parameters(remove_duplicate=False), *backbone.named_buffers(remove_duplicate=False)]
        names: dict[int, list[str]] = {}
        for name, tensor in held:
            names.setdefault(id(tensor), []).append(name)
        self._tied = {name: each for each in names.values() if len(each) > 1 for name in each}
        self._backbone = backbone

    def compute(self, n: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        value = super().compute(n, args, kwargs)
        self.labels[n] = self._axes(n, args, kwargs, value)
        return value

    def _axes(self, n: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any], value: Any) -> Any:
        if n.op == "output":
            self.rules.fix(() if self._weight_of else self._of(n.args[0]), ANSWER)
            return None
        if n.op == "get_attr":
            return _fixed(value) if "value" in n.meta else self.place(str(n.target))
        if n.op == "placeholder":
            return _fixed(value)
        where = self._where(n)
        if n.op == "call_module":
            module = self._backbone.get_submodule(str(n.target))
            try:
                made = self._sized(self._module(str(n.target), module, self._of(n.args[0]), where), value)
            except (IndexError, ValueError):  # a shape that the layer takes and no rule knows
                made = None
            return self._unknown(n, value, where) if made is None else made
        return self._function(n, args, kwargs, value, where)

    def _where(self, n: fx.Node) -> str:
        """Name a node for people: its module and its operator."""
        if self._weight_of:
            return _computed(self._backbone.get_submodule(self._weight_of))
        if n.op == "call_module":
            return f"it meets what is no channel at '{n.target}'"
        held = stack(n)
        return f"it meets {operator_name(n.target)}" + (f" in '{held[-1]}'" if held else "")

    def place(self, name: str, n_channel_axes: int | None = None) -> Axes:
        """Return the labels of the axes of a parameter or buffer; only of the first few if the others are a
        kernel's."""
        if name not in self.places:
            tensor = self._tensors.get(name)
            if tensor is None:  # the second name of a tied one
                return self.place(self._tied[name][0], n_channel_axes)
            n = tensor.dim() if n_channel_axes is None else n_channel_axes
            is_cut = tensor.is_floating_point()
            made = (
                self.classes.fresh(size) if is_cut and axis < n else blank(size)
                for axis, size in enumerate(tensor.shape)
            )
            self.places[name] = tuple(made)
            if name in self._tied:
                for axis in self.places[name]:
                    self.classes.fix(axis, f"its values are tied: {' is '.join(self._tied[name][:2])}")
        return self.places[name]

    # Modules.

    def _module(self, path: str, module: nn.Module, x: Axes, where: str) -> Axes:
        if isinstance(module, (*_CONVOLUTIONS, nn.Linear)):
            weight = self._weight(path)
            if path in self._captured.weights:
                where = _computed(module)
            bias = self.place(f"{path}.bias") if module.bias is not None else None
            self.layers[path] = (weight[0], weight[1])
            if isinstance(module, nn.Linear):
                return self.rules.linear(x, weight, bias, where)
            return self.rules.convolution(x, weight, bias, module.groups, len(module.kernel_size), where)
        if isinstance(module, _BatchNorm):
            self._along(x[1], path, ("weight", "bias", "running_mean", "running_var"), where)
        elif isinstance(module, nn.LayerNorm):
            for name in ("weight", "bias"):
                if getattr(module, name) is not None:
                    own = self.place(f"{path}.{name}")
                    for mine, theirs in zip(own, x[-len(own) :], strict=True):
                        self.classes.join(mine, theirs, where)
        elif isinstance(module, nn.GroupNorm):
            self._along(x[1], path, ("weight", "bias"), where)
            if 1 < module.num_groups < module.num_channels:
                self.rules.alike_parts(x[1], module.num_groups, where)
        return x

    def _weight(self, path: str) -> Axes:
        graph = self._captured.weights.get(path)
        if graph is None:
            return self.place(f"{path}.weight", 2)
        run = _Propagation(self._backbone, Captured(graph), self.classes, self.places, self.layers, path)
        run.run()
        return run._of(next(node for node in graph.nodes if node.op == "output").args[0])

    def _along(self, channels: Labels, path: str, names: Sequence[str], where: str) -> None:
        module = self._backbone.get_submodule(path)
        for name in names:
            if getattr(module, name, None) is not None:
                self.classes.join(channels, self.place(f"{path}.{name}")[0], where)

    # Functions.

    def _function(self, n: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any], value: Any, where: str) -> Any:
        if n.target is torch.ops.aten.__getitem__ or operator_name(n.target) == "getitem":
            held = self.labels.get(n.all_input_nodes[0])
            return held[args[1]] if isinstance(held, list) else self._unknown(n, value, where)
        if not isinstance(value, Tensor | tuple | list):
            return None
        if n.target in MARKED.values():
            return self._unknown(n, value, ANSWER)
        try:
            made = self.rules.of(Call(n, args, kwargs, where), value)
        except (IndexError, KeyError, TypeError, ValueError, RuntimeError, NotImplementedError):
            made = None  # an unusual form of an operator
        made = self._sized(made, value)
        return self._unknown(n, value, where) if made is None else made

    def _sized(self, made: Any, value: Any) -> Any:
        """Return labels with the sizes of the value, and fixed labels for axes that a rule leaves open."""
        if made is None:
            return None
        if isinstance(value, tuple | list):
            parts = [self._sized(m, v) for m, v in zip(made, value, strict=True)] if isinstance(made, list) else [None]
            return None if any(part is None for part in parts) else parts
        if not isinstance(made, tuple) or len(made) != value.dim():
            return None
        fitted = tuple(
            blank(size) if len(m) != size and not m.any() else m for m, size in zip(made, value.shape, strict=True)
        )
        return fitted if all(len(m) == size for m, size in zip(fitted, value.shape, strict=True)) else None

    def _unknown(self, n: fx.Node, value: Any, where: str) -> Any:
        for node in n.all_input_nodes:
            held = self.labels.get(node)
            for axes in held if isinstance(held, list) else [held or ()]:
                self.rules.fix(axes or (), where)
        return [_fixed(each) for each in value] if isinstance(value, tuple | list) else _fixed(value)


def _computed(module: nn.Module) -> str:
    return f"a {type(module).__name__} that reads it computes its weight from all of its inputs"


def _fixed(value: Any) -> Axes:
    return tuple(blank(size) for size in value.shape) if isinstance(value, Tensor) else ()
