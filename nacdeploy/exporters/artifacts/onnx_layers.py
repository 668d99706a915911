"""The layers of an artifact's ONNX file, with their products, channels and zeros; and the layer to which each node
of a runtime's graph of that file belongs."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from nacdeploy.exporters.artifacts.artifact import Lowering
from nacdeploy.exporters.artifacts.onnx_links import Links, module_path
from nacdeploy.network.attachments.sparsity import sparsity_of

INT8_KERNELS = frozenset(
    {"ConvInteger", "MatMulInteger", "MatMulIntegerToFloat", "QAttention", "QGemm", "QLinearConv", "QLinearMatMul"}
)
RECURRENT = {"LSTM": 4, "GRU": 3, "RNN": 1}  # their gates
KERNELS = INT8_KERNELS | {
    "Conv",
    "ConvTranspose",
    "FusedConv",
    "FusedGemm",
    "FusedMatMul",
    "Gemm",
    "MatMul",
    *RECURRENT,
}
REFORMATS = frozenset({"Cast", "DequantizeLinear", "QuantizeLinear", "ReorderInput", "ReorderOutput", "Transpose"})
BETWEEN = "between layers"

_MULTIPLIES = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", *RECURRENT})
_CONSTANT_STEPS = frozenset({"Cast", "DequantizeLinear", "Identity", "Reshape", "Transpose"})
_SUFFIX = re.compile(r"(_token_\d+|_nchwc|/duplicated|/MatMulScaleFusion/)+$")
_SOURCE = ""


@dataclass(frozen=True)
class OnnxLayer:
    """One layer as the file holds it.

    Attributes:
        name: the name of the layer.
        kind: the type of the layer.
        nodes: its multiplications.
        macs: the multiply-accumulates of all its multiplications for one image.
        n_inputs: input channels (of one group); None for a product of two activations.
        n_outputs: output channels (of one group); None for a product of two activations.
        zero_fraction: the fraction of zeros of its weights.
        is_two_four: whether at most two of any four consecutive input channels have nonzero weights.
        held: "int8" if both sides of the multiplication come through DequantizeLinear.
    """

    name: str
    kind: str
    nodes: tuple[str, ...]
    macs: int
    n_inputs: int | None
    n_outputs: int | None
    zero_fraction: float | None
    is_two_four: bool
    held: str


def onnx_layers(
    model: onnx.ModelProto, rows: Sequence[Lowering], shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
) -> tuple[OnnxLayer, ...]:
    """Return the layers in order of execution; products of two activations are layers of kind "product".

    `rows` name the layers; `shapes` are the shapes of the first input and output by node, for one image.
    """
    links = Links(model.graph)
    named = _Rows(links, rows)
    found: dict[str, list[tuple[onnx.NodeProto, str]]] = defaultdict(list)
    for node in links.nodes:
        if node.op_type in _MULTIPLIES:
            weight = _weight_name(links, node)
            row = named.of(node)
            is_product = weight is None and node.op_type not in RECURRENT
            kind = row.kind if row else ("product" if is_product else _kind(node))
            found[row.layer if row else module_path(node).removeprefix("network.") or node.name].append((node, kind))
    return tuple(_layer(name, nodes, links, shapes) for name, nodes in found.items())


def owners(built: onnx.GraphProto, file: onnx.GraphProto, layers: Iterable[OnnxLayer]) -> dict[str, str]:
    """Return the layer, or `BETWEEN`, of every node of a built graph by name.

    A kernel belongs to the layer whose node, tensor or weight gives it its name. Any other node follows the layer that
    all its data comes from. A conversion fed by several layers is assigned to its only reader.
    """
    links, layer_of = Links(built), {node: layer.name for layer in layers for node in layer.nodes}
    origin = _Origin(Links(file), layer_of)
    order = [links.by_name[name] for name in _sorted(links)]
    owner: dict[str, str] = {}
    for node in order:
        before = {owner[source.name] for source in links.sources(node)} - {_SOURCE}
        follows = before.pop() if len(before) == 1 else (BETWEEN if before else _SOURCE)
        owner[node.name] = (origin.layer(node) or follows) if node.op_type in KERNELS else follows
    for node in reversed(order):
        if owner[node.name] == _SOURCE or (owner[node.name] == BETWEEN and node.op_type in REFORMATS):
            after = {owner[reader.name] for name in node.output for reader in links.readers.get(name, [])}
            owner[node.name] = after.pop() if len(after) == 1 else BETWEEN
    return owner


def followers(graph: onnx.GraphProto, layers: Iterable[OnnxLayer]) -> dict[str, list[onnx.NodeProto]]:
    """Return the nodes of the file, other than conversions and multiplications, that follow each layer."""
    owner = owners(graph, graph, layers)
    found = defaultdict(list)
    for node in graph.node:
        if node.op_type not in REFORMATS | KERNELS:
            found[owner[node.name]].append(node)
    return found


def base_name(name: str) -> str:
    """Return a name of the built graph without the suffix that ONNX Runtime appends."""
    return _SUFFIX.sub("", name)


class _Rows:
    """The lowering row of a multiplication.

    A row is found by the node, by the weight (for a layer called twice), or by any constant of the layer that the node
    or its only reader has (torch's exporter renames a weight that it transposes).
    """

    def __init__(self, links: Links, rows: Sequence[Lowering]) -> None:
        self._links = links
        self._by_node = {row.node: row for row in rows if row.node in links.by_name}
        self._by_weight = {_weight_name(links, links.by_name[node]): row for node, row in self._by_node.items()}
        self._by_prefix = {f"layers.{row.layer.replace('.', '_')}.": row for row in rows}

    def of(self, node: onnx.NodeProto) -> Lowering | None:
        weight = _weight_name(self._links, node)
        if weight is None:
            return None
        return self._by_node.get(node.name) or self._by_weight.get(weight) or self._by_constants(node)

    def _by_constants(self, node: onnx.NodeProto) -> Lowering | None:
        readers = self._links.readers.get(node.output[0], [])
        names = [*node.input, *(readers[0].input if len(readers) == 1 else ())]
        found = (self._by_prefix.get(name[: name.rfind(".") + 1]) for name in names if name in self._links.constants)
        return next((row for row in found if row), None)


class _Origin:
    """The way from a kernel of the built graph back to a layer of the file."""

    def __init__(self, file: Links, layer_of: Mapping[str, str]) -> None:
        self._file, self._layer_of = file, layer_of
        weights = {_weight_name(file, file.by_name[node]): layer for node, layer in layer_of.items()}
        self._by_weight = {name: layer for name, layer in weights.items() if name}

    def layer(self, kernel: onnx.NodeProto) -> str | None:
        names = (base_name(kernel.name), *map(base_name, kernel.output))
        nodes = [self._file.by_name.get(name) or self._file.producers.get(name) for name in names]
        by_name = (self._upstream(node) for node in nodes if node is not None)
        by_weight = (self._by_weight.get(name) for name in kernel.input)
        return next((layer for layer in (*by_name, *by_weight) if layer), None)

    def _upstream(self, node: onnx.NodeProto) -> str | None:
        """Return the layer of a node of the file, or of the one multiplication that its data comes from."""
        while node.name not in self._layer_of:
            sources = [s for s in self._file.sources(node) if _constant(self._file, s.output[0]) is None]
            if len(sources) != 1:
                return None
            node = sources[0]
        return self._layer_of[node.name]


def _sorted(links: Links) -> Iterable[str]:
    return TopologicalSorter({n.name: [s.name for s in links.sources(n)] for n in links.nodes}).static_order()


def _layer(
    name: str,
    found: Sequence[tuple[onnx.NodeProto, str]],
    links: Links,
    shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]],
) -> OnnxLayer:
    nodes = tuple(node.name for node, _ in found)
    first, kind = found[0]
    weight = _weight(links, first) if first.op_type not in RECURRENT else None
    macs = sum(_macs(node, links, *shapes[node.name]) for node, _ in found if node.name in shapes)
    held = "int8" if all(_is_dequantized(links, name) for node, _ in found for name in node.input[:2]) else "float32"
    if weight is None:
        return OnnxLayer(name, kind, nodes, macs, None, None, None, False, held)
    n_outputs, n_inputs = weight.shape[:2]
    groups = _attribute(first, "group", 1)
    if groups > 1 and n_inputs == 1 and groups == n_outputs:
        kind, n_inputs = "depthwise conv", n_outputs
    zeros = sparsity_of(weight)
    return OnnxLayer(name, kind, nodes, macs, n_inputs, n_outputs, zeros.zero_fraction, zeros.is_two_four, held)


def _macs(node: onnx.NodeProto, links: Links, read: tuple[int, ...], written: tuple[int, ...]) -> int:
    """Count multiply-accumulates for one image: each output sums over the inputs of its group, or over the inner
    axis; each gate of a recurrent layer, at each step, over the inputs of the step and the former outputs."""
    if node.op_type in RECURRENT:
        return int(RECURRENT[node.op_type] * np.prod(written) * (read[-1] + written[-1]))
    weight = _weight(links, node)
    if weight is not None and node.op_type != "ConvTranspose":
        return int(np.prod(written) * np.prod(weight.shape[1:]))
    if weight is not None:
        return int(np.prod(read) * np.prod(weight.shape[1:]))
    return int(np.prod(written) * read[-1])


def _constant(links: Links, name: str) -> tuple[onnx.TensorProto, bool] | None:
    """Return the constant that a tensor is made of, and whether it was transposed on the way."""
    is_transposed = False
    while (maker := links.producers.get(name)) is not None and maker.op_type in _CONSTANT_STEPS:
        is_transposed ^= maker.op_type == "Transpose"
        name = maker.input[0]
    return (links.constants[name], is_transposed) if name in links.constants else None


def _is_dequantized(links: Links, name: str) -> bool:
    """Tell whether a tensor comes through DequantizeLinear, seen through changes of layout."""
    while (maker := links.producers.get(name)) is not None and maker.op_type in _CONSTANT_STEPS:
        if maker.op_type == "DequantizeLinear":
            return True
        name = maker.input[0]
    return False


def _weight(links: Links, node: onnx.NodeProto) -> NDArray[Any] | None:
    """Return the weights of a multiplication as (out, in, ...), as integers if the file holds integers."""
    found = _constant(links, node.input[1])
    if found is None:
        return None
    tensor, is_transposed = found
    value = numpy_helper.to_array(tensor)
    if node.op_type in ("Gemm", "MatMul"):
        is_transposed ^= bool(_attribute(node, "transB", 0))
        return value if is_transposed else value.T
    return value


def _weight_name(links: Links, node: onnx.NodeProto) -> str | None:
    found = _constant(links, node.input[1])
    return found[0].name if found else None


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((a.i for a in node.attribute if a.name == name), default)


def _kind(node: onnx.NodeProto) -> str:
    if node.op_type in RECURRENT:
        return "recurrent"
    return "conv" if node.op_type.startswith("Conv") else "linear"
