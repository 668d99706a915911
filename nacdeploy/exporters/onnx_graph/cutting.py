"""Cutting a graph behind its exits: segments that pass on one tensor each, in 8 bits where the graph holds it so.

A tensor is a cut if every way from the inputs to all later outputs leads through it, and if no layer would have to run
on both sides.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from nacdeploy.base.errors import NacdeployError

# These may run on both sides of a cut: they cost nothing beside a layer.
_CHEAP = frozenset(
    {
        *("QuantizeLinear", "DequantizeLinear", "Clip", "Cast", "Identity"),
        *("Flatten", "Reshape", "Squeeze", "Unsqueeze", "Transpose"),
    }
)


class NoCutError(NacdeployError):
    """An exit behind which no single tensor is passed on."""


@dataclass(frozen=True)
class Cut:
    """The tensor that goes on behind an exit.

    Attributes:
        tensor: its name in the graph.
        dtype: its type as numpy names it: "uint8", "int8", "float32".
        shape: its shape without the batch.
        scale: the step of its integers; None for floats.
        zero_point: the integer that stands for 0.
    """

    tensor: str
    dtype: str
    shape: tuple[int, ...]
    scale: float | None = None
    zero_point: int | None = None


@dataclass(frozen=True)
class Segmented:
    """The segments of a graph, serialised, each checked; the cut behind each but the last, and its exit's output."""

    models: tuple[bytes, ...]
    cuts: tuple[Cut, ...]
    exits: tuple[str, ...]
    ends: tuple[str, ...]


def segmented(model: onnx.ModelProto, exits: Sequence[str], ends: Sequence[str]) -> Segmented:
    """Cut a graph behind each of its `exits`, outputs in order of execution; `ends` are the outputs of its own end.

    Raises:
        NoCutError: behind an exit more than one tensor is alive, or its shape is not known.
    """
    graph = _Graph(model)
    outputs = [*exits, *ends]
    names = [graph.cut(name, outputs[index + 1 :]) for index, name in enumerate(exits)]
    wanted = [*((name, cut) for name, cut in zip(exits, names, strict=True)), tuple(ends)]
    parts = [graph.nodes_for(outs, given) for outs, given in zip(wanted, [None, *names], strict=True)]
    graph.check_apart(parts, exits)
    cuts = tuple(graph.described(name) for name in names)
    models = tuple(
        graph.written(nodes, outs, cut) for nodes, outs, cut in zip(parts, wanted, [None, *cuts], strict=True)
    )
    return Segmented(models, cuts, tuple(exits), tuple(ends))


