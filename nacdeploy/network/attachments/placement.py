"""The places of quantizers: the rules that turn a captured graph and a `Rule` into edges.

Each rule holds for a reader of tensors and names the tensors that are read quantized:

1. Quantized convolutions and linear layers read their input quantized; products of two tensors (attention) read both.
2. Nothing stands between a convolution, its batch norm and the activation that a kernel clamps (ReLU, ReLU6). A norm
   behind the activation is an operator of its own.
3. Pools keep integers: average pools behind a quantized convolution, and every max pool whose output is read quantized.
4. The operands of a concatenation of integers share one scale, which is also the scale of its output. So do a tensor
   and its parts (`split`), and a tensor and its enlargement (nearest neighbours).
5. Softmax, layer norms and excluded layers stay in float: no rule names them.

The rest depends on the operators that the target's kernels fuse (`Grid.fuses_outputs`):

- Some kernels run on integers only if they write integers (ONNX Runtime): every reader of a quantized convolution
  reads it quantized, an addition reads all its operands quantized if one of them is, and a smooth activation (GELU,
  hard-swish) reads its own input quantized. Products of two tensors and gates (a sigmoid) have kernels on integers
  too: what follows from integers alone stays on them, a SiLU and a squeeze-and-excitation included
  (`Rule.integers_between`).
- Other kernels fuse the following operators (TensorRT), or are as fast either way and closer to the simulation without
  (OpenVINO, as measured: it adds in a kernel of its own). There the addition's last convolution stays in float, so
  that convolution, addition and activation are one kernel, and the other operands are quantized; a smooth activation
  stays with its convolution, unsplit.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nacdeploy.base.precision import Grid
from nacdeploy.models.ports import join
from nacdeploy.network.attachments.fake_quant import Rule, kind_of
from nacdeploy.network.captured.graph import CONVOLVING, WEIGHTED, carries_images, operator_name, weighted_consumer

CONCATENATIONS = {"cat", "concat"}
ADDITIONS = {"add"}
PRODUCTS = {"matmul", "bmm"}
SCALINGS = {"mul"}
GATES = {"sigmoid"}
# A SiLU is a product of a tensor and its gate: the gate is read at this position of its one node.
GATED, GATE = {"silu"}, -1
# A convolution's kernel clamps its output; a smooth activation behind it reads its quantized output.
CLAMPS = {"relu", "relu6", "hardtanh"}
AVERAGES = {"mean", *(f"{kind}avg_pool{n}d" for kind in ("", "adaptive_") for n in (1, 2, 3))}
_ODD_AVERAGES = {each for each in AVERAGES if each.endswith(("1d", "3d"))}
# These pass values on unchanged, so that their input and output share one scale.
POOLS = {"max_pool1d", "max_pool2d", "max_pool3d"}
_ODD_POOLS = {"max_pool1d", "max_pool3d"}
RESHAPES = {"flatten", "unflatten", "reshape", "transpose", "permute", "contiguous", "unsqueeze", "squeeze"}
RESHAPES |= {"dropout", "feature_dropout", "identity"}
PADS = {"pad", "constant_pad_nd"}
# Parts of a tensor, and enlargements that repeat its values.
PARTS = {"split", "split_with_sizes", "chunk", "slice", "upsample_nearest2d"}
ONE_OF = {"getitem"}
NORMS = {"batch_norm"}
SHAPE_QUERIES = {"sym_size"}


@dataclass(frozen=True)
class Plan:
    """The quantized tensors and weights of one network.

    Attributes:
        weight_bits: the bits of weights by layer.
        inputs: by reading node (without a graph: by layer), and by the position of a tensor among the node's inputs,
            the key of the tensor's quantizer; at `GATE` that of the gate inside a SiLU.
        kinds: the kind of each key.
        activation_bits: the bits of each key.
    """

    weight_bits: Mapping[str, int] = field(default_factory=dict)
    inputs: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    kinds: Mapping[str, str] = field(default_factory=dict)
    activation_bits: Mapping[str, int] = field(default_factory=dict)


class _Use(NamedTuple):
    """A quantized read: `reader` reads `source` through a quantizer of kind `kind` ("conv" or "linear")."""

    reader: fx.Node
    source: fx.Node
    kind: str


def plan(graph: fx.Graph | None, backbone: nn.Module, layers: Mapping[str, nn.Module], rule: Rule, grid: Grid) -> Plan:
    """Plan the layers (of `layers`, the weighted ones that run) and the edges that `rule` quantizes on `grid`.

    Without a graph only the inputs of the layers are quantized.
    """
    layers = {name: module for name, module in layers.items() if rule.covers(name, module)}
    bits = {name: rule.precision_of(name).weight_bits for name in layers}
    if graph is None:
        keys = {name: _child(name.replace(".", "_")) for name in layers}
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
        self._averages, self._pools = AVERAGES, POOLS
        if not rule.every_convolution:
            self._averages, self._pools = AVERAGES - _ODD_AVERAGES, POOLS - _ODD_POOLS
        self._between = rule.integers_between and not grid.fuses_outputs
        self._wanted, self._ends = self._read_by_layers(), self._answers()
        self._leading = self._leading_to_layers() if self._between else set()
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
            key = key_of(scales.get(origin, origin))
            inputs.setdefault(reader.name, {})[reader.all_input_nodes.index(source)] = key
            kinds[key] = "conv" if "conv" in (kind, kinds.get(key)) else kind
            asked = self._rule.precision_of(str(reader.target)).activation_bits
            activation_bits[key] = max(asked, activation_bits.get(key, 0))
        for node in self._graph.nodes:
            if self._is_gated(node) and 0 in inputs.get(node.name, {}):
                key, read = f"{key_of(node)}_gate", inputs[node.name][0]
                inputs[node.name][GATE] = key
                kinds[key], activation_bits[key] = kinds[read], activation_bits[read]
        return Plan(bits, inputs, kinds, activation_bits)

    def _integer_writer(self, node: fx.Node) -> str:
        """Name the kind of node that computed the values of `node` from integers: "conv", "join", or "".

        A "join" is an addition, concatenation or average of nothing but such values. Normalisation, clamps, pools and
        renamings are seen through.
        """
        operands = [self._writers[a] for a in node.all_input_nodes if carries_images(a)]
        if self._is_quantized_conv(node):
            return "conv"
        is_passed = self._kind(node) in CLAMPS or self._is_folded(node) or self._shares(node) or self._renames(node)
        if operands and is_passed:
            return operands[0]
        if self._is_joined(node, operands):
            return "join"
        if self._between and "conv" in operands and (self._adds(node) or self._scales(node)):
            return "join"
        joins = self._adds(node) or self._scales(node) or self._kind(node) in self._averages or self._gates(node)
        return "join" if joins and operands and all(operands) else ""

    def _read_by_layers(self) -> set[fx.Node]:
        """The tensors that a quantized layer or product reads, directly or through renamings, pools and
        concatenations."""
        wanted: set[fx.Node] = set()
        for node in reversed(self._graph.nodes):
            passes = self._kind(node) in CONCATENATIONS or self._shares(node) or self._renames(node)
            if self._layer_inputs(node) or (node in wanted and passes):
                wanted.update(self._layer_inputs(node) or node.all_input_nodes)
        return wanted

    def _leading_to_layers(self) -> set[fx.Node]:
        """The nodes whose values reach a quantized layer through nothing but kernels on integers. Behind the last of
        them (a decoder, the scores of a detector) integers would only cost answers."""
        found: set[fx.Node] = set()
        for node in reversed(self._graph.nodes):
            is_kept = self._adds(node) or self._multiplies(node) or self._shares(node) or self._renames(node)
            is_kept = is_kept or self._kind(node) in CONCATENATIONS | self._averages | GATES | GATED | CLAMPS | NORMS
            if self._layer_inputs(node):
                found.update(self._layer_inputs(node))
            elif node in found and is_kept:
                found.update(each for each in node.all_input_nodes if carries_images(each))
        return found

    def _answers(self) -> set[fx.Node]:
        """The nodes that only bring answers into their form, where a network joins several: nobody reads integers
        behind them, and rounded answers would be worse for nothing."""
        found: set[fx.Node] = set()
        for node in reversed(self._graph.nodes):
            passes = node.users and (self._kind(node) in CONCATENATIONS or self._renames(node))
            if node.target is join or (passes and all(user in found for user in node.users)):
                found.add(node)
        return found

    def _layer_inputs(self, node: fx.Node) -> list[fx.Node]:
        """Return the tensors that a quantized layer or product multiplies."""
        operands = [a for a in node.all_input_nodes if carries_images(a)]
        if weighted_consumer(node, self._backbone) is not None and node.target in self._layers:
            return operands[:1]
        is_product = self._kind(node) in PRODUCTS and len(operands) == 2
        return operands if is_product and self._layers and not self._rule.excludes(node.name) else []

    def _is_joined(self, node: fx.Node, writers: list[str]) -> bool:
        """Tell whether a node is a concatenation on integers: all its operands are, or some are and its reader wants
        integers."""
        if self._kind(node) not in CONCATENATIONS or not writers or (self._between and node not in self._leading):
            return False
        return all(writers) or (node in self._wanted and any(writers))

    def _reads(self, node: fx.Node) -> list[_Use]:
        """Return the quantized reads of `node`; the reads of max pools follow later from those behind them."""
        operands = [a for a in node.all_input_nodes if carries_images(a)]
        if multiplied := self._layer_inputs(node):
            layer = self._layers.get(str(node.target))
            return [_Use(node, operand, kind_of(layer) if layer else "linear") for operand in multiplied]
        is_end = node.op in ("output", "placeholder") or node in self._ends
        is_silent = self._kind(node) in CLAMPS | SHAPE_QUERIES or self._is_folded(node)
        if is_end or is_silent or self._shares(node) or self._renames(node):
            return []
        return [_Use(node, operand, "conv") for operand in self._integers_for(node, operands)]

    def _integers_for(self, node: fx.Node, operands: list[fx.Node]) -> list[fx.Node]:
        """Return the operands that a node without weights reads quantized, because they were computed from integers."""
        writers = [self._writers[operand] for operand in operands]
        if self._is_joined(node, writers):
            return operands
        is_join = self._adds(node) or self._scales(node)
        if is_join and (all(writers) or "conv" in writers):
            return self._added(operands, writers)
        if self._kind(node) in self._averages or self._gates(node):
            return [operand for operand, writer in zip(operands, writers, strict=True) if writer]
        if self._grid.fuses_outputs:
            return []
        return [operand for operand, writer in zip(operands, writers, strict=True) if writer == "conv"]

    def _added(self, operands: list[fx.Node], writers: list[str]) -> list[fx.Node]:
        """Return the operands that an addition reads quantized.

        On a target whose kernels fuse additions, these are the operands computed from integers, without the operand
        that a convolution without activation computes last; elsewhere all operands.
        """
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
        return node.op == "call_module" and isinstance(self._layers.get(str(node.target)), CONVOLVING)

    def _shared_scales(self, uses: list[_Use]) -> dict[fx.Node, fx.Node]:
        """Return, for every tensor in a quantized concatenation, the node whose scale the tensor takes."""
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
        """Return the reads of max pools: a max pool reads on the scale of the quantized reads behind it (the maximum
        of integers)."""
        pools = [node for node in self._graph.nodes if self._shares(node) and carries_images(node)]
        return [_Use(node, node.all_input_nodes[0], "linear") for node in pools if self._origin(node) in quantized]

    def _origin(self, node: fx.Node) -> fx.Node:
        """Return the node that computed the values of `node`."""
        while (self._shares(node) or self._renames(node)) and node.all_input_nodes:
            node = node.all_input_nodes[0]
        return node

    def _gates(self, node: fx.Node) -> bool:
        return self._is_gated(node) or (node in self._leading and self._kind(node) in GATES)

    def _is_gated(self, node: fx.Node) -> bool:
        return node in self._leading and self._kind(node) in GATED

    def _shares(self, node: fx.Node) -> bool:
        """Tell whether a node's output has the values of its input, so that one scale serves both."""
        is_part = self._between and (self._kind(node) in PARTS or _pads_zeros(node, self._kind(node)))
        return is_part or self._kind(node) in self._pools

    def _is_folded(self, node: fx.Node) -> bool:
        """Tell whether a norm is part of the layer in front of it; behind an activation it is an operator of its own,
        and reads what the layer wrote."""
        source = node.all_input_nodes[0] if node.all_input_nodes else node
        is_next = not self._rule.every_convolution or weighted_consumer(source, self._backbone) is not None
        return self._kind(node) in NORMS and is_next

    def _renames(self, node: fx.Node) -> bool:
        """Tell whether a node only brings values into another form, or names one part of several."""
        is_part = self._between and self._kind(node) in ONE_OF and self._kind(node.all_input_nodes[0]) in PARTS
        return is_part or self._kind(node) in RESHAPES

    def _kind(self, node: fx.Node) -> str:
        return kind_of_node(node, self._backbone)

    def _scales(self, node: fx.Node) -> bool:
        """Tell whether a node multiplies two tensors element by element on integers."""
        return node in self._leading and self._multiplies(node)

    def _multiplies(self, node: fx.Node) -> bool:
        is_scaling = self._kind(node) in SCALINGS
        return is_scaling and sum(carries_images(each) for each in node.all_input_nodes) > 1

    def _adds(self, node: fx.Node) -> bool:
        """Tell whether a node adds two tensors; adding a number is part of an activation (x + 3 in a hard-swish), a
        parameter a bias."""
        return self._kind(node) in ADDITIONS and sum(carries_images(each) for each in node.all_input_nodes) > 1


