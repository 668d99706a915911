"""OnnxModule: the graph of an ONNX file as a plain torch module, whose layers are torch's own, named as their nodes."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

from nacdeploy.base.errors import UsageError
from nacdeploy.models.denormals import flushed, is_denormal
from nacdeploy.models.from_onnx.contrib import CONTRIB
from nacdeploy.models.from_onnx.graph import shapes
from nacdeploy.models.from_onnx.layers import LAYERS, Left, layer, multiplied
from nacdeploy.models.from_onnx.operators import BY_OPSET, FUNCTIONS, SET_BY_NUMBERS
from nacdeploy.models.from_onnx.sizes import ON_SIZES, Sizes
from nacdeploy.models.from_onnx.values import tensor

_MOST_SIZES = 64  # numbers; more are a tensor
_QUANTIZED = ("QuantizeLinear", "DequantizeLinear")
_DYNAMIC = "DynamicQuantizeLinear"
_UNREADABLE = (ArithmeticError, AttributeError, LookupError, NotImplementedError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True)
class Input:
    """An input of a graph: its name, the shape that it declares (None: open), its type as torch names it, and whether
    it has the batch first."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    is_sample: bool = True


@dataclass(frozen=True)
class _Step:
    """A node: what computes it, from which values, to which."""

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    layer: str = ""
    last_use: tuple[str, ...] = ()


def _itself(value: Tensor) -> Any:
    return value


def _nobody(name: str, value: Any) -> None:
    pass


class UnreadError(UsageError):
    """Nodes that torch does not hold.

    Attributes:
        nodes: the reason for each, by the name of its first output.
    """

    def __init__(self, text: str, nodes: Mapping[str, str]) -> None:
        super().__init__(text)
        self.nodes = nodes