def reading_integers(model: onnx.ModelProto, exits: Sequence[str], ends: Sequence[str]) -> onnx.ModelProto:
    """Return a graph whose exits' heads read what goes on in 8 bits, where they read the same in float.

    The tensor need not be there in float then, which spares its conversion and lets runtimes fuse the layer that makes
    it with its rounding. Exits behind which there is no cut stay as they are.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    outputs = [*exits, *ends]
    for index, exit_name in enumerate(exits):
        graph = _Graph(made)
        try:
            cut = graph.nodes[graph.makers[graph.cut(exit_name, outputs[index + 1 :])]]
        except NoCutError:
            continue
        pairs = [n for n in graph.nodes if n.input[:] == [cut.output[0], *cut.input[1:]]]
        pairs = [n for n in pairs if n.op_type == "DequantizeLinear"]
        if cut.op_type == "QuantizeLinear" and pairs:
            head = {*graph.nodes_for([exit_name])} - {*graph.nodes_for([*outputs[index + 1 :], cut.output[0]])}
            _move_behind(made, head, cut.input[0], pairs[0].output[0])
    return made


def _move_behind(model: onnx.ModelProto, head: Collection[int], old: str, new: str) -> None:
    """Let the nodes of a head read `new` in place of `old`, and stand behind all others."""
    nodes = list(model.graph.node)
    for at in head:
        nodes[at].input[:] = [new if name == old else name for name in nodes[at].input]
    ordered = [n for at, n in enumerate(nodes) if at not in head] + [nodes[at] for at in sorted(head)]
    kept = [onnx.NodeProto.FromString(each.SerializeToString()) for each in ordered]
    del model.graph.node[:]
    model.graph.node.extend(kept)


class _Graph:
    """A model's nodes and tensors. Nodes are known by their place, which is an order of execution."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model, self.nodes = model, list(model.graph.node)
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.inputs = [value.name for value in model.graph.input if value.name not in self.constants]
        self.makers = {name: at for at, node in enumerate(self.nodes) for name in node.output if name}

    def reads(self, at: int) -> list[str]:
        """Return the tensors that a node reads, those that its subgraphs take from outside included. Who only counts
        the images of a batch can count any tensor."""
        node = self.nodes[at]
        return [] if _counts_batch(node) else [name for name in _reads(node) if name not in self.constants]

    def nodes_for(self, outputs: Collection[str], given: str | None = None) -> list[int]:
        """Return the nodes that compute outputs, from the tensor `given` on."""
        found: set[int] = set()
        waiting = [name for name in outputs if name != given]
        while waiting:
            at = self.makers.get(waiting.pop())
            if at is not None and at not in found:
                found.add(at)
                waiting += [name for name in self.reads(at) if name != given]
        return sorted(found)

    @cached_property
    def carrying(self) -> set[str]:
        """The tensors that follow from the inputs."""
        found = set(self.inputs)
        for at, node in enumerate(self.nodes):
            if not found.isdisjoint(self.reads(at)):
                found.update(node.output)
        return found

    def cut(self, exit_name: str, later: Sequence[str]) -> str:
        """Return the tensor to pass on behind an exit, for all later outputs.

        Raises:
            NoCutError: there is none.
        """
        ways = list(self._single(later))
        before = {name for at in self.nodes_for([exit_name]) for name in self.nodes[at].output}
        reached = [at for at, name in enumerate(ways) if name in before]
        if not reached:
            raise NoCutError(f"no tensor behind '{exit_name}' is the only one that later outputs follow from")
        return self._in_8_bits(ways, reached[-1])

    def _single(self, outputs: Sequence[str]) -> Iterator[str]:
        """Yield the tensors through which every way to the outputs leads, in order."""
        steps = [at for at in self.nodes_for(outputs) if not self.carrying.isdisjoint(self.nodes[at].output)]
        last = {name: at for at in steps for name in self.reads(at) if name in self.carrying}
        last |= dict.fromkeys(outputs, len(self.nodes))
        alive = {name for name in self.inputs if name in last}
        for at in steps:
            alive = {name for name in alive if last[name] > at}
            alive |= {name for name in self.nodes[at].output if name in last}
            if len(alive) == 1:
                yield next(iter(alive))

    def _in_8_bits(self, ways: Sequence[str], at: int) -> str:
        """Return the tensor at a place, or the one beside it that holds the same in integers."""
        maker = self.nodes[self.makers[ways[at]]]
        if maker.op_type == "DequantizeLinear" and maker.input[0] in ways:
            return str(maker.input[0])
        for name in ways[at:]:
            kind = self.nodes[self.makers[name]].op_type
            if kind == "QuantizeLinear":
                return name
            if name != ways[at] and kind not in _CHEAP:
                break
        return ways[at]

    def check_apart(self, parts: Sequence[Sequence[int]], exits: Sequence[str]) -> None:
        """Check that no layer runs in two segments.

        Raises:
            NoCutError: one would.
        """
        for index, exit_name in enumerate(exits):
            behind = {at for part in parts[index + 1 :] for at in part}
            for at in sorted(behind.intersection(parts[index])):
                node = self.nodes[at]
                if node.op_type not in _CHEAP and not self.carrying.isdisjoint(node.output):
                    raise NoCutError(
                        f"more than one tensor is alive behind '{exit_name}' (a connection leads around it): "
                        f"'{node.name or node.op_type}' would run on both sides of a cut"
                    )

    @cached_property
    def _values(self) -> dict[str, onnx.ValueInfoProto]:
        try:
            inferred = onnx.shape_inference.infer_shapes(self.model, data_prop=True).graph
        except onnx.shape_inference.InferenceError:
            inferred = self.model.graph
        return {value.name: value for value in (*inferred.value_info, *inferred.input, *inferred.output)}

    def described(self, name: str) -> Cut:
        """Return a tensor with its type, shape and grid.

        Raises:
            NoCutError: its shape is not known.
        """
        kind = self._values[name].type.tensor_type if name in self._values else onnx.TypeProto.Tensor()
        sizes = [size.dim_value for size in kind.shape.dim][1:]
        if not sizes or not all(sizes) or not kind.elem_type:
            raise NoCutError(f"the shape of the tensor '{name}', behind an exit, is not known")
        maker = self.nodes[self.makers[name]]
        grid = [self._number(each) for each in maker.input[1:3]] if maker.op_type == "QuantizeLinear" else []
        scale, zero_point = grid if len(grid) == 2 else (None, None)
        dtype = str(helper.tensor_dtype_to_np_dtype(kind.elem_type))
        return Cut(name, dtype, tuple(sizes), scale, None if zero_point is None else int(zero_point))

    def _number(self, name: str) -> float | None:
        """Return a constant of one value."""
        values = numpy_helper.to_array(self.constants[name]) if name in self.constants else None
        return float(values.reshape(())) if values is not None and values.size == 1 else None

    def written(self, nodes: Sequence[int], outputs: Sequence[str], given: Cut | None) -> bytes:
        """Return a segment as a model of its own, checked."""
        made = onnx.ModelProto()
        made.CopyFrom(self.model)
        for field in ("node", "initializer", "value_info", "output"):
            made.graph.ClearField(field)
        made.graph.node.extend(self.nodes[at] for at in nodes)
        if given is not None:
            made.graph.ClearField("input")
            made.graph.input.append(_value(given))
            _count(made.graph.node, given.tensor)
        read = {name for node in made.graph.node for name in _reads(node)}
        made.graph.initializer.extend(each for name, each in self.constants.items() if name in read)
        made.graph.output.extend(self._output(name) for name in outputs)
        onnx.checker.check_model(made)
        return made.SerializeToString()

    def _output(self, name: str) -> onnx.ValueInfoProto:
        own = {value.name: value for value in self.model.graph.output}
        return own[name] if name in own else _value(self.described(name))


def _value(cut: Cut) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(cut.dtype))
    return helper.make_tensor_value_info(cut.tensor, kind, ["batch", *cut.shape])


def _count(nodes: Any, tensor: str) -> None:
    """Let those who count the images of a batch count them of a tensor."""
    for node in nodes:
        if _counts_batch(node):
            node.input[0] = tensor


def _counts_batch(node: onnx.NodeProto) -> bool:
    """Tell whether a node gives the first size of a tensor alone, which is the batch."""
    if node.op_type != "Shape":
        return False
    attributes = {each.name: each.i for each in node.attribute}
    return attributes.get("start", 0) == 0 and attributes.get("end") == 1


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the tensors that a node reads, those that its subgraphs take from outside included."""
    yield from filter(None, node.input)
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            inside = {name for each in attribute.g.node for name in each.output}
            inside |= {value.name for value in attribute.g.input} | {each.name for each in attribute.g.initializer}
            for each in attribute.g.node:
                yield from (name for name in _reads(each) if name not in inside)