def padding_before(node: fx.Node, position: int) -> tuple[int, ...]:
    """Return the zeros that are padded in front of an input of a node as torch names them: the last axis first, begin
    and end of each; none if nothing is."""
    source = node.all_input_nodes[position]
    if source.op != "call_function" or not _pads_zeros(source, operator_name(source.target)):
        return ()
    return tuple(int(each) for each in source.args[1])  # type: ignore[union-attr, arg-type]


def _pads_zeros(node: fx.Node, kind: str) -> bool:
    if kind not in PADS:
        return False
    given = dict(enumerate(node.args))
    mode, value = ("constant", 2) if kind == "constant_pad_nd" else (given.get(2, "constant"), 3)
    return bool(mode == "constant" and given.get(value) in (None, 0))


def kind_of_node(node: fx.Node, backbone: nn.Module) -> str:
    """Return the name of a node's operator; for a module's node, the operator that the module stands for."""
    if node.op != "call_module":
        return operator_name(node.target) if node.op == "call_function" else node.op
    module = backbone.get_submodule(str(node.target))
    if isinstance(module, WEIGHTED):
        return kind_of(module)
    if isinstance(module, _BatchNorm):
        return "batch_norm"
    return "identity" if not any(True for _ in module.parameters()) else type(module).__name__


def key_of(node: fx.Node) -> str:
    """Return the key of the quantizer of a node's tensor: the node's name, as far as a module may have that child."""
    return _child(node.name)


def _child(name: str) -> str:
    """Return a name that a module may have for a child (not `keys`, `values`, `to`)."""
    return f"{name}_output" if hasattr(nn.ModuleDict, name) else name