class OnnxModule(nn.Module):
    """Computes a graph node by node. `forward` takes its inputs in order, or by name; it returns the output, or outputs
    by name. The layers of nodes in `left` are no layers of torch's: no letter works on them.

    Raises:
        UnreadError: the graph has operators that are not read; the text lists them.
    """

    def __init__(self, model: onnx.ModelProto, where: str, left: Collection[str] = ()) -> None:
        super().__init__()
        self._where, self._left = where, frozenset(left)
        self.opset = max((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), default=1)
        written = {each.name: _tensor(each) for each in model.graph.initializer}
        self.n_denormal = sum(int(is_denormal(each).sum()) for each in written.values())
        constants = {name: flushed(each) for name, each in written.items()}
        self.inputs = tuple(input_of(each) for each in model.graph.input if each.name not in constants)
        self.input_names = tuple(each.name for each in self.inputs)
        self.output_names = tuple(each.name for each in model.graph.output)
        self.batch = _batch(self.inputs)
        self._written = shapes.written(model) if self.batch else {}
        self._constants: dict[str, Any] = {}
        self._values: dict[str, str] = {}
        steps = self._read([*model.graph.node], constants, _readers(model))
        self._steps = _with_last_uses(steps, {*self.output_names, *self._constants, *self._values})
        self._read_names = {*self.output_names, *(name for step in steps for name in step.inputs)}
        self.is_quantized = any(node.op_type in (*_QUANTIZED, _DYNAMIC) for node in model.graph.node)
        self.eval()

    def forward(self, *given: Tensor, **named: Tensor) -> Any:
        """Compute the outputs."""
        values: dict[str, Any] = {each.name: x for each, x in zip(self.inputs, given, strict=False)}
        values |= {each.name: named[_identifier(each.name)] for each in self.inputs[len(given) :]}
        self._run(values)
        if len(self.output_names) == 1:
            return values[self.output_names[0]]
        return {name: values[name] for name in self.output_names}

    def trace(self, *given: Tensor, kept: Callable[[Tensor], Any] = _itself) -> dict[str, Any]:
        """Return every tensor that the graph computes, by name; or what is `kept` of each, where all would be too
        much."""
        values: dict[str, Any] = {each.name: x for each, x in zip(self.inputs, given, strict=True)}
        found: dict[str, Any] = {name: kept(x) for name, x in values.items()}

        def tap(name: str, value: Any) -> None:
            if isinstance(value, Tensor):
                found[name] = kept(value)

        self._run(values, tap)
        return found

    def _run(self, values: dict[str, Any], tap: Callable[[str, Any], None] = _nobody) -> None:
        for step in self._steps:
            given = [self._value(name, values) for name in step.inputs]
            try:
                found = self._all_of(step, self._computed(step, given))
            except _UNREADABLE as error:
                if torch.compiler.is_exporting():  # torch's tracer has its own use for errors
                    raise
                reason = _reason(error)
                text = f"{self._where}: node '{step.name}' ({step.op}) cannot be run: {reason}"
                raise UnreadError(text, {first_output(step.outputs): f"torch cannot run it: {reason}"}) from error
            for name, value in zip(step.outputs, found, strict=False):
                values[name] = value
                tap(name, value)
            for name in step.last_use:
                values.pop(name, None)

    def _all_of(self, step: _Step, found: Any) -> tuple[Any, ...]:
        """Return the outputs of a node. Those that are listed and read by nobody may be missing: a mask of Dropout."""
        made = tuple(found) if isinstance(found, tuple | list) else (found,)
        if missing := [name for name in step.outputs[len(made) :] if name in self._read_names]:
            raise NotImplementedError(f"of its outputs only the first {len(made)} are computed here, not {missing[0]}")
        return made

    def _value(self, name: str, values: Mapping[str, Any]) -> Any:
        if not name:
            return None
        if name in values:
            return values[name]
        return self._constants[name] if name in self._constants else getattr(self, self._values[name])

    def _computed(self, step: _Step, given: list[Any]) -> Any:
        if step.layer:
            return self.get_submodule(step.layer)(given[0])
        if step.op in _QUANTIZED:
            return given[0]
        if step.op in ("Shape", "Size") and isinstance(given[0], Sizes):
            given = [given[0].tensor()]
        if step.op == "Shape":
            shape = list(given[0].shape)[step.attributes.get("start", 0) : step.attributes.get("end")]
            return Sizes(shape)
        if step.op == "Size":
            return Sizes([given[0].numel()], is_scalar=True)
        present = [each for each in given if each is not None]
        if step.op in ON_SIZES and present and all(isinstance(each, Sizes) for each in present):
            return ON_SIZES[step.op](*given, **step.attributes)
        if given and isinstance(given[0], Sizes) and step.op != "ConstantOfShape":
            given = [given[0].tensor(), *given[1:]]
        if step.op not in _TAKES_NUMBERS:
            like = next((each for each in given if isinstance(each, Tensor)), None)
            given = [tensor(each, like) if isinstance(each, Sizes) else each for each in given]
        if step.op == "Gemm":
            return multiplied(step.op, given, dict(step.attributes))
        return _FUNCTIONS[step.op](*given, **step.attributes)

    def _read(
        self, nodes: list[onnx.NodeProto], constants: dict[str, Tensor], readers: Mapping[str, list[onnx.NodeProto]]
    ) -> list[_Step]:
        """Return the steps of nodes; layers and constants become parts of the module."""
        steps, unknown = list[_Step](), list[tuple[onnx.NodeProto, int]]()
        taken = {"is_quantized", *vars(self)}
        skipped: set[str] = set()
        for number, node in enumerate(nodes):
            attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
            if node.op_type == "Constant":
                constants[node.output[0]] = _constant(attributes)
                continue
            if node.op_type == "DequantizeLinear" and node.input[0] in constants:
                constants[node.output[0]] = _dequantized(node, attributes, constants)
                continue
            if node.output[0] in skipped:
                continue
            name = _name(node, number, taken)
            outputs = tuple(node.output)
            bias = _bias_of(node, constants, readers)
            if bias is not None:
                attributes["bias"], added = bias
                outputs = tuple(added.output)
            op = operator_of(node)
            made = layer(op, list(node.input), attributes, constants)
            if bias is not None:
                if made is not None:
                    skipped.add(outputs[0])
                else:
                    outputs = tuple(node.output)
                attributes.pop("bias")
            if made is not None:
                self.add_module(name, Left(made) if node.name in self._left else made)
            elif op not in _KNOWN:
                unknown.append((node, number))
            given = tuple(node.input)[: 1 if made is not None else None]
            known = self._given(node, attributes)
            steps.append(_Step(name, op, given, outputs, known, name if made is not None else ""))
        self._refuse(unknown)
        self._hold(steps, constants)
        return steps

    def _given(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> dict[str, Any]:
        """Return the attributes of a node, with what its function needs to know of the graph."""
        if node.op_type in BY_OPSET:
            attributes["opset"] = self.opset
        if node.op_type == "Reshape" and self.batch:
            was, became = (self._written.get(name) for name in (node.input[0], node.output[0]))
            attributes |= {"batch": self.batch, "was": was, "became": became}
        if node.op_type == "Split":
            attributes["n"] = len(node.output)
        return attributes

    def _refuse(self, unknown: Sequence[tuple[onnx.NodeProto, int]]) -> None:
        if unknown:
            named = dict[str, str]()
            for node, number in unknown:
                named.setdefault(f"{node.domain}:{node.op_type}".lstrip(":"), node.name or f"number {number}")
            listed = ", ".join(f"{op} (node '{node}')" for op, node in sorted(named.items())[:6])
            nodes = {first_output(node.output): "torch does not hold it" for node, _ in unknown}
            raise UnreadError(f"{self._where} has operators that are not read here: {listed}", nodes)

    def _hold(self, steps: list[_Step], constants: Mapping[str, Tensor]) -> None:
        """Keep the constants that steps read: short lists of integers, and settings, as numbers, all others as
        buffers."""
        read = {name for step in steps for name in step.inputs}
        settings = {name for step in steps if step.op in SET_BY_NUMBERS for name in step.inputs[1:]}
        for name in sorted({*read, *self.output_names} & constants.keys()):
            value = constants[name]
            most = _MOST_SIZES if name in settings or not value.is_floating_point() else 1
            if value.dim() <= 1 and value.numel() <= most:
                self._constants[name] = Sizes(value.reshape(-1).tolist(), is_scalar=value.dim() == 0)
            else:
                self._values[name] = f"constant_{len(self._values)}"
                self.register_buffer(self._values[name], value)


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())[:200]
    unknown = re.search(r"unexpected keyword argument '(\w+)'", text)
    return f"its attribute '{unknown[1]}' is not read here" if unknown else text


