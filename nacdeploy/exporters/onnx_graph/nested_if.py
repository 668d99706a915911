"""Segments as one file for one image at a time: the gate and ONNX's `If` around everything behind an exit.

The file has one more output than the network, `exit`: the exit that answered, counted from 0, the network's own end
last. Thresholds are the initializers `threshold_1` and so on, which can be changed in the file.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from nacdeploy.base.errors import NacdeployError
from nacdeploy.exporters.onnx_graph.cutting import Segmented

EXIT = "exit"
_INT64, _FLOAT = onnx.TensorProto.INT64, onnx.TensorProto.FLOAT


def nested(segments: Segmented, thresholds: Sequence[float], rule: str) -> bytes:
    """Return the segments as one model for batches of one.

    Raises:
        NacdeployError: the rule cannot be written in ONNX, or the network has several outputs.
    """
    models = [onnx.load_model_from_string(each) for each in segments.models]
    branches = any(a.type == onnx.AttributeProto.GRAPH for m in models for n in m.graph.node for a in n.attribute)
    if rule not in _RULES or len(segments.ends) != 1 or branches:
        what = f"a gate by '{rule}'" if rule not in _RULES else "a network with branches or several outputs"
        raise NacdeployError(f"{what} cannot be written into one file: set export.exits = 'segments'")
    end = segments.ends[0]
    made = models[0]
    shape = [size.dim_value for size in models[-1].graph.output[0].type.tensor_type.shape.dim][1:]
    _build(made.graph, models, segments, list(thresholds), rule)
    _one_image(made.graph.input)
    made.graph.ClearField("output")
    made.graph.output.append(helper.make_tensor_value_info(end, _FLOAT, [1, *shape]))
    made.graph.output.append(helper.make_tensor_value_info(EXIT, _INT64, []))
    onnx.checker.check_model(made)
    return made.SerializeToString()


def with_thresholds(model: bytes, thresholds: Sequence[float]) -> bytes:
    """Return such a file with other thresholds."""
    made = onnx.load_model_from_string(model)
    held = {each.name: each for each in _initializers(made.graph)}
    for index, value in enumerate(thresholds):
        name = _threshold(index)
        if name not in held:
            raise NacdeployError(f"the file of exits has no '{name}': export the artifact again")
        held[name].CopyFrom(_constant(name, np.float32(value)))
    return made.SerializeToString()


def _build(
    graph: onnx.GraphProto, models: Sequence[onnx.ModelProto], segments: Segmented, thresholds: list[float], rule: str
) -> None:
    """Put the gates and all later segments into the graph of the first one, from the last one on."""
    inner: onnx.GraphProto | None = None
    for index in reversed(range(len(models))):
        own = graph if index == 0 else _renamed(models[index].graph, index, _cut(segments, index - 1))
        prefix = _prefix(index)
        if inner is not None:
            exit_output = prefix + segments.exits[index]
            own.initializer.append(_constant(_threshold(index), np.float32(thresholds[index])))
            answers = [segments.ends[0], EXIT] if index == 0 else [f"{prefix}answer", f"{prefix}{EXIT}"]
            sure = _gate(own, exit_output, _threshold(index), rule, f"{prefix}gate")
            then = _leaf(exit_output, index, f"{prefix}then")
            own.node.append(helper.make_node("If", [sure], answers, f"{prefix}if", then_branch=then, else_branch=inner))
        else:
            answers = [f"{prefix}answer", f"{prefix}{EXIT}"]
            own.node.append(helper.make_node("Identity", [prefix + segments.ends[0]], answers[:1]))
            own.node.append(_index(index, answers[1]))
        own.ClearField("output")
        own.output.extend(_untyped(each) for each in answers)
        inner = own


def _cut(segments: Segmented, index: int) -> str:
    """Return the tensor that a segment passes on, under its name in the file."""
    return _prefix(index) + segments.cuts[index].tensor


def _prefix(index: int) -> str:
    return "" if index == 0 else f"behind_{index}/"


def _threshold(index: int) -> str:
    return f"threshold_{index + 1}"


def _renamed(graph: onnx.GraphProto, index: int, given: str) -> onnx.GraphProto:
    """Return a segment as a branch: its names are its own, and what it is given is taken from outside."""
    own, prefix = onnx.GraphProto(), _prefix(index)
    own.CopyFrom(graph)
    made = [*(tensor.name for tensor in own.initializer), *(name for node in own.node for name in node.output if name)]
    names = {**{name: prefix + name for name in made}, **{value.name: given for value in own.input}}
    for tensor in own.initializer:
        tensor.name = names[tensor.name]
    for node in own.node:
        node.name = prefix + node.name if node.name else ""
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    own.ClearField("input")
    own.name = f"behind_{index}"
    return own


def _leaf(output: str, index: int, name: str) -> onnx.GraphProto:
    """Return the branch that answers with an exit's output."""
    made = helper.make_graph([helper.make_node("Identity", [output], [f"{name}/answer"])], name, [], [])
    made.node.append(_index(index, f"{name}/{EXIT}"))
    made.output.extend([_untyped(f"{name}/answer"), _untyped(f"{name}/{EXIT}")])
    return made


