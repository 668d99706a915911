"""Conditions that constants or shapes decide: the branch that runs takes the place of its `If`.

Exporters write an `If` for every check of a shape in a scripted network. What is known of shapes is computed with
Python's integers; the batch is an unknown number, and what depends on it stays undecided.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, NodeProto, helper, numpy_helper

from nacdeploy.models.from_onnx.sizes import ON_SIZES, Sizes

_MOST_NUMBERS = 64
_MOST_ROUNDS = 64


class _Unknown:
    """A number that is not known: whatever is computed from it is not known either."""

    def _same(self, *_: Any) -> "_Unknown":
        return self

    def __bool__(self) -> bool:
        raise ValueError("not known")

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __floordiv__ = __rfloordiv__ = _same
    __mod__ = __rmod__ = __truediv__ = __rtruediv__ = __neg__ = __gt__ = __lt__ = _same
    __eq__ = __ne__ = _same  # type: ignore[assignment]
    __hash__ = None  # type: ignore[assignment]


_UNKNOWN = _Unknown()


def fixed(model: onnx.ModelProto, values: Mapping[str, NDArray]) -> None:
    """Write values in place of inputs, in place."""
    for value in [each for each in model.graph.input if each.name in values]:
        dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        model.graph.initializer.append(numpy_helper.from_array(values[value.name].astype(dtype), value.name))
        model.graph.input.remove(value)


def decided(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph without the conditions that constants and shapes decide."""
    for _ in range(_MOST_ROUNDS):
        if not any(node.op_type == "If" for node in model.graph.node):
            return model
        shaped = _inferred(model)
        known = _numbers(shaped.graph)
        found = [(node, bool(known[node.input[0]].one)) for node in model.graph.node if _is_decided(node, known)]
        if not found:
            return model
        for node, is_true in found:
            _inline(model.graph, node, _branch(node, is_true))
    return model


def _inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    try:
        return onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception:  # graphs that it does not take: less is known
        return model


def _is_decided(node: NodeProto, known: Mapping[str, Sizes]) -> bool:
    if node.op_type != "If" or node.input[0] not in known or len(known[node.input[0]]) != 1:
        return False
    return not isinstance(known[node.input[0]].one, _Unknown)


def _branch(node: NodeProto, is_true: bool) -> GraphProto:
    name = "then_branch" if is_true else "else_branch"
    return next(each.g for each in node.attribute if each.name == name)


def _numbers(graph: GraphProto) -> dict[str, Sizes]:
    """Return the numbers that follow from constants and shapes, by name."""
    shapes = {value.name: _shape(value) for value in (*graph.input, *graph.value_info, *graph.output)}
    shapes |= {each.name: list(each.dims) for each in graph.initializer}
    known = {each.name: made for each in graph.initializer if (made := _of_tensor(each)) is not None}
    for node in graph.node:
        attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute if _is_plain(each)}
        made = _computed(node, attributes, known, shapes)
        if made is not None and node.output:
            known[node.output[0]] = made
    return known


def _is_plain(attribute: AttributeProto) -> bool:
    return attribute.type not in (AttributeProto.GRAPH, AttributeProto.GRAPHS)


def _shape(value: onnx.ValueInfoProto) -> list[Any] | None:
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type") or not kind.HasField("shape"):
        return None
    return [d.dim_value if d.HasField("dim_value") else _UNKNOWN for d in kind.shape.dim]


def _of_tensor(tensor: onnx.TensorProto) -> Sizes | None:
    if len(tensor.dims) > 1 or (tensor.dims and tensor.dims[0] > _MOST_NUMBERS):
        return None
    try:
        array = numpy_helper.to_array(tensor)
    except Exception:  # strings, packed types
        return None
    return Sizes(array.reshape(-1).tolist(), is_scalar=array.ndim == 0) if array.dtype.kind in "iufb" else None


