"""Analytic costs, recomputed from the model: MACs, BitOps and memory bits, in total and per layer.

MACs are counted by torch's own flop counter per node of the captured graph (a multiply-accumulate is two flops). BitOps
are MACs x weight bits x activation bits; memory is parameters x bits plus 32 bits per scale and buffer. Masks change
the memory only: whether a kernel skips zeros depends on the target. Nothing here is measured and nothing is multiplied
up from step to step.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.utils.flop_counter import FlopCounterMode

from nacdeploy.coding import sizes
from nacdeploy.network.attachments.sparsity import stored_bits
from nacdeploy.network.attachments.weight_sharing import Shared
from nacdeploy.network.captured.graph import Captured, Interpreter, carries_images, operator_name
from nacdeploy.network.network import Network, Simulation, count_parameters

FLOAT_BITS = 32
RECURRENT = {"lstm", "gru", "rnn_tanh", "rnn_relu"}


@dataclass(frozen=True)
class LayerCost:
    """One multiplying node: its module path (or node name), MACs for one image, and the bits of its two operands."""

    layer: str
    node: str
    macs: int
    weight_bits: int
    activation_bits: int

    @property
    def bitops(self) -> int:
        return self.macs * self.weight_bits * self.activation_bits


@dataclass(frozen=True)
class Cost:
    """Totals for one image.

    With exits, the expected figures weigh each way out by the share of images that take it; `macs` and `bitops` are
    those of an image that leaves last, heads included.
    """

    macs: int
    bitops: int
    memory_bits: int
    n_parameters: int
    expected_macs: float
    expected_bitops: float
    n_blocks_fraction: float = 1.0
    nac_head_fraction: float = 0.0

    @property
    def bytes(self) -> float:
        return self.memory_bits / 8


def layer_costs(network: Network, example: Tensor) -> tuple[LayerCost, ...]:
    """Return the multiplying nodes of the backbone in order of execution."""
    was_training = network.training
    network.eval()
    try:
        with torch.no_grad():
            return _by_node(network, example) if network.graph is not None else _by_module(network, example)
    finally:
        network.train(was_training)


def cost(network: Network, example: Tensor, exit_fractions: Sequence[float] = (1.0,)) -> Cost:
    """Return the cost of `network` for one image of the shape of `example` (1, C, H, W).

    Args:
        exit_fractions: the share of images that leaves at each exit, the network's own end last.
    """
    layers = layer_costs(network, example)
    ways = _ways_out(network, layers)
    macs, bitops = [w[0] for w in ways], [w[1] for w in ways]
    blocks = [w[2] for w in ways]
    n_heads_run = [min(i + 1, len(ways) - 1) for i in range(len(ways))]
    return Cost(
        macs=macs[-1],
        bitops=bitops[-1],
        memory_bits=memory_bits(network),
        n_parameters=_n_parameters(network),
        expected_macs=_expected(macs, exit_fractions),
        expected_bitops=_expected(bitops, exit_fractions),
        n_blocks_fraction=_expected(blocks, exit_fractions),
        nac_head_fraction=_expected(n_heads_run, exit_fractions),
    )


def memory_bits(network: Network) -> int:
    """Return the bits of weights, scales, biases, norms and exit heads.

    A masked weight costs its kept values and their places; a shared weight the smallest coding of its labels and
    values.
    """
    bits = FLOAT_BITS * (_n_parameters(network) + sum(b.numel() for b in _statistics(network)))
    seen: list[Tensor] = []
    for layer in {**network.plan.weight_bits, **dict.fromkeys((*network.masks.layers, *network.sharing.layers))}:
        weight: Tensor = network.backbone.get_submodule(layer).weight  # type: ignore[assignment]
        if not any(weight is other for other in seen):  # a weight that several layers hold is stored once
            bits += _weight_bits(network, layer, weight) - FLOAT_BITS * weight.numel()
        seen.append(weight)
    return bits + 2 * FLOAT_BITS * len(network.quantizers)


def _n_parameters(network: Network) -> int:
    """Count parameter elements; each shared weight counts as one."""
    shared = [network.sharing.of(layer) for layer in network.sharing.layers]
    return count_parameters(network) + sum(each.labels.numel() - each.centroids.numel() for each in shared)


def nac_ratios(network: Network, now: Cost, baseline: Cost, rho: float, depth: int) -> tuple[float, float]:
    """Return NAC's own two figures, for comparison only.

    The BitOps ratio counts every layer at the rung's precision and a head as `rho` blocks; the memory ratio does not
    charge heads.
    """
    precision = network.rule.precision if network.rule else None
    w, a = (precision.weight_bits, precision.activation_bits) if precision else (FLOAT_BITS, FLOAT_BITS)
    n_heads = sum(count_parameters(head) for head in network.exits.values())
    backbone_macs = now.macs - sum(head.macs for head in network.heads.values())
    normalised_cost = now.n_blocks_fraction + rho * now.nac_head_fraction / max(depth, 1)
    bitops_ratio = FLOAT_BITS**2 / (w * a) * baseline.macs / max(backbone_macs, 1) / normalised_cost
    return bitops_ratio, FLOAT_BITS / w * baseline.n_parameters / max(now.n_parameters - n_heads, 1)


def _weight_bits(network: Network, layer: str, weight: Tensor) -> int:
    """Return the stored bits of a layer's weight and, if the layer is quantized, of its scales."""
    if layer in network.sharing.books:
        return _shared_bits(network.sharing.of(layer))
    quantized_bits, kept = network.plan.weight_bits.get(layer), network.masks.get(layer)
    bits = quantized_bits or FLOAT_BITS
    scales = FLOAT_BITS * weight.shape[0] if quantized_bits else 0
    if kept is None or network.sparsity is None:
        return bits * weight.numel() + scales
    return stored_bits(kept, network.sparsity.pattern_of(layer), bits) + scales


