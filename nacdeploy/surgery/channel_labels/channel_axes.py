"""The places of a network's channels: one run of the captured graph puts labels on the channels along every axis of
every tensor.

A layer's outputs are new channels. Arithmetic that combines two channels makes them one. An operator that moves values
moves their labels. An operator that mixes channels in a way that zeros would change (a mean or softmax over them) fixes
them. An operator without a rule fixes its inputs, so that channels under an unknown operator are not cut. The method
follows DepGraph (Fang et al., 2023), on operators with bound arguments in place of gradient functions: its time is
linear in the size of the graph.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nacdeploy.models.ports import MARKED
from nacdeploy.network.captured.graph import Captured, Interpreter, operator_name, stack
from nacdeploy.network.network import Network, Structure, no_grad_eval
from nacdeploy.surgery.channel_labels.channel_classes import Classes, Labels
from nacdeploy.surgery.channel_labels.channel_operators import ALIKE, MOVES, N_AXES, REDUCTIONS, SPATIAL, SUMS, Call

ANSWER = "the network answers with it"

Axes: TypeAlias = tuple[Labels, ...]

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
    """

    classes: Classes
    places: dict[str, Axes]
    layers: dict[str, tuple[Labels, Labels]]
    nodes: dict[str, Axes]
    order: tuple[str, ...]


def labelled(network: Network) -> Labelling:
    """Label the channels of a captured network by running its graph on a blank image: once for each structure."""
    known = _KNOWN.get(network.structure)
    if known is None:
        known = _KNOWN[network.structure] = _labelled(network)
    return known


_KNOWN: WeakKeyDictionary[Structure, Labelling] = WeakKeyDictionary()


