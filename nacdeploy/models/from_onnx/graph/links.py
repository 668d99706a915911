"""Who makes and who reads the tensors of an ONNX graph, and parts of a graph as graphs of their own."""

from collections.abc import Iterable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from math import prod

import onnx
from onnx import GraphProto, NodeProto, ValueInfoProto, helper

from nacdeploy.models.from_onnx.graph.folding import inner_graphs

WEIGHTED = ("Conv", "ConvTranspose", "MatMul", "Gemm", "MatMulInteger", "FusedMatMul", "FusedConv", "FusedGemm")
Samples = Mapping[str, tuple[tuple[int, ...], int]]
"""Tensors `(N, ...)` by name: their shapes without the batch, and their types as ONNX numbers them."""


class Links:
    """The nodes of a graph by number, and what ties them. A branch reads what its node reads.

    Attributes:
        reads: the names that each node reads.
        maker: the node that makes a tensor.
        fixed: the nodes that follow from constants alone.
        constants: the names of what follows from constants alone.
        batch: the only batch of the graph; None for any.
        parents, children: the nodes that each node reads from, and those that read from it.
    """

    def __init__(self, model: onnx.ModelProto, batch: int | None = None) -> None:
        self.model, self.nodes, self.batch = model, list(model.graph.node), batch
        self.reads = [reads_of(node) for node in self.nodes]
        self.maker = {name: i for i, node in enumerate(self.nodes) for name in node.output if name}
        self.given = [each.name for each in model.graph.input]
        self.outputs = [each.name for each in model.graph.output]
        self.constants = {each.name for each in model.graph.initializer}
        self.fixed = set[int]()
        for i, (node, names) in enumerate(zip(self.nodes, self.reads, strict=True)):
            if names <= self.constants and not node.op_type.startswith("Random"):
                self.fixed.add(i)
                self.constants |= set(node.output)
        self.parents = [self.makers(names) for names in self.reads]
        self.children: list[set[int]] = [set() for _ in self.nodes]
        for i, parents in enumerate(self.parents):
            for parent in parents:
                self.children[parent].add(i)
        self._sizes = {each.name: prod(each.dims) for each in model.graph.initializer}

    def makers(self, names: Iterable[str]) -> set[int]:
        """Return the nodes that make tensors, without constants and inputs."""
        return {self.maker[name] for name in names if name in self.maker and name not in self.constants}

    def reached(self, start: Iterable[int], along: Sequence[set[int]]) -> set[int]:
        """Return the nodes of `start` and all that lie in one direction of them."""
        found, waiting = set(start), list(start)
        while waiting:
            new = along[waiting.pop()] - found
            found |= new
            waiting += new
        return found

    def entering(self, inside: set[int]) -> list[str]:
        """Return what a set of nodes reads from outside, inputs of the graph first."""
        names = {name for i in inside for name in self.reads[i]} - self.constants
        names = {name for name in names if self.maker.get(name) not in inside}
        return [*filter(names.__contains__, self.given), *sorted(names - {*self.given})]

    def leaving(self, inside: set[int], behind: set[int]) -> list[str]:
        """Return what is made inside alone and read behind, outputs of the graph first."""
        names = {name for i in behind for name in self.reads[i]} | {*self.outputs}
        names = {n for n in names if self.maker.get(n) in inside and self.maker.get(n) not in behind}
        return [*filter(names.__contains__, self.outputs), *sorted(names - {*self.outputs})]

    def weight(self, nodes: Iterable[int]) -> int:
        """Return how many weights the convolutions and matrix products among some nodes have."""
        weighted = (self.nodes[i] for i in nodes if self.nodes[i].op_type in WEIGHTED)
        return sum(self._size(name) for node in weighted for name in node.input[:2] if name in self.constants)

    def _size(self, name: str) -> int:
        while name not in self._sizes and name in self.maker and self.nodes[self.maker[name]].input:
            name = self.nodes[self.maker[name]].input[0]
        if name in self._sizes:
            return self._sizes[name]
        return max((prod(each.t.dims) for each in self.nodes[self.maker[name]].attribute), default=0)

    def part(self, inside: set[int], inputs: Samples, outputs: Iterable[str]) -> onnx.ModelProto:
        """Return some nodes as a model of their own. `inputs` are samples; what is missing there is an input of the
        file, as it is."""
        needed = self.reached(_fixed_makers(self, inside), [self._fixed_parents(i) for i in range(len(self.nodes))])
        nodes = [self.nodes[i] for i in sorted(inside | needed)]
        read = {name for i in inside | needed for name in self.reads[i]}
        own = {each.name: each for each in self.model.graph.input}
        graph = helper.make_graph(
            nodes,
            self.model.graph.name or "part",
            [
                _sample(n, *inputs[n], self.batch) if n in inputs else own[n]
                for n in dict.fromkeys([*inputs, *own])
                if n in read
            ],
            [ValueInfoProto(name=name) for name in outputs],
            [each for each in self.model.graph.initializer if each.name in read],
        )
        return helper.make_model(graph, opset_imports=self.model.opset_import, ir_version=self.model.ir_version)

    def _fixed_parents(self, node: int) -> set[int]:
        return {self.maker[name] for name in self.reads[node] if self.maker.get(name) in self.fixed}


def _fixed_makers(links: Links, inside: set[int]) -> set[int]:
    return {links.maker[n] for i in inside for n in links.reads[i] if links.maker.get(n) in links.fixed}


def _sample(name: str, shape: tuple[int, ...], kind: int, batch: int | None) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, [batch or "batch", *shape])


def ordered(nodes: Sequence[NodeProto]) -> list[NodeProto]:
    """Return nodes so that each follows those that it reads from; as they are, if they wait for one another."""
    makers = {name: i for i, node in enumerate(nodes) for name in node.output if name}
    parents = {i: {makers[name] for name in reads_of(node) if name in makers} for i, node in enumerate(nodes)}
    try:
        return [nodes[i] for i in TopologicalSorter(parents).static_order()]
    except CycleError:
        return list(nodes)


def reads(graph: GraphProto) -> set[str]:
    """Return the names that a graph reads from outside."""
    own = {each.name for each in (*graph.input, *graph.initializer)} | {n for node in graph.node for n in node.output}
    wanted = {name for node in graph.node for name in reads_of(node)} | {each.name for each in graph.output}
    return wanted - own


def reads_of(node: NodeProto) -> set[str]:
    """Return the names that a node and the branches in it read."""
    inner = (reads(graph) for attribute in node.attribute for graph in inner_graphs(attribute))
    return {name for name in node.input if name}.union(*inner)