def _shared_bits(shared: Shared) -> int:
    labels = shared.labels.cpu().numpy().ravel()
    found = sizes.histogram(labels, len(shared.centroids) + 1, 0)
    n_scales = 0 if shared.scales is None else shared.scales.numel()
    return sizes.size(found, sizes.best(found)).total_bits + FLOAT_BITS * n_scales


def _statistics(network: Network) -> list[Tensor]:
    shared = {f"{layer}.weight" for layer in network.sharing.layers}
    return [b for name, b in network.backbone.named_buffers() if b.is_floating_point() and name not in shared]


def _ways_out(network: Network, layers: Sequence[LayerCost]) -> list[tuple[int, int, float]]:
    """Return (MACs, BitOps, fraction of the weighted layers run) up to and including each exit, the whole network
    last."""
    order = {node.name: i for i, node in enumerate(network.graph.nodes)} if network.graph else {}
    ways, head_macs = [], 0
    for node, head in network.heads.items():
        head_macs += head.macs
        before = [layer for layer in layers if order[layer.node] <= order[node]]
        ways.append(_sum(before, head_macs, len(layers)))
    return [*ways, _sum(layers, head_macs, len(layers))]


def _sum(layers: Sequence[LayerCost], head_macs: int, n_layers: int) -> tuple[int, int, float]:
    bitops = sum(layer.bitops for layer in layers) + head_macs * FLOAT_BITS**2
    return sum(layer.macs for layer in layers) + head_macs, bitops, len(layers) / max(n_layers, 1)


def _expected(values: Sequence[float], fractions: Sequence[float]) -> float:
    return float(sum(value * fraction for value, fraction in zip(values, fractions, strict=True)))


def _by_node(network: Network, example: Tensor) -> tuple[LayerCost, ...]:
    counter = _Counter(network.backbone, network.captured)
    counter.run(example)
    return tuple(_row(network, node, flops // 2) for node, flops in counter.flops.items())


def _row(network: Network, node: fx.Node, macs: int) -> LayerCost:
    layer = str(node.target) if node.op == "call_module" else node.name
    weight_bits = network.plan.weight_bits.get(layer, FLOAT_BITS)
    keys = network.plan.inputs.get(node.name, {})
    bits = [network.quantizers[key].bits for key in keys.values()]
    activation_bits = int(bits[0]) if bits else FLOAT_BITS  # type: ignore[arg-type]
    is_product = node.op != "call_module" and len(keys) == 2
    return LayerCost(layer, node.name, macs, activation_bits if is_product else weight_bits, activation_bits)


def _by_module(network: Network, example: Tensor) -> tuple[LayerCost, ...]:
    with FlopCounterMode(display=False) as counter:
        network.run(example, Simulation(network))
    counts: Mapping[str, Mapping[object, int]] = counter.get_flop_counts()
    root = type(network.backbone).__name__
    rows = []
    for path, module in network.backbone.named_modules():
        flops = sum(counts.get(f"{root}.{path}", {}).values()) if not any(module.children()) else 0
        if flops:
            bits = network.plan.weight_bits.get(path, FLOAT_BITS)
            rows.append(LayerCost(path, path, flops // 2, bits, _activation_bits(network, path)))
    return tuple(rows)


def _activation_bits(network: Network, layer: str) -> int:
    is_quantized = network.rule is not None and layer in network.plan.weight_bits
    return network.rule.precision_of(layer).activation_bits if network.rule and is_quantized else FLOAT_BITS


class _Counter(Interpreter):
    def __init__(self, backbone: nn.Module, captured: Captured) -> None:
        super().__init__(backbone, captured)
        self.flops: dict[fx.Node, int] = {}

    def run_node(self, n: fx.Node) -> object:
        if n.op not in ("call_module", "call_function") or not carries_images(n):  # a constant is computed once
            return super().run_node(n)
        with FlopCounterMode(display=False) as counter:
            value = super().run_node(n)
        if flops := counter.get_total_flops() or self._recurrent_flops(n):
            self.flops[n] = flops
        return value

    def constant(self, n: fx.Node) -> object:
        value = super().constant(n)
        return value.detach() if isinstance(value, Tensor) else value  # the counter fails on views that want gradients

    def _recurrent_flops(self, n: fx.Node) -> int:
        """Count the flops of an LSTM, GRU or RNN, which torch's counter does not know: every weight once for each
        step."""
        if operator_name(n.target) not in RECURRENT:
            return 0
        x, _, weights = self.fetch_args_kwargs_from_env(n)[0][:3]
        n_steps = x.shape[0] * x.shape[1]
        return 2 * n_steps * sum(weight.numel() for weight in weights if weight.dim() > 1)
