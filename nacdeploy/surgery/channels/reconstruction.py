"""Reconstruction: least squares refits the layers that lost input channels to a cut (He et al., 2017, section 3.1).

Layers are fitted in the order of execution. A reader of cut channels is fitted from its inputs in the cut network,
whose earlier layers are refitted already, to its outputs in the network before the cut. Only values change.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack

import torch
from torch import Tensor, nn
from torch.nn import functional

from nacdeploy.network.captured.graph import WEIGHTED
from nacdeploy.network.network import Network
from nacdeploy.network.plain import masked_backbone
from nacdeploy.surgery.channels import next_layer
from nacdeploy.surgery.channels.channel_importance import with_batch_statistics
from nacdeploy.surgery.channels.channel_pruning import Cut
from nacdeploy.surgery.channels.next_layer import Layer

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)


def refit(network: Network, former: Network, cut: Cut, images: Tensor, judges: Tensor) -> tuple[str, ...]:
    """Fit the readers of cut channels in place, on calibration images (N, C, H, W); return the names of the fitted
    layers. Other images, the `judges`, choose the penalty of each: a piece of a photograph that is fitted would not
    tell whether others are answered too.

    Masked layers keep their weights, since zeros must stay; so do grouped layers and layers that run more than once.
    """
    kept = _kept_outputs(network, former, cut)
    targets = _Targets(kept)
    with ExitStack() as stack, torch.no_grad():
        whole = _observed(former, images)
        for name in kept:
            stack.callback(whole.get_submodule(name).register_forward_hook(targets.seen(name)).remove)
        whole(torch.cat([images, judges]))
    found = {name: each for name, each in targets.found.items() if targets.n_calls[name] == 1}
    return _fit(network, images, judges, found)


class _Targets:
    """The outputs of layers at drawn positions, without the outputs that were cut."""

    def __init__(self, kept: Mapping[str, Tensor | None]) -> None:
        self.found: dict[str, Tensor] = {}
        self.n_calls: dict[str, int] = {}
        self._kept = kept

    def seen(self, name: str) -> Callable[[Layer, tuple[Tensor, ...], Tensor], None]:
        """Return a hook that keeps the outputs of the layer `name`."""

        def hook(layer: Layer, args: tuple[Tensor, ...], output: Tensor) -> None:
            self.n_calls[name] = self.n_calls.get(name, 0) + 1
            answers = next_layer.outputs(layer, output, next_layer.positions(layer, args[0]))
            kept = self._kept[name]
            self.found[name] = answers if kept is None else answers[:, kept]

        return hook


def _fit(network: Network, images: Tensor, judges: Tensor, targets: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Fit each layer at the moment when it runs, so that later layers see the fitted one."""
    probe, fitting = _observed(network, images), len(images) / (len(images) + len(judges))

    def fit(name: str, layer: Layer, x: Tensor) -> None:
        drawn = next_layer.positions(layer, x)
        seen = next_layer.rows(layer, x, drawn)
        now = functional.linear(seen, layer.weight.flatten(1), layer.bias)
        residual, with_bias = targets[name] - now, layer.bias is not None
        n = int((drawn < round(fitting * next_layer.n_positions(layer, x))).sum())
        change, shift = fitted(seen, residual, n, with_bias)
        layer.weight += change.T.reshape(layer.weight.shape).to(layer.weight)
        if layer.bias is not None and shift is not None:
            layer.bias += shift.to(layer.bias)
        network.backbone.get_submodule(name).load_state_dict(layer.state_dict())

    with ExitStack() as stack, torch.no_grad():
        for name in targets:
            layer = probe.get_submodule(name)
            stack.callback(layer.register_forward_pre_hook(lambda m, args, n=name: fit(n, m, args[0])).remove)
        probe(torch.cat([images, judges]))
    return tuple(targets)


def fitted(x: Tensor, residual: Tensor, n: int, with_bias: bool) -> tuple[Tensor, Tensor | None]:
    """Return the change of weights and of a bias that explains the first `n` rows, with the penalty that explains the
    others best: each next one of `RIDGES`, from the weakest, as long as it does better."""
    best, least = None, float("inf")
    for ridge in RIDGES:
        change, shift = next_layer.least_squares(x[:n], residual[:n], ridge, with_bias)
        found = x[n:] @ change.to(x) + (shift.to(x) if shift is not None else 0.0)
        left = float((residual[n:] - found).square().sum())
        if left >= least:
            break
        best, least = (change, shift), left
    assert best is not None
    return best


def _observed(network: Network, images: Tensor) -> nn.Module:
    """Return a copy of the float network with masked weights as zeros and norms with the statistics of the images."""
    return with_batch_statistics(masked_backbone(network).to(images.device).eval())


def _kept_outputs(network: Network, former: Network, cut: Cut) -> dict[str, Tensor | None]:
    """Return the plain layers that lost inputs, and which of their outputs remain (None: all)."""
    kept = {(item.tensor, item.axis): torch.tensor(item.kept) for item in cut.slices}
    layers = {
        name: layer
        for name, layer in network.backbone.named_modules()
        if isinstance(layer, WEIGHTED) and getattr(layer, "groups", 1) == 1
    }
    tensors = {name: f"backbone.{name}.weight" for name in layers if network.masks.get(name) is None}
    return {name: kept.get((tensor, 0)) for name, tensor in tensors.items() if (tensor, 1) in kept}
