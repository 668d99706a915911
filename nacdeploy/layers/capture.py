"""The captured graph of a network: what `forward(images)` runs in evaluation mode, with layers as calls of its modules.

torch.export records the network at the level of ATen operators, with a batch of any size: defaults of arguments are
bound, Python's control flow is followed as it runs, and shapes that follow from the batch stay symbolic. The operators
of convolutions, linear layers and norms are then folded back into calls of the modules that own their parameters, so
that training mode, surgery, masks and quantizers act on the user's own modules, subclasses included. All else is a graph
of plain functions: an activation that lives inside a norm is a node, and so is the padding of a convolution's subclass.
"""

import logging
import operator
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind, OutputKind
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from nacdeploy.layers.decibels import snr_db

WEIGHTED = (nn.Conv2d, nn.Linear)
IMAGES = "images"
_ROOT = "backbone"
_LARGEST_BATCH = 4096
_LEAST_DB = 100.0
_N_CHECKED = 2

_aten = torch.ops.aten


class CaptureError(Exception):
    """A network that cannot be captured; the text says why."""


@dataclass(frozen=True)
class Captured:
    """A graph, the graphs of the weights that are computed from parameters by layer (weight norms, standardised
    weights), and why there is no graph where there is none. It names modules by their paths and is never changed, so
    that copies of a network share it."""

    graph: fx.Graph | None
    weights: Mapping[str, fx.Graph] = field(default_factory=dict)
    why_not: str = ""

    def __deepcopy__(self, memo: dict[int, Any]) -> "Captured":
        return self


def capture(backbone: nn.Module, input_shape: tuple[int, ...]) -> Captured:
    """Capture `backbone` in evaluation mode for images (N, *input_shape), the modules' modes restored at the end.

    The graph is checked: it answers as the network does, on noise. A network that is built again, as every checkpoint
    is, has the graph of the first one, where the check says so.
    """
    key = _likeness(backbone, input_shape)
    if key in _KNOWN and _answers(_KNOWN[key], backbone, input_shape):
        _KNOWN.move_to_end(key)
        return _KNOWN[key]
    found = _captured(backbone, input_shape)
    _KNOWN[key] = found
    if len(_KNOWN) > _N_KNOWN:
        _KNOWN.popitem(last=False)
    return found


def capture_after_cut(backbone: nn.Module, input_shape: tuple[int, ...], former: Captured) -> Captured:
    """The graph of a network that lost channels: the `former` one where it holds none of their numbers, which shows in
    its answers, else captured anew."""
    return former if _answers(former, backbone, input_shape) else capture(backbone, input_shape)


def _captured(backbone: nn.Module, input_shape: tuple[int, ...]) -> Captured:
    with _evaluating(backbone):
        try:
            images = _noise(backbone, input_shape)
            found = _Folding(backbone, _exported(backbone, images)).captured()
            _check(found, backbone, images)
            return found
        except CaptureError as error:
            return Captured(None, why_not=str(error))


def _answers(former: Captured, backbone: nn.Module, input_shape: tuple[int, ...]) -> bool:
    """Whether a graph answers as a network does."""
    if former.graph is None:
        return False
    with _evaluating(backbone):
        try:
            _check(former, backbone, _noise(backbone, input_shape))
        except Exception:  # shapes that do not fit, in whichever operator
            return False
    return True


_KNOWN: OrderedDict[Any, Captured] = OrderedDict()
_N_KNOWN = 32


def _likeness(backbone: nn.Module, input_shape: tuple[int, ...]) -> Any:
    """What networks of one structure have in common."""
    modules = tuple((path, type(module), module.extra_repr()) for path, module in backbone.named_modules())
    return input_shape, modules, tuple((name, tuple(t.shape), t.dtype) for name, t in backbone.state_dict().items())


@contextmanager
def _evaluating(backbone: nn.Module) -> Iterator[None]:
    """Evaluation mode, every module's own mode restored at the end, and no gradient history left."""
    modes = {module: module.training for module in backbone.modules()}
    backbone.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        forget_computed(backbone)


def first_tensor(answer: Any) -> Any:
    """The first tensor of what a network answers: of a tuple, a dict, or an object with fields."""
    while not isinstance(answer, Tensor):
        if isinstance(answer, Mapping):
            answer = next(iter(answer.values()), None)
        elif isinstance(answer, tuple | list):
            answer = answer[0] if answer else None
        elif hasattr(answer, "__dataclass_fields__"):
            answer = next((getattr(answer, name) for name in answer.__dataclass_fields__), None)
        else:
            return None
    return answer


