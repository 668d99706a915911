"""The effect of a chain on each layer: multiply-accumulates, channels and precision before and after."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from nacdeploy.network.cost import LayerCost, layer_costs
from nacdeploy.network.network import Network


@dataclass(frozen=True)
class LayerChange:
    """One layer of the baseline. `what` describes in words its present form."""

    layer: str
    macs_before: int
    macs_after: int
    weight_bits: int
    what: str


def layer_changes(baseline: Network, compressed: Network) -> tuple[LayerChange, ...]:
    """Return the multiplying layers of the baseline in order of execution, each with what is left of it; the factors of
    a decomposed layer count together."""
    now = layer_costs(compressed, compressed.example_input())
    return tuple(
        _change(before, _parts(before.layer, now), baseline, compressed)
        for before in layer_costs(baseline, baseline.example_input())
    )


def _parts(layer: str, costs: Sequence[LayerCost]) -> list[LayerCost]:
    """Return the layer of that name, or its factors."""
    return [cost for cost in costs if cost.layer == layer or cost.layer.startswith(f"{layer}.")]


def _change(before: LayerCost, parts: list[LayerCost], baseline: Network, compressed: Network) -> LayerChange:
    bits = min((part.weight_bits for part in parts), default=before.weight_bits)
    words = [_channels(baseline, before.layer), *_after(parts, compressed)]
    return LayerChange(before.layer, before.macs, sum(part.macs for part in parts), bits, " ".join(filter(None, words)))


def _after(parts: list[LayerCost], network: Network) -> list[str]:
    if not parts:
        return ["gone"]
    precision = {f"w{part.weight_bits}a{part.activation_bits}" for part in parts}
    channels = " + ".join(filter(None, (_channels(network, part.layer) for part in parts)))
    rule, masked = network.sparsity, [part.layer for part in parts if part.layer in network.masks.layers]
    pattern = "/".join(sorted({rule.pattern_of(name) for name in masked})) if rule else ""
    return [f"to {channels}" if channels else "", "/".join(sorted(precision)), pattern]


def _channels(network: Network, layer: str) -> str:
    """Input and output channels, of the layers that have them."""
    try:
        module: nn.Module = network.backbone.get_submodule(layer)
    except AttributeError:
        return ""
    weight = getattr(module, "weight", None)
    if weight is None or weight.dim() < 2:
        return ""
    n_outputs, n_inputs = weight.shape[:2]
    return f"{n_inputs * getattr(module, 'groups', 1)}-{n_outputs}"
