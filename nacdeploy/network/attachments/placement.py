"""Where quantizers stand: the rules that turn a captured graph and a `Rule` into edges.

Each rule holds for a reader of tensors and says which of them it reads quantized:

1. Quantized convolutions and linear layers read their input quantized; products of two tensors (attention) read both.
2. Nothing stands between a convolution, its batch norm and the activation that a kernel clamps (ReLU, ReLU6).
3. Pools keep integers: average pools behind a quantized convolution, and every max pool whose output is read quantized.
4. The operands of a concatenation of integers share one scale, which is also the scale of its output.
5. Softmax, layer norms and excluded layers stay in float: no rule names them.

The rest depends on what the target's kernels fuse (`Grid.fuses_outputs`):

- Kernels that only run on integers if they write integers (ONNX Runtime): whatever reads a quantized
  convolution reads it quantized, an addition all its operands if one of them, a smooth activation (SiLU, hard-swish)
  its own input.
- Kernels that fuse what follows (TensorRT), or that are as fast either way and then answer closer to the simulation
  (OpenVINO, as measured: it adds in a kernel of its own): the addition's last convolution stays in float so that
  convolution, addition and activation are one kernel, and the other operands are quantized; a smooth activation stays
  with its convolution, unsplit.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nacdeploy.base.precision import Grid
from nacdeploy.network.attachments.fake_quant import Rule, kind_of
from nacdeploy.network.captured.graph import carries_images, operator_name, weighted_consumer

CONCATENATIONS = {"cat", "concat"}
ADDITIONS = {"add"}
PRODUCTS = {"matmul", "bmm"}
# A convolution's kernel clamps what it writes; a smooth activation behind it reads its quantized output.
CLAMPS = {"relu", "relu6", "hardtanh"}
AVERAGES = {"avg_pool2d", "adaptive_avg_pool2d", "mean"}
# These pass values on unchanged, so that a tensor and what they make of it share one scale.
POOLS = {"max_pool2d"}
LABELS = {"flatten", "unflatten", "reshape", "transpose", "permute", "contiguous", "unsqueeze", "squeeze"}
LABELS |= {"dropout", "feature_dropout", "identity"}
NORMS = {"batch_norm"}
QUESTIONS = {"sym_size"}


@dataclass(frozen=True)
class Plan:
    """What is quantized in one network.

    Weight bits by layer; by consuming node (without a graph: by layer) the key of the quantizer of each tensor that it
    reads quantized, by the tensor's position among those that it reads; the kind and the bits of each key.
    """

    weight_bits: Mapping[str, int] = field(default_factory=dict)
    inputs: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    kinds: Mapping[str, str] = field(default_factory=dict)
    activation_bits: Mapping[str, int] = field(default_factory=dict)


class _Use(NamedTuple):
    """One node that reads one tensor quantized, as the input of which kind of layer."""

    reader: fx.Node
    source: fx.Node
    kind: str


def plan(graph: fx.Graph | None, backbone: nn.Module, layers: Mapping[str, nn.Module], rule: Rule, grid: Grid) -> Plan:
    """Those of `layers` (the weighted ones that run) and the edges that `rule` quantizes on `grid`. Without a graph:
    the inputs of the layers alone."""
    layers = {name: module for name, module in layers.items() if rule.covers(name, module)}
    bits = {name: rule.precision_of(name).weight_bits for name in layers}
    if graph is None:
        keys = {name: name.replace(".", "_") for name in layers}
        kinds = {keys[name]: kind_of(layer) for name, layer in layers.items()}
        activation_bits = {keys[name]: rule.precision_of(name).activation_bits for name in layers}
        return Plan(bits, {name: {0: keys[name]} for name in layers}, kinds, activation_bits)
    return _Placement(graph, backbone, layers, rule, grid).plan(bits)


class _Placement:
    """The rules at work on one graph."""

    def __init__(
        self, graph: fx.Graph, backbone: nn.Module, layers: Mapping[str, nn.Module], rule: Rule, grid: Grid
    ) -> None:
        self._graph, self._backbone, self._layers, self._rule, self._grid = graph, backbone, layers, rule, grid
        self._wanted = self._read_by_layers()
        self._writers: dict[fx.Node, str] = {}
        for node in graph.nodes:
            self._writers[node] = self._integer_writer(node)

    def plan(self, bits: dict[str, int]) -> Plan:
        uses = [use for node in self._graph.nodes for use in self._reads(node)]
        scales = self._shared_scales(uses)
        uses += self._max_pools({self._origin(use.source) for use in uses})
        inputs: dict[str, dict[int, str]] = {}
        kinds: dict[str, str] = {}
        activation_bits: dict[str, int] = {}
        for reader, source, kind in uses:
            origin = self._origin(source)
            key = _key(scales.get(origin, origin))
            inputs.setdefault(reader.name, {})[reader.all_input_nodes.index(source)] = key
            kinds[key] = "conv" if "conv" in (kind, kinds.get(key)) else kind
            asked = self._rule.precision_of(str(reader.target)).activation_bits
            activation_bits[key] = max(asked, activation_bits.get(key, 0))
        return Plan(bits, inputs, kinds, activation_bits)

    def _integer_writer(self, node: fx.Node) -> str:
        """What computed the values of `node` from integers: "conv", "join" (an addition, concatenation or average of
        nothing but such values), or "". Normalisation, clamps, pools and renamings are seen through."""
        operands = [self._writers[a] for a in node.all_input_nodes if carries_images(a)]
        if self._is_quantized_conv(node):
            return "conv"
        if operands and self._kind(node) in CLAMPS | NORMS | POOLS | LABELS:
            return operands[0]
        if self._is_joined(node, operands):
            return "join"
        joins = self._adds(node) or self._kind(node) in AVERAGES
        return "join" if joins and operands and all(operands) else ""

    def _read_by_layers(self) -> set[fx.Node]:
        """The tensors that a quantized layer or product reads, directly or through renamings, pools and
        concatenations."""
        wanted: set[fx.Node] = set()
        for node in reversed(self._graph.nodes):
            passes = self._kind(node) in CONCATENATIONS | POOLS | LABELS
            if self._layer_inputs(node) or (node in wanted and passes):
                wanted.update(self._layer_inputs(node) or node.all_input_nodes)
        return wanted

    def _layer_inputs(self, node: fx.Node) -> list[fx.Node]:
        """What a quantized layer or product multiplies."""
        operands = [a for a in node.all_input_nodes if carries_images(a)]
        if weighted_consumer(node, self._backbone) is not None and node.target in self._layers:
            return operands[:1]
        is_product = self._kind(node) in PRODUCTS and len(operands) == 2
        return operands if is_product and self._layers and not self._rule.excludes(node.name) else []

    def _is_joined(self, node: fx.Node, writers: list[str]) -> bool:
        """Whether a node is a concatenation on integers: all its operands are, or some and its reader wants
        integers."""
        if self._kind(node) not in CONCATENATIONS or not writers:
            return False
        return all(writers) or (node in self._wanted and any(writers))

    def _reads(self, node: fx.Node) -> list[_Use]:
        """What `node` reads quantized, max pools apart, which follow what is read behind them."""
        operands = [a for a in node.all_input_nodes if carries_images(a)]
        if multiplied := self._layer_inputs(node):
            layer = self._layers.get(str(node.target))
            return [_Use(node, operand, kind_of(layer) if layer else "linear") for operand in multiplied]
        if node.op in ("output", "placeholder") or self._kind(node) in CLAMPS | LABELS | QUESTIONS | NORMS | POOLS:
            return []
        return [_Use(node, operand, "conv") for operand in self._integers_for(node, operands)]

    def _integers_for(self, node: fx.Node, operands: list[fx.Node]) -> list[fx.Node]:
        """The operands that a node without weights reads quantized, because they were computed from integers."""
        writers = [self._writers[operand] for operand in operands]
        if self._is_joined(node, writers):
            return operands
        if self._adds(node) and (all(writers) or "conv" in writers):
            return self._added(operands, writers)
        if self._kind(node) in AVERAGES:
            return [operand for operand, writer in zip(operands, writers, strict=True) if writer]
        if self._grid.fuses_outputs:
            return []
        return [operand for operand, writer in zip(operands, writers, strict=True) if writer == "conv"]

    def _added(self, operands: list[fx.Node], writers: list[str]) -> list[fx.Node]:
        """The operands that an addition reads quantized: all; where kernels add too, those that were computed from
        integers but the one that a convolution without activation computes last."""
        if not self._grid.fuses_outputs:
            return operands
        bare = [operand for operand in operands if len(operand.users) == 1 and self._is_bare_conv(operand)]
        fused = max(bare, key=list(self._graph.nodes).index, default=None)
        return [o for o, writer in zip(operands, writers, strict=True) if writer and o is not fused]

    def _is_bare_conv(self, node: fx.Node) -> bool:
        while self._kind(node) in NORMS:
            node = node.all_input_nodes[0]
        return self._is_quantized_conv(node)

    def _is_quantized_conv(self, node: fx.Node) -> bool:
        return node.op == "call_module" and isinstance(self._layers.get(str(node.target)), nn.Conv2d)

    def _shared_scales(self, uses: list[_Use]) -> dict[fx.Node, fx.Node]:
        """For every tensor that is joined in a quantized concatenation, the node whose scale it takes."""
        parent: dict[fx.Node, fx.Node] = {}

        def root(node: fx.Node) -> fx.Node:
            while parent.get(node, node) is not node:
                node = parent[node]
            return node

        for reader, source, _ in uses:
            if self._kind(reader) in CONCATENATIONS:
                parent[root(self._origin(source))] = root(reader)
        return {node: root(node) for node in parent}

    def _max_pools(self, quantized: set[fx.Node]) -> list[_Use]:
        """Max pools read what is read quantized behind them on the same scale: the maximum of integers."""
        pools = [node for node in self._graph.nodes if self._kind(node) in POOLS and node.all_input_nodes]
        return [_Use(node, node.all_input_nodes[0], "linear") for node in pools if self._origin(node) in quantized]

    def _origin(self, node: fx.Node) -> fx.Node:
        """The node that computed the values of `node`."""
        while self._kind(node) in POOLS | LABELS and node.all_input_nodes:
            node = node.all_input_nodes[0]
        return node

    def _kind(self, node: fx.Node) -> str:
        return kind_of_node(node, self._backbone)

    def _adds(self, node: fx.Node) -> bool:
        """Whether a node adds two tensors; what adds a number (x + 3 in a hard-swish) is part of an activation, what
        adds a parameter a bias."""
        return self._kind(node) in ADDITIONS and sum(carries_images(each) for each in node.all_input_nodes) > 1


def kind_of_node(node: fx.Node, backbone: nn.Module) -> str:
    """The name of the operator that a node calls, of a module's node that of what it stands for."""
    if node.op != "call_module":
        return operator_name(node.target) if node.op == "call_function" else node.op
    module = backbone.get_submodule(str(node.target))
    if isinstance(module, nn.Linear | nn.Conv2d):
        return kind_of(module)
    if isinstance(module, _BatchNorm):
        return "batch_norm"
    return "identity" if not any(True for _ in module.parameters()) else type(module).__name__


def _key(node: fx.Node) -> str:
    """The key of the quantizer of what a node computes: its name, unless a module may not have a child of that name
    (`keys`, `values`, `to`)."""
    return f"{node.name}_output" if hasattr(nn.ModuleDict, node.name) else node.name