def operator_of(node: onnx.NodeProto) -> str:
    """Return the name of an operator, with its domain if that is not ONNX's own."""
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}:{node.op_type}"


_FUNCTIONS = {**FUNCTIONS, **CONTRIB}
_TAKES_NUMBERS = {*SET_BY_NUMBERS, *ON_SIZES, "ConstantOfShape"}  # as Python's; all others get tensors
_KNOWN = {*_FUNCTIONS, *ON_SIZES, *_QUANTIZED, "Shape", "Size", "Gemm"}


def unread(graph: onnx.GraphProto) -> dict[str, str]:
    """Return the nodes whose operators torch does not hold, by the name of their first output, each with the reason."""
    known = {*_KNOWN, *LAYERS, "Constant"}
    nodes = (node for node in graph.node if operator_of(node) not in known)
    return {first_output(node.output): "torch does not hold it" for node in nodes}


def first_output(names: Sequence[str]) -> str:
    """Return the first output of a node that has a name."""
    return next((name for name in names if name), "")


def _tensor(given: onnx.TensorProto) -> Tensor:
    """Return a constant; what torch has no arithmetic for (half precision, four bits) is widened."""
    array = numpy_helper.to_array(given)
    if array.dtype == np.float16 or array.dtype.name.startswith(("bfloat", "float8", "float4")):
        return torch.from_numpy(array.astype(np.float32))
    wide = np.int8 if array.dtype.name.startswith(("int4", "uint4", "int2", "uint2")) else array.dtype
    return torch.from_numpy(np.array(array, dtype=wide))