def _labelled(network: Network) -> Labelling:
    run = _Propagation(network.backbone, network.captured, Classes(), {}, {})
    with no_grad_eval(network):
        images = network.example_input()
        like = next((p for p in network.parameters() if p.is_floating_point()), images)
        run.run(images.to(like))
    nodes = {node.name: axes for node, axes in run.labels.items() if isinstance(axes, tuple)}
    return Labelling(run.classes, run.places, run.layers, nodes, _backwards(network.captured.graph))


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
    ) -> None:
        super().__init__(backbone, captured)
        self._weight_of = weight_of
        self.classes, self.places, self.layers = classes, places, layers
        self.labels: dict[fx.Node, Any] = {}
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
            self._fix(() if self._weight_of else self._of(n.args[0]), ANSWER)
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
                self.classes.fresh(size) if is_cut and axis < n else _zeros(size)
                for axis, size in enumerate(tensor.shape)
            )
            self.places[name] = tuple(made)
            if name in self._tied:
                for axis in self.places[name]:
                    self.classes.fix(axis, f"its values are tied: {' is '.join(self._tied[name][:2])}")
        return self.places[name]

    def _of(self, node: Any) -> Axes:
        found = self.labels.get(node)
        return found if isinstance(found, tuple) else ()

    def _fix(self, axes: Sequence[Labels], why: str) -> None:
        for axis in axes:
            self.classes.fix(axis, why)

    # Modules.

    def _module(self, path: str, module: nn.Module, x: Axes, where: str) -> Axes:
        if isinstance(module, (*_CONVOLUTIONS, nn.Linear)):
            weight = self._weight(path)
            if path in self._captured.weights:
                where = _computed(module)
            bias = self.place(f"{path}.bias") if module.bias is not None else None
            self.layers[path] = (weight[0], weight[1])
            if isinstance(module, nn.Linear):
                return self._linear(x, weight, bias, where)
            return self._convolution(x, weight, bias, module.groups, len(module.kernel_size), where)
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
                self._alike_parts(x[1], module.num_groups, where)
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

    def _alike_parts(self, channels: Labels, n_parts: int, where: str) -> Labels:
        """Let each of equal parts lose the channels at the same places."""
        parts = channels.reshape(n_parts, -1)
        self.classes.join(parts[:1], parts, where)
        return parts[0]

    def _linear(self, x: Axes, weight: Axes, bias: Axes | None, where: str) -> Axes:
        self.classes.join(x[-1], weight[1], where)
        if bias is not None:
            self.classes.join(bias[0], weight[0], where)
        return (*x[:-1], weight[0])

    def _convolution(self, x: Axes, weight: Axes, bias: Axes | None, groups: int, n_axes: int, where: str) -> Axes:
        if bias is not None:
            self.classes.join(bias[0], weight[0], where)
        channels = x[-n_axes - 1]
        self._fix(x[-n_axes:], where)
        if groups == 1:
            self.classes.join(channels, weight[1], where)
        elif len(weight[1]) == 1:  # depthwise: outputs are their inputs' own
            self.classes.join(weight[0].reshape(groups, -1), channels[:, None], where)
        else:
            self.classes.join(self._alike_parts(channels, groups, where), weight[1], where)
            self._alike_parts(weight[0], groups, where)
        return (*x[: -n_axes - 1], weight[0], *(_zeros(1) for _ in range(n_axes)))

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
            given = Call(n, args, kwargs)
            made = self._rule(n, given, value, where)
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
            _zeros(size) if len(m) != size and not m.any() else m for m, size in zip(made, value.shape, strict=True)
        )
        return fitted if all(len(m) == size for m, size in zip(fitted, value.shape, strict=True)) else None

    def _rule(self, n: Any, given: "Call", value: Any, where: str) -> Any:
        name = operator_name(n.target)
        if name in MOVES:
            return self._moved(n, given, value, where)
        if name in ALIKE or torch.Tag.pointwise in getattr(n.target, "tags", ()):
            return self._alike([self._of(each) for each in n.all_input_nodes if self._of(each)], where)
        if name.startswith(SPATIAL):
            n_axes = int(N_AXES.findall(name)[0])
            return self._pooled(self._of(n.args[0]), n_axes, value, where)
        if name in SUMS | REDUCTIONS:
            return self._reduced(n, given, value, name, where)
        rules: dict[str, Callable[[Any, Call, str], Any]] = {
            "cat": self._cat,
            "concat": self._cat,
            "stack": self._stack,
            "matmul": self._matmul,
            "bmm": self._matmul,
            "mm": self._matmul,
            "linear": self._multiplied,
            "conv1d": self._convolved,
            "conv2d": self._convolved,
            "conv3d": self._convolved,
            "scaled_dot_product_attention": self._attention,
            "softmax": self._along_fixed,
            "_softmax": self._along_fixed,
            "log_softmax": self._along_fixed,
            "pad": self._padded,
            "constant_pad_nd": self._padded,
            "prelu": self._per_channel,
            "instance_norm": self._per_channel,
            "batch_norm": self._per_channel,
            "_native_batch_norm_legit_no_training": lambda n, given, where: [
                self._per_channel(n, given, where),
                (_zeros(0),),
                (_zeros(0),),
            ],
            "einsum": self._einsum,
            "glu": self._glu,
            "_weight_norm": self._weight_norm,
            "_weight_norm_interface": self._weight_norm,
        }
        return rules[name](n, given, where)

    def _unknown(self, n: fx.Node, value: Any, where: str) -> Any:
        for node in n.all_input_nodes:
            held = self.labels.get(node)
            for axes in held if isinstance(held, list) else [held or ()]:
                self._fix(axes or (), where)
        return [_fixed(each) for each in value] if isinstance(value, tuple | list) else _fixed(value)

    def _alike(self, given: Sequence[Axes], where: str) -> Axes:
        """Label the output of an operator that works element by element, with broadcasting."""
        n_axes = max((len(axes) for axes in given), default=0)
        made = []
        for axis in range(n_axes):
            here = [axes[axis - n_axes] for axes in given if len(axes) >= n_axes - axis]
            wide = [labels for labels in here if len(labels) > 1] or here[:1]
            for labels in wide[1:]:
                self.classes.join(wide[0], labels, where)
            made.append(next((labels for labels in wide if labels.any()), wide[0]))
        return tuple(made)

    def _moved(self, n: Any, given: "Call", value: Any, where: str) -> Any:
        """Let the operator itself move the labels, one axis after the other."""
        x = self._of(n.args[0])
        many = isinstance(value, tuple | list)
        values = list(value) if many else [value]
        made = [[_zeros(size) for size in each.shape] for each in values]
        shape = [len(labels) for labels in x]
        for axis, labels in enumerate(x):
            found = self.classes.find(labels)
            if not found.any():
                continue
            view = [1] * len(shape)
            view[axis] = -1
            field = torch.from_numpy(found).reshape(view).expand(shape).contiguous()
            answer = n.target(field, *given.args[1:], **given.kwargs)
            for place, part in enumerate(answer if many else [answer]):
                self._place_moved(made[place], part, where)
        return [tuple(each) for each in made] if many else tuple(made[0])

    def _place_moved(self, made: list[Labels], field: Tensor, where: str) -> None:
        """Find the axis of a moved tensor along which labels vary; if several do, join all but the last."""
        varying = [e for e in range(field.dim()) if bool((field != field.narrow(e, 0, 1)).any())]
        for axis in reversed(range(field.dim())):
            if axis not in varying:
                field = field.narrow(axis, 0, 1)
        labels = field.numpy()
        if not varying:
            self.classes.fix(labels.reshape(-1)[:1], where)
            return
        rows = np.moveaxis(labels, varying[-1], -1).reshape(-1, labels.shape[varying[-1]])
        self.classes.join(rows[:1], rows, where)
        if made[varying[-1]].any():
            self.classes.fix(rows[0], where)
            self.classes.fix(made[varying[-1]], where)
        made[varying[-1]] = rows[0]

    def _pooled(self, x: Axes, n_axes: int, value: Any, where: str) -> Any:
        self._fix(x[-n_axes:], where)
        kept = (*x[:-n_axes], *(_zeros(1) for _ in range(n_axes)))
        return [kept for _ in value] if isinstance(value, tuple | list) else kept

    def _reduced(self, n: Any, given: "Call", value: Any, name: str, where: str) -> Any:
        x = self._of(n.args[0])
        asked = given.get("dim")
        dims = range(len(x)) if asked is None or asked == [] else [asked] if isinstance(asked, int) else asked
        gone = {dim % len(x) for dim in dims}
        is_euclidean = name == "linalg_vector_norm" and given.get("ord") in (None, 2, 2.0)
        if name not in SUMS and not is_euclidean:
            self._fix([x[axis] for axis in gone], where)
        keep = bool(given.get("keepdim"))
        made = tuple(_zeros(1) if axis in gone else labels for axis, labels in enumerate(x) if keep or axis not in gone)
        return [made for _ in value] if isinstance(value, tuple | list) else made

    def _cat(self, n: Any, given: "Call", where: str) -> Axes:
        parts = [axes for each in n.args[0] if len(axes := self._of(each)) > 1 or (axes and len(axes[0]))]
        dim = (given.get("dim") or 0) % len(parts[0])
        rest = self._alike([(*axes[:dim], _zeros(1), *axes[dim + 1 :]) for axes in parts], where)
        return (*rest[:dim], np.concatenate([axes[dim] for axes in parts]), *rest[dim + 1 :])

    def _stack(self, n: Any, given: "Call", where: str) -> Axes:
        parts = [self._of(each) for each in n.args[0]]
        dim = (given.get("dim") or 0) % (len(parts[0]) + 1)
        rest = self._alike(parts, where)
        return (*rest[:dim], _zeros(len(parts)), *rest[dim:])

    def _matmul(self, n: Any, given: "Call", where: str) -> Axes | None:
        a, b = (self._of(each) for each in n.args[:2])
        if min(len(a), len(b)) < 2:
            return None
        self.classes.join(a[-1], b[-2], where)
        return (*self._alike([a[:-2], b[:-2]], where), a[-2], b[-1])

    def _multiplied(self, n: Any, given: "Call", where: str) -> Axes:
        x, weight, bias = (self._of(each) for each in (*n.args, None)[:3])
        return self._linear(x, weight, bias or None, where)

    def _convolved(self, n: Any, given: "Call", where: str) -> Axes:
        x, weight = self._of(n.args[0]), self._of(n.args[1])
        bias = self._of(n.args[2]) if len(n.args) > 2 and n.args[2] is not None else None
        self._fix(weight[2:], where)
        return self._convolution(x, weight, bias, int(given.get("groups") or 1), len(weight) - 2, where)

    def _attention(self, n: Any, given: "Call", where: str) -> Axes:
        query, key, value = (self._of(each) for each in n.args[:3])
        self.classes.join(query[-1], key[-1], where)
        if given.get("scale") is None:  # the default follows from the number of channels
            self.classes.fix(query[-1], where)
        self._fix([key[-2], value[-2], query[-2]], where)
        return (*self._alike([query[:-2], key[:-2], value[:-2]], where), query[-2], value[-1])

    def _along_fixed(self, n: Any, given: "Call", where: str) -> Axes:
        x = self._of(n.args[0])
        self.classes.fix(x[given.get("dim")], where)
        return x

    def _padded(self, n: Any, given: "Call", where: str) -> Axes:
        made = list(self._of(n.args[0]))
        pads = list(given.args[1])
        for place in range(len(pads) // 2):
            before, after = pads[2 * place : 2 * place + 2]
            labels = made[-1 - place]
            labels = labels[max(0, -before) : len(labels) - max(0, -after)]
            made[-1 - place] = np.concatenate([_zeros(max(0, before)), labels, _zeros(max(0, after))])
        return tuple(made)

    def _per_channel(self, n: Any, given: "Call", where: str) -> Axes:
        x = self._of(n.args[0])
        if operator_name(n.target) == "batch_norm" and given.get("training"):
            self._fix((x[0], *x[2:]), where)
        for each in n.args[1:]:
            own = self._of(each)
            if own and len(own[0]) > 1:
                self.classes.join(x[1], own[0], where)
        return x

    def _weight_norm(self, n: Any, given: "Call", where: str) -> Any:
        values, scale = self._of(n.args[0]), self._of(n.args[1])
        kept = given.get("dim") or 0
        self._fix([labels for axis, labels in enumerate(values) if axis != kept], where)
        self.classes.join(values[kept], scale[kept] if len(scale) == len(values) else scale[0], where)
        is_pair = operator_name(n.target) == "_weight_norm_interface"
        return [values, scale] if is_pair else values

    def _einsum(self, n: Any, given: "Call", where: str) -> Axes | None:
        left, _, right = str(given.args[0]).replace(" ", "").partition("->")
        if "." in left or not right:
            return None
        by_letter: dict[str, Labels] = {}
        for letters, each in zip(left.split(","), n.args[1], strict=True):
            for letter, labels in zip(letters, self._of(each), strict=True):
                self.classes.join(by_letter.setdefault(letter, labels), labels, where)
        return tuple(by_letter[letter] for letter in right)

    def _glu(self, n: Any, given: "Call", where: str) -> Axes:
        x = list(self._of(n.args[0]))
        dim = given.get("dim")
        x[dim] = self._alike_parts(x[dim], 2, where)
        return tuple(x)


def _computed(module: nn.Module) -> str:
    return f"a {type(module).__name__} that reads it computes its weight from all of its inputs"


def _zeros(n: int) -> Labels:
    return np.zeros(n, np.int64)


def _fixed(value: Any) -> Axes:
    return tuple(_zeros(size) for size in value.shape) if isinstance(value, Tensor) else ()
