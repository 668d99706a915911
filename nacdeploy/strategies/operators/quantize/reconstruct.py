"""Reconstruction: the integers of a layer's weights are chosen by what the layer computes from real inputs.

To round each weight to the nearest integer is best only if inputs have nothing to do with each other. Those of a layer
do: neighbouring pixels are alike, and behind a ReLU no input is negative. So weights are rounded column by column, and
columns that follow take up the error of those before (GPTQ: Frantar et al., 2023; Hassibi and Stork, 1993). What then
remains of an output's mean goes into the bias (bias correction: Nagel et al., 2019). Each layer is fitted to its inputs
in the float network, so that its weights do not depend on which other layers are quantized.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from nacdeploy.network.attachments.attachment import Attachment
from nacdeploy.network.attachments.fake_quant import symmetric_scale
from nacdeploy.network.attachments.weight_quantizers import NEIGHBOURS
from nacdeploy.network.captured.graph import WEIGHTED
from nacdeploy.network.network import Network, masked_weight
from nacdeploy.network.semantics import Use
from nacdeploy.strategies.range_search import Alone
from nacdeploy.surgery.channels import next_layer
from nacdeploy.surgery.channels.next_layer import Layer

DAMPING = 0.01  # of the mean square of an input
N_ROWS = 4096
IMAGES_AT_ONCE = 8
COLUMNS_AT_ONCE = 128
MOST_VALUES = 1 << 24  # of all products that are held at once


@dataclass
class _Inputs:
    """The products (G, F, F) and means (G, F) of the inputs of a layer of G groups, over `n` drawn rows."""

    products: Tensor
    means: Tensor
    n: int


def reconstruct(network: Network, x: Tensor) -> tuple[str, ...]:
    """Choose the weights of quantized layers anew, in place, on images (N, ...); return the layers' names.

    The weights are then their integers times their scales, which stay as they are; biases follow. Zeros stay. Left out
    are layers that share values or a parameter, whose weights are computed, and of kinds without this product.
    """
    layers = _layers(network)
    found: dict[str, tuple[Tensor, Tensor]] = {}
    with torch.no_grad():
        for names in _by_size(layers):
            batches = x.split(IMAGES_AT_ONCE)
            seen = _Seen(network, names, N_ROWS // len(batches))
            for part in batches:
                network.run(part, seen)
            for name, inputs in seen.inputs.items():
                found[name] = _chosen(network, name, layers[name], inputs)
        for name, (weight, shift) in found.items():
            layers[name].weight.copy_(weight)
            if layers[name].bias is not None:
                layers[name].bias.sub_(shift)  # type: ignore[union-attr]
    return tuple(found)


def _layers(network: Network) -> dict[str, Layer]:
    if network.rule is None or network.rule.weights not in NEIGHBOURS:
        return {}
    owners: dict[int, int] = {}
    for module in network.backbone.modules():
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    fixed = network.captured.weights.keys() | network.sharing.books.keys()
    return {
        name: layer
        for name, layer in network.layers.items()
        if isinstance(layer, WEIGHTED)
        and name in network.plan.weight_bits
        and name not in fixed
        and owners[id(layer.weight)] == 1
    }


def _by_size(layers: Mapping[str, Layer]) -> Iterator[list[str]]:
    """Yield the layers in parts, the products of whose inputs fit into memory together."""
    total, part = 0, 0

    def of(name: str) -> int:
        nonlocal total, part
        layer = layers[name]
        n_groups, n_columns = _shape(layer)
        size = n_groups * n_columns**2
        total, part = (total + size, part) if total + size <= MOST_VALUES else (size, part + 1)
        return part

    for _, names in groupby(layers, of):
        yield list(names)


def _shape(layer: Layer) -> tuple[int, int]:
    """Return the numbers of groups, and of inputs of each output."""
    return getattr(layer, "groups", 1), layer.weight[0].numel()


class _Seen:
    """Float runs that keep what some layers read, `n_rows` of it at each call."""

    def __init__(self, network: Network, names: Sequence[str], n_rows: int) -> None:
        self.inputs: dict[str, _Inputs] = {}
        self._names, self._n_rows, self._float = set(names), n_rows, Alone(network)

    def edge(self, key: str, x: Tensor, use: Use) -> Tensor:
        return x

    def attached(self, key: str, module: Attachment, x: Tensor) -> Tensor:
        return self._float.attached(key, module, x)

    def layer(self, name: str, module: nn.Module, x: Tensor) -> Any:
        if name in self._names:
            self._keep(name, module, x)  # type: ignore[arg-type]
        return self._float.layer(name, module, x)

    def _keep(self, name: str, layer: Layer, x: Tensor) -> None:
        seen = next_layer.rows(layer, x, next_layer.positions(layer, x, self._n_rows))
        columns = seen.unflatten(1, _shape(layer)).transpose(0, 1)  # (G, P, F)
        products, means, n = columns.transpose(1, 2) @ columns, columns.sum(1), len(seen)
        if name in self.inputs:
            former = self.inputs[name]
            products, means, n = products + former.products, means + former.means, n + former.n
        self.inputs[name] = _Inputs(products, means, n)


def _chosen(network: Network, name: str, layer: Layer, inputs: _Inputs) -> tuple[Tensor, Tensor]:
    """Return a layer's weights on their grid, hidden ones as they were, and the mean error (O,) of its outputs."""
    weight = masked_weight(network, name, layer).detach()
    maximum = network.grid.weight_maximum(network.plan.weight_bits[name])
    n_groups, n_columns = _shape(layer)
    exact = weight.reshape(n_groups, -1, n_columns)
    scale = symmetric_scale(weight, maximum).reshape(n_groups, -1, 1)
    steps = rounded(exact / scale, inputs.products / inputs.n, maximum)
    error = (steps * scale - exact) @ (inputs.means / inputs.n)[:, :, None]
    now = (steps * scale).reshape(weight.shape)
    return torch.where(weight == 0, layer.weight, now), error.flatten()


