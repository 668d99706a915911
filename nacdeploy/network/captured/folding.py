"""Folding: from an exported program to a graph whose nodes call the network's own modules.

An operator belongs to a module if the operator computes with the module's own parameters and settings. The parameters
decide, not the place in the code: a layer that its parent runs by hand is a call of the layer, and a subclass that pads
first is a node that pads and a call.
"""

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind, OutputKind
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from nacdeploy.models.ports import MARKED, take
from nacdeploy.network.captured.graph import (
    CONVOLUTIONS,
    DROPOUTS,
    FOLDED,
    IMAGES,
    Captured,
    carries_images,
    operator_name,
)
from nacdeploy.network.captured.idioms import name_gelus
from nacdeploy.network.captured.nothing import Nothing, drop_nothing

ROOT = "backbone"

_aten = torch.ops.aten
_DROPPED = ("_assert", "sym_constrain", "guard")
_NATIVE_NORM = "_native_batch_norm_legit_no_training"  # torch's form of a norm after rewriting changes in place
# These copy a value, or change its type or place; with the type and shape that it has already they do nothing.
_COPIES = {"to", "_to_copy", "type_as", "float", "alias", "detach", "detach_", "lift_fresh", "lift_fresh_copy"}
_RESHAPED = {_aten.view.default, _aten._unsafe_view.default}
# The arguments behind the bias, with the operators' defaults.
_LAYER_ARGUMENTS: dict[str, list[Any]] = {"linear": [], **{kind: [1, 0, 1, 1] for kind in CONVOLUTIONS}}


class CaptureError(Exception):
    """A network that cannot be captured; the text says why."""


def fold(backbone: nn.Module, program: torch.export.ExportedProgram) -> Captured:
    """Return the graph of an exported program of `backbone`; the program holds the backbone under the name `ROOT`.

    Raises:
        CaptureError: the program does what no graph of values can hold.
    """
    return _Folding(backbone, program).captured()


@torch.library.custom_op("nacdeploy::identity", mutates_args=())
def _identity(x: Tensor, module: str) -> Tensor:
    """Stands for a module that passes images on in evaluation mode and does more in training (stochastic depth)."""
    return x.clone()


@_identity.register_fake
def _(x: Tensor, module: str) -> Tensor:
    return torch.empty_like(x)


def is_functional(graph: fx.Graph) -> bool:
    """Tell whether no value is changed in place through a view: then each change can be written as a new value."""
    return all(_is_own(node.args[0]) for node in graph.nodes if _is_in_place(node))


def _is_in_place(node: fx.Node) -> bool:
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return False
    arguments = node.target._schema.arguments
    alias = arguments[0].alias_info if arguments else None
    return alias is not None and alias.is_write


def _is_own(node: Any) -> bool:
    """Tell whether a value's memory has no other reader: the value is no view, or the only reader of the viewed
    value."""
    if not isinstance(node, fx.Node) or any(_is_view(user) for user in node.users):
        return False
    while _is_view(node):
        node = node.args[0]
        if not isinstance(node, fx.Node) or len(node.users) > 1:
            return False
    return True


def _is_view(node: fx.Node) -> bool:
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return node.target is operator.getitem
    return not _is_in_place(node) and any(r.alias_info is not None for r in node.target._schema.returns)


def _ask_first_input(graph: fx.Graph) -> None:
    """Let sizes be those of the first input where inputs travel packed: an artifact has no packed tensor to ask."""
    (images,) = (node for node in graph.nodes if node.op == "placeholder")
    inputs = [node for node in images.users if node.target is take]
    if inputs:
        images.append(inputs[0])
        for node in set(images.users) - set(inputs):
            node.replace_input_with(images, inputs[0])