def _constant(attributes: Mapping[str, Any]) -> Tensor:
    (key, value) = next(iter(attributes.items()))
    if key == "value":
        return _tensor(value)
    return torch.tensor(value, dtype=torch.float32 if key.startswith("value_float") else torch.int64)


def _dequantized(node: onnx.NodeProto, attributes: Mapping[str, Any], constants: Mapping[str, Tensor]) -> Tensor:
    values = constants[node.input[0]].float()
    scale = constants[node.input[1]].float()
    zero = constants[node.input[2]].float() if len(node.input) > 2 and node.input[2] else torch.zeros(())
    shape = [1] * values.dim()
    if scale.numel() > 1:
        shape[attributes.get("axis", 1)] = -1
    return (values - zero.reshape(shape if zero.numel() > 1 else [1] * values.dim())) * scale.reshape(
        shape if scale.numel() > 1 else [1] * values.dim()
    )


def input_of(value: onnx.ValueInfoProto) -> Input:
    """Return an input as a graph declares it; half precision is read as single."""
    kind = value.type.tensor_type
    shape = tuple(d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in kind.shape.dim)
    dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
    name = str(torch.from_numpy(np.zeros(0, dtype)).dtype).removeprefix("torch.")
    return Input(value.name, shape, "float32" if name == "float16" else name)


def _batch(inputs: tuple[Input, ...]) -> int | None:
    """Return the batch for which a graph was written, if it names one."""
    first = {each.shape[0] for each in inputs if each.shape}
    return first.pop() if len(first) == 1 and None not in first else None


def _readers(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    found: dict[str, list[onnx.NodeProto]] = {each.name: [onnx.NodeProto()] * 2 for each in model.graph.output}
    for node in model.graph.node:
        for name in node.input:
            found.setdefault(name, []).append(node)
    return found


def _bias_of(
    node: onnx.NodeProto, constants: Mapping[str, Tensor], readers: Mapping[str, list[onnx.NodeProto]]
) -> tuple[str, onnx.NodeProto] | None:
    """Return the constant that is added to a product with a constant matrix, and the node that adds it."""
    if node.op_type != "MatMul" or len(node.input) < 2 or node.input[1] not in constants:
        return None
    (first, *more) = readers.get(node.output[0]) or [onnx.NodeProto()]
    if more or first.op_type != "Add":
        return None
    other = next((name for name in first.input if name != node.output[0]), "")
    weight, offset = constants[node.input[1]], constants.get(other)
    fits = offset is not None and weight.dim() == 2 and tuple(offset.shape) == (weight.shape[1],)
    return (other, first) if fits else None


def _name(node: onnx.NodeProto, number: int, taken: set[str]) -> str:
    """Return a name for a node that a module may have, once each."""
    name = made = _identifier(node.name or f"{node.op_type}_{number}")
    count = 1
    while made in taken or hasattr(OnnxModule, made) or re.fullmatch(r"constant_\d+", made):
        count += 1
        made = f"{name}_{count}"
    taken.add(made)
    return made


def _identifier(name: str) -> str:
    found = re.sub(r"\W+", "_", name).strip("_")
    return found if found and not found[0].isdigit() else f"n_{found}"


def _with_last_uses(steps: list[_Step], kept: set[str]) -> list[_Step]:
    """Note at each step which values nobody reads after it."""
    seen, made = set(kept), []
    for step in reversed(steps):
        last = tuple(dict.fromkeys(name for name in step.inputs if name and name not in seen))
        seen.update(last)
        made.append(_Step(step.name, step.op, step.inputs, step.outputs, step.attributes, step.layer, last))
    return made[::-1]
