"""Ports: the inputs and outputs of a user's own network, and the one tensor on each side that all other rooms see.

Everything behind this room runs a network from one tensor `(N, ...)` to one tensor `(N, K)`. A network with one float
input and outputs `(N, K)` is such a network. Any other network gets ports: its inputs travel packed, as the columns of
one float tensor, and its outputs are flattened and joined. `ported` makes a module do so without another name for any
of its layers, and `unported` gives the user's own class back. An artifact has the inputs and outputs of the user's
network (`exporters/targets/ported.py`).
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from math import prod
from typing import Annotated, Any, Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn

from nacdeploy.base.errors import UsageError

T = TypeVar("T")
LARGEST_INTEGER = 2**24  # a float32 holds every integer up to here
_CLASSES: dict[type, type] = {}


@dataclass(frozen=True)
class Port:
    """One input or output: its name, its shape without the batch, its type, and the number of values of an integer
    input (0 to `n_values` - 1)."""

    name: str
    shape: tuple[Annotated[int, Field(ge=1)], ...]
    dtype: str = "float32"
    n_values: Annotated[int, Field(ge=1, le=LARGEST_INTEGER)] | None = None

    @property
    def size(self) -> int:
        """The number of values of one sample."""
        return prod(self.shape)

    @property
    def torch_dtype(self) -> torch.dtype:
        """The type as torch names it."""
        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype


@dataclass(frozen=True)
class Ports:
    """The inputs and outputs of a network.

    Attributes:
        inputs: the inputs in order.
        outputs: the outputs in order.
        call: "one" for `model(x)`, "several" for `model(a, b)`, "named" for `model(a=..., b=...)`.
        answer: the form of the answer: the number of an output, a list of forms, or forms by key.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    call: Literal["one", "several", "named"] = "one"
    answer: Any = 0

    @property
    def packs(self) -> bool:
        """Whether inputs travel packed: there are several, or the only one holds no floats."""
        return len(self.inputs) != 1 or self.inputs[0].dtype != "float32"

    @property
    def joins(self) -> bool:
        """Whether outputs are flattened and joined: there are several, or the only one is not `(N, K)`."""
        return self.answer != 0 or len(self.outputs[0].shape) != 1

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one sample as all other rooms see it."""
        return (sum(port.size for port in self.inputs),) if self.packs else self.inputs[0].shape

    @property
    def n_outputs(self) -> int:
        """The number of values of one answer."""
        return sum(port.size for port in self.outputs)

    def packed(self, given: Sequence[Tensor]) -> Tensor:
        """Return inputs `(N, ...)`, in order, as one tensor: float32 `(N, *input_shape)`."""
        if not self.packs:
            return given[0].float()
        return torch.cat([_flat(each).float() for each in given], 1)

    def restored(self, answers: Tensor) -> Any:
        """Return joined answers `(N, K)` in the form in which the network itself gives them."""
        return _formed(self.answer, self.apart(answers)) if self.joins else answers

    def apart(self, answers: Tensor) -> list[Tensor]:
        """Return joined answers `(N, K)` output by output."""
        return split(answers, self.outputs)


class Answers(dict[str, Any]):
    """A dictionary of answers whose keys are attributes too, as in the outputs of many libraries."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


def split(joined: Tensor, ports: Sequence[Port]) -> list[Tensor]:
    """Return the tensors `(N, ...)` of ports from their joined values `(N, K)`."""
    parts = joined.split([port.size for port in ports], 1)
    return [part.reshape(len(part), *port.shape).contiguous() for part, port in zip(parts, ports, strict=True)]