def rounded(steps: Tensor, products: Tensor, maximum: int) -> Tensor:
    """Return integers (G, O, F) near weights in steps of their grid, with the least error in what they compute.

    Args:
        steps: the weights (G, O, F); zeros, and each output's largest weight, go to their own integer.
        products: the mean products (G, F, F) of the inputs.
        maximum: the largest integer.
    """
    order = products.diagonal(dim1=1, dim2=2).mean(0).argsort(descending=True)
    left, factor = steps[:, :, order].clone(), _inverse_factor(products[:, order][:, :, order])
    own = (steps == 0) | (steps.abs() == steps.abs().amax(2, keepdim=True))
    own, nearest = own[:, :, order], left.round().clamp(-maximum, maximum)
    found, n = torch.empty_like(left), left.shape[2]
    for first in range(0, n, COLUMNS_AT_ONCE):
        last = min(first + COLUMNS_AT_ONCE, n)
        errors = torch.empty_like(left[:, :, first:last])
        for i in range(first, last):
            whole = left[:, :, i].round().clamp(-maximum, maximum)
            found[:, :, i] = torch.where(own[:, :, i], nearest[:, :, i], whole)
            error = (left[:, :, i] - found[:, :, i]) / factor[:, i, i, None]
            left[:, :, i:last] -= error[:, :, None] * factor[:, None, i, i:last]
            errors[:, :, i - first] = error
        left[:, :, last:] -= errors @ factor[:, first:last, last:]
    return found[:, :, order.argsort()]


def _inverse_factor(products: Tensor) -> Tensor:
    """Return the upper Cholesky factor (G, F, F) of the inverse of damped products."""
    damped = products.clone()
    diagonal = damped.diagonal(dim1=1, dim2=2)
    diagonal += DAMPING * diagonal.mean(1, keepdim=True) + 1e-12
    return torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(damped)), upper=True)