class _Folding:
    """A graph of modules and functions from an exported program."""

    def __init__(self, backbone: nn.Module, program: torch.export.ExportedProgram) -> None:
        self._backbone, self._program = backbone, program
        self._graph, self._weights = fx.Graph(), dict[str, fx.Graph]()
        self._env: dict[fx.Node, Any] = {}
        self._modules = dict(backbone.named_modules())
        self._paths = {module: path for path, module in self._modules.items()}  # a shared one has its first name
        weighted = ((path, getattr(m, "weight", None)) for path, m in self._modules.items() if isinstance(m, FOLDED))
        self._owners = {id(weight): path for path, weight in weighted if weight is not None}
        self._tensors: dict[fx.Node, Tensor] = {}

    def captured(self) -> Captured:
        """Return the graph without dead nodes."""
        self._add(self._program.graph, self._program.graph_module)
        outputs = [spec.arg.name for spec in self._program.graph_signature.output_specs]
        kinds = [spec.kind for spec in self._program.graph_signature.output_specs]
        (name,) = (n for n, kind in zip(outputs, kinds, strict=True) if kind == OutputKind.USER_OUTPUT)
        (answer,) = (now for node, now in self._env.items() if node.name == name and node.graph is self._program.graph)
        if not isinstance(answer, fx.Node) or not carries_images(answer):
            raise CaptureError("the answer does not follow from the images")
        self._graph.output(answer)
        _ask_first_input(self._graph)
        name_gelus(self._graph)
        drop_nothing(self._graph)
        self._graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
        return Captured(self._graph, self._weights)

    def _add(self, graph: fx.Graph, owner: nn.Module) -> None:
        """Add the nodes of a graph, including the nodes of its context blocks (autocast, no_grad)."""
        for node in graph.nodes:
            if node.op == "placeholder":
                if node not in self._env:
                    self._env[node] = self._input(node)
            elif node.op == "call_function" and not operator_name(node.target).startswith(_DROPPED):
                self._env[node] = self._function(node, owner)

    def _input(self, node: fx.Node) -> fx.Node:
        """Return the node of the images, or of a parameter, buffer or constant."""
        spec = next(s for s in self._program.graph_signature.input_specs if getattr(s.arg, "name", "") == node.name)
        if spec.kind == InputKind.USER_INPUT:
            made = self._graph.placeholder(IMAGES)
            made.meta["carries"] = True
            return made
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER):
            path = str(spec.target).removeprefix(f"{ROOT}.")
            made = self._graph.create_node("get_attr", path)
            owner, _, name = path.rpartition(".")
            self._tensors[made] = getattr(self._backbone.get_submodule(owner), name)
            return made
        made = self._graph.create_node("get_attr", str(spec.target or node.name).replace(".", "_"))
        made.meta["value"] = self._program.constants[str(spec.target)]
        return made

    def _function(self, node: fx.Node, owner: nn.Module) -> Any:
        if isinstance(node.target, torch._ops.HigherOrderOperator):
            return self._block(node, owner)
        args: Any
        kwargs: Any
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), self._now)
        if node.target is operator.getitem and isinstance(args[0], tuple | list):
            return args[0][args[1]]
        if _changes_nothing(node):
            return args[0]
        path = self._innermost(node)
        target = self._layer(node, path, args)
        if target is not None:
            made = self._made(node, "call_module", target, (self._unpadded(target, args[0]),), {}, target)
            return (made, None, None) if operator_name(node.target) == _NATIVE_NORM else made
        if node.target is torch.ops.nacdeploy.identity.default:
            return self._made(node, "call_module", args[1], (args[0],), {}, str(args[1]))
        function, in_place = MARKED.get(node.target) or _reshaping(node.target), _is_in_place(node)
        if in_place:
            function = _out_of_place(function)
        name = f"{path}.{operator_name(function)}".lstrip(".")
        if path in self._modules and _is_leaf(self._modules[path]):
            name = path
        made = self._made(node, "call_function", function, args, kwargs, name)
        made.meta["is_zero"] = isinstance(self._modules.get(path), Nothing)
        if in_place:
            self._replace(node.args[0], made)
        return made

    def _made(self, node: fx.Node, op: str, target: Any, args: Any, kwargs: Any, name: str) -> fx.Node:
        made = self._graph.create_node(op, target, args, kwargs, name=name.replace(".", "_").lower())
        held = node.meta.get("nn_module_stack") or {}
        paths = [(key, (_path(path), kind)) for key, (path, kind) in held.items()]
        made.meta["nn_module_stack"] = {key: value for key, value in paths if value[0]}
        follows = any(self._follows(each) for each in made.all_input_nodes)
        made.meta["follows"] = follows
        made.meta["carries"] = follows and not isinstance(node.meta.get("val"), torch.SymInt | int | float)
        return made

    def _follows(self, node: fx.Node) -> bool:
        return bool(node.meta.get("follows", node.op == "placeholder"))

    def _now(self, node: fx.Node) -> Any:
        return self._env[node]

    def _replace(self, changed: Any, made: fx.Node) -> None:
        """Let later readers of a value that was changed in place read the new value."""
        former = self._env[changed]
        for node, now in self._env.items():
            if now is former:
                self._env[node] = made

    def _innermost(self, node: fx.Node) -> str:
        held = list((node.meta.get("nn_module_stack") or {}).values())
        return self._known(_path(held[-1][0])) if held else ""

    def _known(self, path: str) -> str:
        """Return the one name of a module that a network holds under several."""
        try:
            return self._paths.get(self._backbone.get_submodule(path), path)
        except AttributeError:
            return path

    def _block(self, node: fx.Node, owner: nn.Module) -> Any:
        """Inline a block of `with torch.no_grad()` or autocast: in evaluation mode its values are the same."""
        (body,) = (arg for arg in node.args if isinstance(arg, fx.Node) and arg.op == "get_attr")
        if not str(node.target).startswith("wrap_with"):
            raise CaptureError(f"it runs {node.target}, a branch that depends on values")
        inner: Any = owner.get_submodule(str(body.target))
        given = node.args[node.args.index(body) + 1 :]
        places = [each for each in inner.graph.nodes if each.op == "placeholder"]
        self._env.update(zip(places, fx.node.map_arg(given, self._now), strict=True))
        self._add(inner.graph, inner)
        (answer,) = next(each for each in inner.graph.nodes if each.op == "output").args
        return fx.node.map_arg(answer, self._now)

    def _layer(self, node: fx.Node, path: str, args: tuple[Any, ...]) -> str | None:
        """Return the module whose whole computation a node is, with the module's own parameters and settings."""
        kind = operator_name(node.target)
        if kind in _LAYER_ARGUMENTS:
            owner = self._weighted_owner(kind, path, args)
            settings = [*args[3:], *_LAYER_ARGUMENTS[kind][max(len(args) - 3, 0) :]]
            is_as_set = owner is not None and _as_set(self._modules[owner], kind, settings, args[0])
            return owner if is_as_set else None
        module = self._modules.get(path)
        if kind in ("batch_norm", _NATIVE_NORM) and isinstance(module, _BatchNorm):
            held = (module.weight, module.bias, module.running_mean, module.running_var)
            return path if all(self._is(a, b) for a, b in zip(args[1:5], held, strict=True)) else None
        if kind == "layer_norm" and isinstance(module, nn.LayerNorm):
            is_same = tuple(args[1]) == tuple(module.normalized_shape)
            return path if is_same and self._are_own(args[2:4], module) else None
        if kind == "group_norm" and isinstance(module, nn.GroupNorm):
            return path if args[1] == module.num_groups and self._are_own(args[2:4], module) else None
        return path if node.target in DROPOUTS and isinstance(module, _DropoutNd) else None

    def _weighted_owner(self, kind: str, path: str, args: tuple[Any, ...]) -> str | None:
        """Return the layer whose weight and bias a node multiplies with; note a weight that its own layer computes."""
        base = nn.Linear if kind == "linear" else CONVOLUTIONS[kind]
        weight, bias = args[1], args[2] if len(args) > 2 else None
        if not isinstance(weight, fx.Node):
            return None
        module = self._modules.get(path)
        if weight.op == "get_attr":
            tensor = self._tensors.get(weight)
            if not (isinstance(module, base) and getattr(module, "weight", None) is tensor):
                path = self._owners.get(id(tensor), "")
                module = self._modules.get(path) if path else None
            if module is None or not isinstance(module, base) or tensor is not module.weight:
                return None
            return path if self._is(bias, module.bias) else None
        if not isinstance(module, base) or self._follows(weight) or not self._is(bias, module.bias):
            return None
        self._weights[path] = _graph_of(weight)
        return path

    def _unpadded(self, layer: str, x: fx.Node) -> fx.Node:
        """Return a layer's input; if the layer's own forward pads with other values than zeros, the input of the
        padding."""
        pads = getattr(self._modules[layer], "padding_mode", "zeros") != "zeros"
        return x.args[0] if pads else x  # type: ignore[return-value]

    def _are_own(self, args: tuple[Any, ...], module: nn.Module) -> bool:
        given = (*args, None, None)[:2]
        return all(self._is(a, b) for a, b in zip(given, (module.weight, module.bias), strict=True))

    def _is(self, node: Any, tensor: Any) -> bool:
        """Tell whether an argument is this very tensor, or both are None."""
        return tensor is None if node is None else isinstance(node, fx.Node) and self._tensors.get(node) is tensor