def carries_images(node: fx.Node) -> bool:
    """Whether a node's value is a tensor that follows from the images: no parameter, no constant, no size."""
    return bool(node.meta.get("carries", False))


def forget_computed(backbone: nn.Module) -> None:
    """Let go of the gradient history of tensors that a module keeps as plain attributes, as the older weight norm does:
    with it, a network cannot be copied."""
    for module in backbone.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, Tensor) and not value.is_leaf:
                setattr(module, name, value.detach())


def call_plain(module: nn.Module, x: Tensor) -> Tensor:
    """What the node of a module computes: of a subclass of a layer or norm what its parent computes, since the rest of
    its forward has nodes of its own."""
    for base, forward in _FORWARDS.items():
        if isinstance(module, base):
            return forward(module, x)
    return module(x)


def weighted_consumer(node: fx.Node, backbone: nn.Module) -> nn.Module | None:
    """The convolution or linear layer that a node calls, if it calls one."""
    if node.op != "call_module":
        return None
    module = backbone.get_submodule(str(node.target))
    return module if isinstance(module, WEIGHTED) else None


def stack(node: fx.Node) -> list[str]:
    """The paths of the modules that a node lies in, the outermost first."""
    return [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()]


class _Answer(nn.Module):
    """The network with images alone as its input, defaults for all else, and its first answer."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> Tensor:
        return first_tensor(self.backbone(images))


def _noise(backbone: nn.Module, input_shape: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    like = next((p for p in backbone.parameters() if p.is_floating_point()), torch.zeros(()))
    return torch.randn(_N_CHECKED, *input_shape, generator=generator).to(like)


def _exported(backbone: nn.Module, images: Tensor) -> torch.export.ExportedProgram:
    batch = {0: torch.export.Dim("batch", min=1, max=_LARGEST_BATCH)}
    fast_attention = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it is one operator that hides its layers
    try:
        with _quiet(), _marked_identities(backbone):
            program = torch.export.export(_Answer(backbone), (images,), dynamic_shapes=(batch,), strict=False)
            return program if _is_plain(program.graph) else program.run_decompositions({})
    except Exception as error:  # tracing runs the user's code: anything may be raised there, and all of it means "no"
        lines = str(error).strip().splitlines() or [""]
        raise CaptureError(f"torch.export: {type(error).__name__}: {lines[0][:200]}") from error
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_attention)


@contextmanager
def _quiet() -> Iterator[None]:
    """torch.export warns about itself, and logs what it cannot export."""
    former = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(former)


@torch.library.custom_op("nacdeploy::identity", mutates_args=())
def _identity(x: Tensor, module: str) -> Tensor:
    """Stands for a module that passes images on in evaluation mode and does more in training (stochastic depth)."""
    return x.clone()


@_identity.register_fake
def _(x: Tensor, module: str) -> Tensor:
    return torch.empty_like(x)


@contextmanager
def _marked_identities(backbone: nn.Module) -> Iterator[None]:
    """Leave a node for each module without parameters that answers with its own input."""
    handles = []
    for path, module in backbone.named_modules():
        is_bare = not any(True for _ in module.children()) and not any(True for _ in module.parameters())
        if path and is_bare and not type(module).__module__.startswith("torch.nn."):

            def mark(_module: nn.Module, given: tuple[Any, ...], answer: Any, path: str = path) -> Any:
                is_same = bool(given) and answer is given[0] and isinstance(answer, Tensor)
                return torch.ops.nacdeploy.identity(answer, path) if is_same else None

            handles.append(module.register_forward_hook(mark))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _check(found: Captured, backbone: nn.Module, images: Tensor) -> None:
    if found.graph is None:
        return
    with torch.no_grad():
        expected = first_tensor(backbone(images))
        answer = Interpreter(backbone, found).run(images)
    if answer.shape != expected.shape or snr_db(expected, answer) < _LEAST_DB:
        raise CaptureError("the captured graph answers otherwise than the network")


class Interpreter(fx.Interpreter):
    """Runs a captured graph on its modules: of subclasses what their nodes stand for, on the device of the images, with
    dropout where the network trains."""

    def __init__(self, backbone: nn.Module, captured: Captured) -> None:
        super().__init__(backbone, graph=captured.graph)
        self._captured = captured
        self._device: torch.device | None = None

    def run_node(self, n: fx.Node) -> Any:
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        return self.compute(n, args, kwargs)

    def compute(self, n: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The value of a node from the values that it reads."""
        if n.op == "placeholder":
            value = super().placeholder(n.target, args, kwargs)
            self._device = value.device
            return value
        if n.op == "get_attr":
            return self.constant(n)
        if n.op == "call_module":
            return self.layer(str(n.target), self.module.get_submodule(str(n.target)), args[0])
        if n.op == "call_function":
            args, kwargs = self._as_now(n, args, kwargs)
        return getattr(self, n.op)(n.target, args, kwargs)

    def layer(self, name: str, module: nn.Module, x: Tensor) -> Any:
        """The output of a layer, norm or dropout."""
        weight = computed_weight(self.module, self._captured, name)
        return call_plain(module, x) if weight is None else with_weights(module, x, weight, module.bias)

    def constant(self, n: fx.Node) -> Any:
        """A parameter, buffer or constant of the graph."""
        value = n.meta["value"] if "value" in n.meta else self.fetch_attr(str(n.target))
        return value.to(self._device) if self._device is not None and isinstance(value, Tensor) else value

    def _as_now(self, n: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], Any]:
        """Devices and dropouts as they are now, not as they were when the network was captured."""
        if self._device is not None and isinstance(kwargs.get("device"), torch.device):
            kwargs = {**kwargs, "device": self._device}
        if n.target in _DROPOUTS and args[2] is False:
            args = (*args[:2], self.module.training)
        return args, kwargs


