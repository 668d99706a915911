"""Look-ups over an ONNX graph: the maker and the readers of a tensor, the constants, and the module behind a node."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property

import onnx

_SCOPES = "pkg.torch.onnx.name_scopes"
_LONGEST = 4000


class Links:
    """The maker and the readers of each tensor of a graph, and the constants. Subgraphs are included."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.nodes = list(_nodes(graph))
        self.constants = {tensor.name: tensor for tensor in _constants(graph)}

    @cached_property
    def by_name(self) -> dict[str, onnx.NodeProto]:
        return {node.name: node for node in self.nodes}

    @cached_property
    def producers(self) -> dict[str, onnx.NodeProto]:
        return {name: node for node in self.nodes for name in node.output if name}

    @cached_property
    def readers(self) -> dict[str, list[onnx.NodeProto]]:
        found = defaultdict(list)
        for node in self.nodes:
            for name in node.input:
                found[name].append(node)
        return found

    def sources(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Return the nodes that a node reads from."""
        return [self.producers[name] for name in node.input if name in self.producers]


def module_path(node: onnx.NodeProto) -> str:
    """Return the module that made a node, from the metadata of torch's exporter.

    `['', 'body', 'body.0', 'linear']` is body.0, and `['', 'add']`, of the model's own forward, is nothing.
    """
    scopes = next((p.value for p in node.metadata_props if p.key == _SCOPES), "[]")
    try:
        path = ast.literal_eval(scopes[:_LONGEST])
    except (ValueError, SyntaxError, RecursionError, MemoryError):  # the parser's own, of brackets without end
        return ""
    return str(path[-2]) if isinstance(path, list) and len(path) > 1 else ""


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _nodes(attribute.g)


def _constants(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Yield initializers and Constant nodes alike, each under the name of its tensor; subgraphs are included."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _constants(attribute.g)
            elif node.op_type == "Constant" and attribute.name == "value":
                named = onnx.TensorProto()
                named.CopyFrom(attribute.t)
                named.name = node.output[0]
                yield named