def _as_set(module: Any, kind: str, settings: list[Any], x: fx.Node) -> bool:
    """Tell whether a convolution of `x` runs with the stride, padding, dilation and groups of its module."""
    if kind == "linear":
        return True
    n_axes, padding = int(kind[4]), module.padding
    if module.padding_mode != "zeros":  # its forward pads by a node of its own
        if operator_name(x.target) != "pad" or type(module).forward is not CONVOLUTIONS[kind].forward:
            return False
        padding = (0,) * n_axes
    held = [module.stride, padding, module.dilation, module.groups]
    pairs = zip(settings, held, strict=True)
    return all(
        given == own or (isinstance(own, tuple | list) and _each(given, n_axes) == tuple(own)) for given, own in pairs
    )


def _changes_nothing(node: fx.Node) -> bool:
    """Tell whether a node only copies its input, as the `.float()` of a tensor in float32: a graph of values has no
    use for it, and what stands around it is to be found by its neighbours."""
    source = node.args[0] if node.args else None
    if operator_name(node.target) not in _COPIES or not isinstance(source, fx.Node):
        return False
    now, before = node.meta.get("val"), source.meta.get("val")
    return isinstance(now, Tensor) and isinstance(before, Tensor) and now.dtype == before.dtype


def _each(given: Any, n_axes: int) -> tuple[Any, ...]:
    """Return a setting for each axis."""
    values = tuple(given) if isinstance(given, tuple | list) else (given,)
    return values * n_axes if len(values) == 1 else values


