"""Layers of a network taken apart into low-rank factors, and what is known of a layer before that."""

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nacdeploy.network.attachments.weight_quantizers import NEIGHBOURS, simulated
from nacdeploy.network.network import Network, no_grad_eval
from nacdeploy.surgery.low_rank import low_rank, ranks
from nacdeploy.surgery.low_rank.low_rank import decompose, structure_only, whole
from nacdeploy.surgery.low_rank.ranks import Ranks


@dataclass(frozen=True)
class Places:
    """At how many places of its input and of its output map a layer computes for one image."""

    n_before: int
    n_after: int


def layers(network: Network, taken_apart: Iterable[str]) -> dict[str, nn.Module]:
    """The convolutions and linear layers of the backbone, and in place of the factors of one its sequence of them."""
    apart = {*taken_apart}
    plain = {name for name in network.layers if _owner(name, apart) is None}
    return {name: module for name, module in network.backbone.named_modules() if name in plain | apart}


def places(network: Network, among: Mapping[str, nn.Module]) -> dict[str, Places]:
    """The places of each layer that is called when the network runs; a layer that is not is left out."""
    found: dict[str, Places] = {}

    def seen(name: str, x: Tensor, y: Tensor) -> None:
        axis = -1 if _is_linear(among[name]) else -3
        before = found.get(name, Places(0, 0))
        n_before, n_after = (tensor.numel() // tensor.shape[axis] for tensor in (x, y))
        found[name] = Places(before.n_before + n_before, before.n_after + n_after)

    def hook(name: str) -> Callable[..., None]:
        return lambda module, given, named, y: seen(name, next(iter((*given, *named.values()))), y)

    handles = [layer.register_forward_hook(hook(name), with_kwargs=True) for name, layer in among.items()]
    try:
        with no_grad_eval(network):
            network.backbone(network.example_input().to(next(network.backbone.parameters()).device))
    finally:
        for handle in handles:
            handle.remove()
    return found


def n_macs(layer: nn.Module, at: Places) -> int:
    """The multiply-accumulates of a plain layer or of a sequence of factors for one image."""
    shape = shape_of(layer)
    if isinstance(layer, nn.Sequential):
        return ranks.n_macs(shape, low_rank.format_of(layer), low_rank.ranks_of(layer), at.n_before, at.n_after)
    return low_rank.n_weights(layer) * at.n_after


def shape_of(layer: nn.Module) -> tuple[int, ...]:
    """The shape of the weight of a plain layer, or of the one that a sequence of factors is equal to."""
    with structure_only():
        return tuple(whole(layer).weight.shape)  # type: ignore[arg-type]


def replace(network: Network, found: Mapping[str, tuple[str, Ranks]]) -> None:
    """Put factors of the given formats and ranks in place of the named layers of `network`; those that are factors
    already are taken as their product. Exit heads and attachments stay where they are."""
    former = _outputs(network, found)
    for name, (format, wanted) in found.items():
        layer = network.backbone.get_submodule(name)
        made = decompose(whole(effective(network, name)), format, wanted)
        _put(network.backbone, layer, made.to(next(layer.parameters()).dtype))
    network.changed(moved=False)
    network.renamed(dict(zip(former, _outputs(network, found), strict=True)))


def effective(network: Network, name: str) -> nn.Module:
    """A layer with the weights that it answers with: itself, but on DoReFa's and binary integers, which are far from
    what they round."""
    layer, rule = network.backbone.get_submodule(name), network.rule
    if rule is None or rule.weights in NEIGHBOURS or low_rank.is_structure_only():
        return layer
    layer = copy.deepcopy(layer)
    with torch.no_grad():
        for inner, module in layer.named_modules(prefix=name):
            if (bits := network.plan.weight_bits.get(inner)) is not None:
                weight: Any = module.weight
                weight.copy_(simulated(weight, rule.weights, bits, network.grid))
    return layer


def _put(backbone: nn.Module, layer: nn.Module, factors: nn.Module) -> None:
    """Put factors wherever a backbone holds a layer."""
    for name, module in [*backbone.named_modules(remove_duplicate=False)]:
        if module is layer:
            parent, _, child = name.rpartition(".")
            setattr(backbone.get_submodule(parent), child, factors)


def _outputs(network: Network, apart: Iterable[str]) -> list[str]:
    """The nodes of the graph in order, of a sequence of factors the last alone."""
    if network.graph is None:
        return []
    kept = []
    for node in network.graph.nodes:
        target = str(node.target) if node.op == "call_module" else ""
        owner = _owner(target, apart)
        layer = network.backbone.get_submodule(owner) if owner else None
        last = f"{owner}.{len(layer) - 1}" if isinstance(layer, nn.Sequential) else owner
        kept += [node.name] if target == (last or target) else []
    return kept


def _owner(name: str, apart: Iterable[str]) -> str | None:
    """The layer that a module is or lies in."""
    return next((layer for layer in apart if name == layer or name.startswith(f"{layer}.")), None)


def _is_linear(layer: nn.Module) -> bool:
    return isinstance(layer[0] if isinstance(layer, nn.Sequential) else layer, nn.Linear)
