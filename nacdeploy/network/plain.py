"""The plain network: runs and copies of the backbone alone, for tools that trace it, watch it or read its weights."""

import copy

import torch
from torch import Tensor, nn

from nacdeploy.network.attachments.attachment import Attachment
from nacdeploy.network.captured.capture import first_tensor
from nacdeploy.network.captured.graph import FOLDED, call_plain, with_weights
from nacdeploy.network.network import Network, masked_weight, no_grad_eval, plain_weight
from nacdeploy.network.semantics import Use


def plain_outputs(network: Network, x: Tensor) -> tuple[Tensor, ...]:
    """Return the logits of the exits and of the plain backbone without quantizers and masks, for tools that trace
    it."""
    if not network.exits:
        return (first_tensor(network.backbone(x)),)
    found: dict[str, Tensor] = {}
    plain = _Called(network)
    logits = network.run(x, plain, lambda node, value: found.update({node: value}), set(network.heads))
    return (*(head(found[node]) for node, head in network.heads.items()), logits)


def layer_inputs(network: Network, x: Tensor) -> list[tuple[str, Tensor]]:
    """Return the input of each call of a convolution or linear layer of the plain network on `x`, in order of
    execution."""
    noting = _Noting(network)
    with no_grad_eval(network):
        network.run(x, noting)
    return noting.read


def masked_backbone(network: Network) -> nn.Module:
    """Return a copy of the backbone with zeros in place of masked weights."""
    backbone = copy.deepcopy(network.backbone)
    with torch.no_grad():
        for name in network.masks.layers:
            layer = backbone.get_submodule(name)
            layer.weight.copy_(masked_weight(network, name, layer))  # type: ignore[operator]
    return backbone


class _Plain:
    """The plain backbone: no quantizer, no mask, no attachment."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def edge(self, key: str, x: Tensor, use: Use) -> Tensor:
        return x

    def layer(self, name: str, module: nn.Module, x: Tensor) -> Tensor:
        if name not in self._network.captured.weights:
            return call_plain(module, x)
        return with_weights(module, x, plain_weight(self._network, name, module), module.bias)  # type: ignore[arg-type]

    def attached(self, key: str, module: Attachment, x: Tensor) -> Tensor:
        return x


class _Called(_Plain):
    """The plain network with real calls of its modules, for tools that watch calls."""

    def layer(self, name: str, module: nn.Module, x: Tensor) -> Tensor:
        plainly = super().layer
        if not isinstance(module, FOLDED):
            return plainly(name, module, x)
        module.forward = lambda given: plainly(name, module, given)
        try:
            return module(x)
        finally:
            del module.forward


class _Noting(_Plain):
    """The plain network, which keeps the inputs of each layer."""

    def __init__(self, network: Network) -> None:
        super().__init__(network)
        self.read: list[tuple[str, Tensor]] = []
        self._layers = network.layers

    def layer(self, name: str, module: nn.Module, x: Tensor) -> Tensor:
        if name in self._layers:
            self.read.append((name, x))
        return super().layer(name, module, x)