def _graph_of(node: fx.Node) -> fx.Graph:
    """Return the nodes that a value follows from, as a graph that answers with the value."""
    graph, made = fx.Graph(), dict[fx.Node, fx.Node]()
    needed, waiting = {node}, [node]
    while waiting:
        new = [each for each in waiting.pop().all_input_nodes if each not in needed]
        needed.update(new)
        waiting += new
    for each in node.graph.nodes:
        if each in needed:
            made[each] = graph.node_copy(each, lambda old: made[old])
    graph.output(made[node])
    return graph


def _is_leaf(module: nn.Module) -> bool:
    """Tell whether a module is an activation, a pool or the like, which gives its name to its single node."""
    return type(module).__module__.startswith("torch.nn.modules.") and not any(True for _ in module.children())


def _path(path: str) -> str:
    """Return the path of a module within the network; a second call of the module is marked behind an @."""
    return path.partition("@")[0].removeprefix(ROOT).removeprefix(".")


def _reshaping(target: Any) -> Any:
    """Return the reshape (for any layout in memory) in place of a view that asks for a certain layout."""
    return _aten.reshape.default if target in _RESHAPED else target


def _out_of_place(target: Any) -> Any:
    """Return the operator that gives a new value in place of an operator that changes its input.

    Raises:
        CaptureError: there is none.
    """
    packet = getattr(_aten, operator_name(target).removesuffix("_"), None)
    overload = target._overloadname
    if packet is None or overload not in packet.overloads():
        raise CaptureError(f"it changes a tensor in place by {target}, which has no other form")
    return getattr(packet, overload)