def _computed(
    node: NodeProto, attributes: dict[str, Any], known: Mapping[str, Sizes], shapes: Mapping[str, list[Any] | None]
) -> Sizes | None:
    if node.op_type == "Constant":
        return _of_tensor(attributes["value"]) if "value" in attributes else _of_numbers(attributes)
    if node.op_type in ("Shape", "Size"):
        shape = shapes.get(node.input[0])
        if shape is None and node.input[0] in known:
            shape = [] if known[node.input[0]].is_scalar else [len(known[node.input[0]])]
        if shape is None:
            return None
        return _sized(node.op_type, shape, attributes)
    if node.op_type not in ON_SIZES or any(name and name not in known for name in node.input):
        return None
    try:
        made = ON_SIZES[node.op_type](*(known[name] if name else None for name in node.input), **attributes)
    except Exception:  # an unknown number where a known one is needed, or a form that is not computed
        return None
    return made if isinstance(made, Sizes) else None


def _sized(op: str, shape: list[Any], attributes: Mapping[str, Any]) -> Sizes:
    if op == "Shape":
        return Sizes(shape[attributes.get("start", 0) : attributes.get("end")])
    product: Any = 1
    for size in shape:
        product = product * size
    return Sizes([product], is_scalar=True)


def _of_numbers(attributes: Mapping[str, Any]) -> Sizes | None:
    for key, value in attributes.items():
        if key in ("value_int", "value_float"):
            return Sizes([value], is_scalar=True)
        if key in ("value_ints", "value_floats"):
            return Sizes(list(value))
    return None


def _inline(graph: GraphProto, node: NodeProto, branch: GraphProto) -> None:
    """Put a branch in the place of its `If`; names that are taken get others."""
    taken = set(_defined(graph))
    fresh = (f"{node.name or 'If'}_{number}" for number in itertools.count())
    renamed = {name: f"{next(fresh)}/{name}" for name in _defined(branch) if name in taken}
    nodes = [_renamed(each, renamed) for each in branch.node]
    for tensor in branch.initializer:
        graph.initializer.add().CopyFrom(tensor)
        graph.initializer[-1].name = renamed.get(tensor.name, tensor.name)
    for inner, outer in zip(branch.output, node.output, strict=True):
        nodes.append(helper.make_node("Identity", [renamed.get(inner.name, inner.name)], [outer]))
    names = {each.name for each in graph.node if each.name}
    for each in nodes:
        each.name = f"{node.name or 'If'}/{each.name}" if each.name in names else each.name
    (place,) = (i for i, each in enumerate(graph.node) if each is node or each.output[:] == node.output[:])
    after = [NodeProto.FromString(each.SerializeToString()) for each in graph.node[place + 1 :]]
    del graph.node[place:]
    graph.node.extend([*nodes, *after])


def _defined(graph: GraphProto) -> Iterator[str]:
    yield from (each.name for each in (*graph.input, *graph.initializer))
    yield from (name for node in graph.node for name in node.output if name)


def _renamed(node: NodeProto, names: Mapping[str, str]) -> NodeProto:
    """Return a copy of a node, and of the branches in it, that reads and makes tensors by other names."""
    made = NodeProto.FromString(node.SerializeToString())
    made.input[:] = [names.get(name, name) for name in node.input]
    made.output[:] = [names.get(name, name) for name in node.output]
    for attribute in made.attribute:
        for graph in inner_graphs(attribute):
            own = set(_defined(graph))
            outer = {old: new for old, new in names.items() if old not in own}
            nodes = [_renamed(each, outer) for each in graph.node]
            del graph.node[:]
            graph.node.extend(nodes)
            for value in graph.output:
                value.name = outer.get(value.name, value.name)
    return made


def inner_graphs(attribute: AttributeProto) -> Iterable[GraphProto]:
    """Return the graphs in an attribute of a node."""
    return [attribute.g] if attribute.HasField("g") else list(attribute.graphs)