def computed_weight(backbone: nn.Module, captured: Captured, layer: str) -> Tensor | None:
    """The weight of a layer that computes it from other parameters; None where it is a parameter itself."""
    graph = captured.weights.get(layer)
    return None if graph is None else Interpreter(backbone, Captured(graph)).run()


def with_weights(module: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A convolution or linear layer with other weights than its own."""
    if isinstance(module, nn.Linear):
        return nn.functional.linear(x, weight, bias)
    kind = next(kind for kind in _CONVOLUTIONS.values() if isinstance(module, kind))
    return kind._conv_forward(module, x, weight, bias)


_CONVOLUTIONS: dict[str, Any] = {"conv1d": nn.Conv1d, "conv2d": nn.Conv2d, "conv3d": nn.Conv3d}
_FORWARDS: dict[type[nn.Module], Callable[[Any, Tensor], Tensor]] = {
    **{kind: lambda m, x: with_weights(m, x, m.weight, m.bias) for kind in (*_CONVOLUTIONS.values(), nn.Linear)},
    _BatchNorm: _BatchNorm.forward,
    nn.LayerNorm: nn.LayerNorm.forward,
    nn.GroupNorm: nn.GroupNorm.forward,
}
FOLDED = tuple(_FORWARDS)  # the kinds of modules whose operators become calls of them
_DROPOUTS = {_aten.dropout.default, _aten.feature_dropout.default, _aten.alpha_dropout.default}
_DROPPED = ("_assert", "sym_constrain", "guard")
_RESHAPED = {_aten.view.default, _aten._unsafe_view.default}


def operator_name(target: Any) -> str:
    """`conv2d` of aten.conv2d.default; the name of a Python function."""
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name.rpartition("::")[2]
    return str(getattr(target, "__name__", target))


def _is_plain(graph: fx.Graph) -> bool:
    """Whether no value is changed in place through a view of it: then each change can be written as a new value."""
    return all(_is_own(node.args[0]) for node in graph.nodes if _is_in_place(node))


def _is_in_place(node: fx.Node) -> bool:
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return False
    arguments = node.target._schema.arguments
    alias = arguments[0].alias_info if arguments else None
    return alias is not None and alias.is_write


def _is_own(node: Any) -> bool:
    """Whether a value shares its memory with no other."""
    return isinstance(node, fx.Node) and not _is_view(node) and not any(_is_view(user) for user in node.users)


def _is_view(node: fx.Node) -> bool:
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return node.target is operator.getitem
    return not _is_in_place(node) and any(r.alias_info is not None for r in node.target._schema.returns)


class _Folding:
    """A graph of modules and functions from an exported program."""

    def __init__(self, backbone: nn.Module, program: torch.export.ExportedProgram) -> None:
        self._backbone, self._program = backbone, program
        self._graph, self._weights = fx.Graph(), dict[str, fx.Graph]()
        self._env: dict[fx.Node, Any] = {}
        self._modules = dict(backbone.named_modules())
        self._paths = {module: path for path, module in self._modules.items()}  # a shared one has its first name
        self._owners = {id(m.weight): path for path, m in self._modules.items() if isinstance(m, FOLDED)}
        self._tensors: dict[fx.Node, Tensor] = {}

    def captured(self) -> Captured:
        """The graph, dead nodes removed."""
        self._add(self._program.graph, self._program.graph_module)
        outputs = [spec.arg.name for spec in self._program.graph_signature.output_specs]
        kinds = [spec.kind for spec in self._program.graph_signature.output_specs]
        (name,) = (n for n, kind in zip(outputs, kinds, strict=True) if kind == OutputKind.USER_OUTPUT)
        (answer,) = (now for node, now in self._env.items() if node.name == name and node.graph is self._program.graph)
        if not isinstance(answer, fx.Node) or not carries_images(answer):
            raise CaptureError("the answer does not follow from the images")
        self._graph.output(answer)
        self._graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
        return Captured(self._graph, self._weights)

    def _add(self, graph: fx.Graph, owner: nn.Module) -> None:
        """The nodes of a graph, those of its context blocks (autocast, no_grad) among them."""
        for node in graph.nodes:
            if node.op == "placeholder":
                if node not in self._env:
                    self._env[node] = self._input(node)
            elif node.op == "call_function" and not operator_name(node.target).startswith(_DROPPED):
                self._env[node] = self._function(node, owner)

    def _input(self, node: fx.Node) -> fx.Node:
        """Images, or a parameter, buffer or constant."""
        spec = next(s for s in self._program.graph_signature.input_specs if getattr(s.arg, "name", "") == node.name)
        if spec.kind == InputKind.USER_INPUT:
            made = self._graph.placeholder(IMAGES)
            made.meta["carries"] = True
            return made
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER):
            path = str(spec.target).removeprefix(f"{_ROOT}.")
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
        if node.target is operator.getitem and isinstance(self._env.get(node.args[0]), tuple | list):
            return self._env[node.args[0]][node.args[1]]
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), self._now)
        path = self._innermost(node)
        target = self._layer(node, path, args)
        if target is not None:
            return self._made(node, "call_module", target, (self._unpadded(target, args[0]),), {}, target)
        if node.target is torch.ops.nacdeploy.identity.default:
            return self._made(node, "call_module", args[1], (args[0],), {}, args[1])
        function, in_place = _reshaping(node.target), _is_in_place(node)
        if in_place:
            function = _out_of_place(function)
        name = f"{path}.{operator_name(function)}".lstrip(".")
        if path in self._modules and _is_leaf(self._modules[path]):
            name = path
        made = self._made(node, "call_function", function, args, kwargs, name)
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
        """After a change in place, whoever reads the changed value reads the new one."""
        former = self._env[changed]
        for node, now in self._env.items():
            if now is former:
                self._env[node] = made

    def _innermost(self, node: fx.Node) -> str:
        held = list((node.meta.get("nn_module_stack") or {}).values())
        return self._known(_path(held[-1][0])) if held else ""

    def _known(self, path: str) -> str:
        """The one name of a module that a network holds under several."""
        try:
            return self._paths.get(self._backbone.get_submodule(path), path)
        except AttributeError:
            return path

    def _block(self, node: fx.Node, owner: nn.Module) -> Any:
        """A block of `with torch.no_grad()` or autocast, written in line; its values are the same in evaluation mode."""
        (body,) = (arg for arg in node.args if isinstance(arg, fx.Node) and arg.op == "get_attr")
        if not str(node.target).startswith("wrap_with"):
            raise CaptureError(f"it runs {node.target}, a branch that depends on values")
        inner = owner.get_submodule(str(body.target))
        given = node.args[node.args.index(body) + 1 :]
        places = [each for each in inner.graph.nodes if each.op == "placeholder"]
        self._env.update(zip(places, (self._env[each] for each in given), strict=True))
        self._add(inner.graph, inner)
        (answer,) = next(each for each in inner.graph.nodes if each.op == "output").args
        return fx.node.map_arg(answer, self._now)

    def _layer(self, node: fx.Node, path: str, args: tuple[Any, ...]) -> str | None:
        """The module of which a node is the whole computation, with its own parameters and settings."""
        kind = operator_name(node.target)
        if kind in _LAYER_ARGUMENTS:
            owner = self._weighted_owner(kind, path, args)
            settings = (
                [*args[3:], *_LAYER_ARGUMENTS[kind][len(args) - 3 :]] if len(args) > 3 else _LAYER_ARGUMENTS[kind]
            )
            is_as_set = owner is not None and _as_set(self._modules[owner], kind, settings, args[0])
            return owner if is_as_set else None
        module = self._modules.get(path)
        if kind == "batch_norm" and isinstance(module, _BatchNorm):
            held = (module.weight, module.bias, module.running_mean, module.running_var)
            return path if all(self._is(a, b) for a, b in zip(args[1:5], held, strict=True)) else None
        if kind == "layer_norm" and isinstance(module, nn.LayerNorm):
            is_same = tuple(args[1]) == tuple(module.normalized_shape)
            return path if is_same and self._are_own(args[2:4], module) else None
        if kind == "group_norm" and isinstance(module, nn.GroupNorm):
            return path if args[1] == module.num_groups and self._are_own(args[2:4], module) else None
        return path if node.target in _DROPOUTS and isinstance(module, _DropoutNd) else None

    def _weighted_owner(self, kind: str, path: str, args: tuple[Any, ...]) -> str | None:
        """The layer whose weight and bias a node multiplies with; a weight that its own layer computes is noted."""
        base = nn.Linear if kind == "linear" else _CONVOLUTIONS[kind]
        weight, bias = args[1], args[2] if len(args) > 2 else None
        if not isinstance(weight, fx.Node):
            return None
        module = self._modules.get(path)
        if weight.op == "get_attr":
            tensor = self._tensors.get(weight)
            if not (isinstance(module, base) and getattr(module, "weight", None) is tensor):
                path = self._owners.get(id(tensor), "")
                module = self._modules.get(path) if path else None
            is_own = isinstance(module, base) and self._is(bias, module.bias)
            return path if is_own and self._tensors.get(weight) is module.weight else None
        if not isinstance(module, base) or self._follows(weight) or not self._is(bias, module.bias):
            return None
        self._weights[path] = _graph_of(weight)
        return path

    def _unpadded(self, layer: str, x: fx.Node) -> fx.Node:
        """What a layer reads: of one whose own forward pads with more than zeros, what stands before the padding."""
        return x.args[0] if getattr(self._modules[layer], "padding_mode", "zeros") != "zeros" else x  # type: ignore

    def _are_own(self, args: tuple[Any, ...], module: nn.Module) -> bool:
        given = (*args, None, None)[:2]
        return all(self._is(a, b) for a, b in zip(given, (module.weight, module.bias), strict=True))

    def _is(self, node: Any, tensor: Any) -> bool:
        """Whether an argument is this very tensor, or both are None."""
        return tensor is None if node is None else isinstance(node, fx.Node) and self._tensors.get(node) is tensor


# The arguments behind the bias, with the operators' defaults.
_LAYER_ARGUMENTS: dict[str, list[Any]] = {
    "linear": [],
    **{kind: [1, 0, 1, 1] for kind in _CONVOLUTIONS},
}


def _as_set(module: nn.Module, kind: str, settings: list[Any], x: fx.Node) -> bool:
    """Whether a convolution of `x` runs with the stride, padding, dilation and groups that its module holds."""
    if kind == "linear":
        return True
    n_axes, padding = int(kind[4]), module.padding
    if module.padding_mode != "zeros":  # its forward pads by a node of its own
        if operator_name(x.target) != "pad" or type(module)._conv_forward is not _CONVOLUTIONS[kind]._conv_forward:
            return False
        padding = (0,) * n_axes
    held = [module.stride, padding, module.dilation, module.groups]
    pairs = zip(settings, held, strict=True)
    return all(given == own or (isinstance(own, tuple) and _each(given, n_axes) == own) for given, own in pairs)


def _each(given: Any, n_axes: int) -> tuple[Any, ...]:
    """A setting for each axis."""
    values = tuple(given) if isinstance(given, tuple | list) else (given,)
    return values * n_axes if len(values) == 1 else values


def _graph_of(node: fx.Node) -> fx.Graph:
    """The nodes that a value follows from, as a graph that answers with it."""
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
    """Whether a module is an activation, a pool or the like, which names the one node that it is."""
    return type(module).__module__.startswith("torch.nn.modules.") and not any(True for _ in module.children())


def _path(path: str) -> str:
    """The path of a module within the network; a second call of it is marked behind an @."""
    return path.partition("@")[0].removeprefix(_ROOT).removeprefix(".")


def _reshaping(target: Any) -> Any:
    """A view that asks for a certain layout in memory as the reshape that takes any."""
    return _aten.reshape.default if target in _RESHAPED else target


def _out_of_place(target: Any) -> Any:
    """The operator that answers with a new value in place of one that changes its input.

    Raises:
        CaptureError: there is none.
    """
    packet = getattr(_aten, operator_name(target).removesuffix("_"), None)
    overload = target._overloadname
    if packet is None or overload not in packet.overloads():
        raise CaptureError(f"it changes a tensor in place by {target}, which has no other form")
    return getattr(packet, overload)