def _index(index: int, output: str) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [output], value=_constant(output, np.int64(index)))


def _untyped(name: str) -> onnx.ValueInfoProto:
    """Return an output of a branch; checkers want a type, and shapes follow."""
    kind = _INT64 if name.endswith(EXIT) else _FLOAT
    value = onnx.ValueInfoProto(name=name)
    value.type.tensor_type.elem_type = kind
    return value


def _constant(name: str, value: np.generic) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(value), name)


def _one_image(inputs: Sequence[onnx.ValueInfoProto]) -> None:
    for value in inputs:
        value.type.tensor_type.shape.dim[0].dim_value = 1


def _initializers(graph: onnx.GraphProto) -> list[onnx.TensorProto]:
    found = list(graph.initializer)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                found += _initializers(attribute.g)
    return found


class _Nodes:
    """Writes the nodes of a gate into a graph."""

    def __init__(self, graph: onnx.GraphProto, stem: str) -> None:
        self.graph, self.stem, self.n = graph, stem, 0

    def __call__(self, operator: str, *inputs: str, **attributes: Any) -> str:
        self.n += 1
        output = f"{self.stem}/{self.n}"
        self.graph.node.append(helper.make_node(operator, list(inputs), [output], output, **attributes))
        return output

    def number(self, value: float) -> str:
        self.n += 1
        name = f"{self.stem}/{self.n}"
        self.graph.initializer.append(_constant(name, np.float32(value)))
        return name


def _gate(graph: onnx.GraphProto, outputs: str, threshold: str, rule: str, stem: str) -> str:
    """Write the nodes that tell whether outputs (1, K) are sure enough; return the name of the truth value."""
    write = _Nodes(graph, stem)
    return write("GreaterOrEqual", _RULES[rule](write, outputs), threshold)


def _softmax(write: _Nodes, x: str) -> str:
    return write("ReduceMax", write("Softmax", x, axis=1), keepdims=0)


def _entropy(write: _Nodes, x: str) -> str:
    shares, logs = write("Softmax", x, axis=1), write("LogSoftmax", x, axis=1)
    negative = write("ReduceSum", write("Mul", shares, logs), keepdims=0)
    size = write("Cast", write("Size", x), to=_FLOAT)  # of one image, the number of classes
    return write("Add", write.number(1.0), write("Div", negative, write("Log", size)))


def _margin(write: _Nodes, x: str) -> str:
    n_best = f"{write.stem}/n_best"
    write.graph.initializer.append(numpy_helper.from_array(np.array([2], dtype=np.int64), n_best))
    best = f"{write.stem}/best"
    write.graph.node.append(
        helper.make_node("TopK", [write("Softmax", x, axis=1), n_best], [best, f"{best}/places"], best, axis=1)
    )
    return write("Sub", write("ReduceMax", best, keepdims=0), write("ReduceMin", best, keepdims=0))


def _labels(write: _Nodes, x: str) -> str:
    half = write("Mul", x, write.number(0.5))
    return write("ReduceMin", write("Abs", write("Tanh", half)), keepdims=0)


_RULES: dict[str, Callable[[_Nodes, str], str]] = {
    "softmax": _softmax,
    "entropy": _entropy,
    "margin": _margin,
    "labels": _labels,
}