def leaves(answer: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of an answer with a name for each, in order; constants such as None are left out."""
    if isinstance(answer, Tensor):
        yield "", answer
        return
    for key, each in _children(answer):
        for inner, tensor in leaves(each):
            yield (f"{key}_{inner}" if inner else str(key)), tensor


def form(answer: Any) -> Any:
    """Return the form of an answer: numbers of tensors in place of the tensors."""
    counter = iter(range(10**6))

    def formed(each: Any) -> Any:
        if isinstance(each, Tensor):
            return next(counter)
        if isinstance(each, Mapping) or is_dataclass(each):
            return {str(key): formed(value) for key, value in _children(each)}
        return [formed(value) for value in each] if isinstance(each, tuple | list) else None

    return formed(answer)


def _children(answer: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(answer, Mapping):
        yield from answer.items()
    elif isinstance(answer, tuple | list):
        names = getattr(answer, "_fields", range(1, len(answer) + 1))
        yield from zip(names, answer, strict=True)
    elif is_dataclass(answer):
        yield from ((field.name, getattr(answer, field.name)) for field in fields(answer))


def _formed(shape: Any, tensors: Sequence[T]) -> Any:
    if isinstance(shape, int):
        return tensors[shape]
    if isinstance(shape, Mapping):
        return Answers({key: _formed(each, tensors) for key, each in shape.items()})
    return tuple(_formed(each, tensors) for each in shape) if isinstance(shape, list | tuple) else None


def take(x: Any, number: int, start: int, shape: Sequence[int], dtype: str, n_values: int) -> Tensor:
    """Return one input from packed ones, `(N, sum of sizes)`, or from a tuple of inputs as they are.

    Integers are brought into the range that the network knows: noise, on which networks are compared, leaves it.
    """
    if isinstance(x, tuple):
        found: Tensor = x[number]
        return found
    part = x[:, start : start + prod(shape)].reshape(x.shape[0], *shape)
    kind: torch.dtype = getattr(torch, dtype)
    if kind.is_floating_point:
        return part if kind == torch.float32 else part.to(kind)
    return part.round().abs().clamp(max=n_values - 1).to(kind)


def join(answers: Sequence[Tensor]) -> Tensor:
    """Return answers `(N, ...)` flattened and joined, `(N, K)`."""
    like = answers[0].dtype if answers[0].is_floating_point() else torch.float32
    return torch.cat([_flat(each).to(like) for each in answers], 1)


def _flat(x: Tensor) -> Tensor:
    return x.reshape(x.shape[0], -1)


@torch.library.custom_op("nacdeploy::take", mutates_args=())
def _take(x: Tensor, number: int, start: int, shape: Sequence[int], dtype: str, n_values: int) -> Tensor:
    return take(x, number, start, shape, dtype, n_values).clone()


@_take.register_fake
def _(x: Tensor, number: int, start: int, shape: Sequence[int], dtype: str, n_values: int) -> Tensor:
    kind: torch.dtype = getattr(torch, dtype)
    return x.new_empty((x.shape[0], *shape), dtype=x.dtype if kind == torch.float32 else kind)


@torch.library.custom_op("nacdeploy::join", mutates_args=())
def _join(answers: Sequence[Tensor]) -> Tensor:
    return join(answers).clone()


@_join.register_fake
def _(answers: Sequence[Tensor]) -> Tensor:
    like = answers[0].dtype if answers[0].is_floating_point() else torch.float32
    return answers[0].new_empty((answers[0].shape[0], sum(prod(each.shape[1:]) for each in answers)), dtype=like)


# A captured graph holds these functions in place of the operators that stand for them while torch exports.
MARKED: dict[Any, Callable[..., Tensor]] = {
    torch.ops.nacdeploy.take.default: take,
    torch.ops.nacdeploy.join.default: join,
}


class Ported:
    """The part of a class made by `ported`: `forward` from packed inputs to joined outputs."""

    _ports: Ports

    def forward(self, x: Any) -> Any:
        ports, own = self._ports, super().forward  # type: ignore[misc]
        if not ports.packs:
            answer = own(x) if ports.call != "named" else own(**{ports.inputs[0].name: x})
        else:
            answer = _called(own, ports, _taken(ports, x))
        if not ports.joins:
            return next(tensor for _, tensor in leaves(answer))
        tensors = [tensor for _, tensor in leaves(answer)]
        return torch.ops.nacdeploy.join(tensors) if torch.compiler.is_exporting() else join(tensors)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()} {self._ports}"  # type: ignore[misc]


def _taken(ports: Ports, x: Any) -> list[Tensor]:
    found, start = [], 0
    taking = torch.ops.nacdeploy.take if torch.compiler.is_exporting() else take
    for number, port in enumerate(ports.inputs):
        found.append(taking(x, number, start, list(port.shape), port.dtype, port.n_values or LARGEST_INTEGER))
        start += port.size
    return found


def _called(model: Callable[..., Any], ports: Ports, given: Sequence[Any]) -> Any:
    if ports.call == "named":
        return model(**{port.name: each for port, each in zip(ports.inputs, given, strict=True)})
    return model(*given)


def call(model: nn.Module, given: Any) -> Any:
    """Call a network as a batch of its loader says: a tensor, a tuple of tensors, or tensors by name."""
    if isinstance(given, Mapping):
        return model(**given)
    return model(*given) if isinstance(given, tuple | list) else model(given)


def ported(model: nn.Module, ports: Ports | None) -> nn.Module:
    """Make a module answer packed inputs with joined outputs, in place; its layers keep their names.

    Raises:
        UsageError: the module's class takes no other class in its place.
    """
    if ports is None:
        return model
    if not (ports.packs or ports.joins or ports.call == "named"):
        model._ports = ports  # type: ignore[assignment]
        return model
    own = type(model)
    made = _CLASSES.setdefault(own, type(own.__name__, (Ported, own), {"__module__": own.__module__}))
    try:
        model.__class__ = made
    except TypeError as error:
        raise UsageError(
            f"the network's class {own.__name__} cannot be given ports: wrap it in an nn.Module"
        ) from error
    model._ports = ports  # type: ignore[assignment]
    return model


def ports_of(model: nn.Module) -> Ports | None:
    """Return the ports of the network of a user's own task, or None."""
    return getattr(model, "_ports", None)


def unported(model: nn.Module) -> nn.Module:
    """Return a copy of a module with its user's own class, inputs and outputs."""
    own = copy.deepcopy(model)
    if isinstance(own, Ported):
        own.__class__ = type(own).__mro__[2]
    if ports_of(own) is not None:
        del own._ports
    return own


def found(model: nn.Module, given: Any, names: Sequence[str]) -> Ports:
    """Find the ports of a network by running it on a batch of its loader, in evaluation mode.

    `names` are the parameters of the network's `forward`, which name inputs that the batch does not name.

    Raises:
        UsageError: an input is no tensor with the batch first, or the answer holds no such tensor; the text names it.
    """
    own = getattr(model, "output_names", None)  # a network from a graph names its outputs
    batch = next(iter(tensors_of(given).values()))
    with torch.inference_mode(), _watched(model) as lookups:
        answer = call(model, given)
    inputs = _inputs(lookups, given, names, hasattr(model, "input_names"))
    outputs = []
    for name, tensor in leaves(answer):
        if tensor.dim() < 1 or len(tensor) != len(batch):
            what = f"output '{name}'" if name else "the output"
            raise UsageError(f"{what} has shape {tuple(tensor.shape)} for a batch of {len(batch)}; needed: (N, ...)")
        name = name or (own[0] if own else "logits")
        outputs.append(Port(name, tuple(tensor.shape[1:]), str(tensor.dtype).removeprefix("torch.")))
    if not outputs:
        raise UsageError(f"the network answers with {type(answer).__name__}, which holds no tensor")
    kind: Any = "named" if isinstance(given, Mapping) else "several" if isinstance(given, tuple | list) else "one"
    return Ports(inputs, tuple(outputs), kind, form(answer))


def tensors_of(given: Any) -> dict[str, Tensor]:
    """Return the tensors of a batch's inputs by name; inputs without a name are called by their number.

    Raises:
        UsageError: an input is no tensor.
    """
    if isinstance(given, Mapping):
        named = dict(given)
    else:
        named = {str(i): each for i, each in enumerate(given)} if isinstance(given, tuple | list) else {"": given}
    for name, each in named.items():
        if not isinstance(each, Tensor) or each.dim() < 1:
            raise UsageError(f"input '{name}' is {type(each).__name__}; needed: a tensor with the batch first")
    return named


Lookups = list[tuple[int, Tensor]]  # the rows of a table, and the indices that were looked up in it


@contextmanager
def _watched(model: nn.Module) -> Iterator[Lookups]:
    """Note within the block what a network looks up in its tables (`nn.Embedding`)."""
    tables, seen = [module for module in model.modules() if isinstance(module, nn.Embedding)], Lookups()
    hooks = [
        table.register_forward_pre_hook(lambda table, given: seen.append((table.num_embeddings, given[0])))
        for table in tables
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _inputs(lookups: Lookups, given: Any, names: Sequence[str], is_named: bool) -> tuple[Port, ...]:
    made = []
    for i, (key, each) in enumerate(tensors_of(given).items()):
        name = key if isinstance(given, Mapping) else (names[i] if i < len(names) else f"input_{i + 1}")
        if not isinstance(given, Mapping | tuple | list) and each.dim() == 4 and not is_named:
            name = "images"
        n_values = None if each.is_floating_point() else _n_values(each, lookups)
        made.append(Port(name, tuple(each.shape[1:]), str(each.dtype).removeprefix("torch."), n_values))
    return tuple(made)


def _n_values(x: Tensor, lookups: Lookups) -> int:
    """Return how many values an integer input may have: the rows of the table in which it is looked up as it is, else
    of the smallest table that has a row for each of its values, as it may be looked up there after some arithmetic."""
    own = [n for n, indices in lookups if indices.shape == x.shape and torch.equal(indices, x)]
    largest = int(x.max()) if x.numel() else 0
    return min(own or [n for n, _ in lookups if n > largest] or [LARGEST_INTEGER])
