"""The layers of a network as single models to time."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from torch import nn

from nacdeploy.exporters.targets.ort.probe_models import Layer, Signs
from nacdeploy.network.attachments.fake_quant import ActivationQuantizer
from nacdeploy.network.captured.graph import CONVOLVING
from nacdeploy.network.network import Network
from nacdeploy.network.plain import layer_inputs


def layers_of(network: Network) -> list[Layer]:
    """Return the calls of convolutions and linear layers for one image, in order of execution; heads included."""
    heads = [each for head in network.heads.values() for each in head.layers]
    own = [layer for _, layer in calls_of(network)]
    return [*own, *(_layer(network, None, layer, shape) for layer, shape in heads)]


def calls_of(network: Network) -> Iterator[tuple[str, Layer]]:
    """Yield the calls of the backbone's layers, each with the layer's name."""
    layers = network.layers
    for name, x in layer_inputs(network, network.example_input()):
        yield name, _layer(network, name, layers[name], tuple(x.shape[1:]))


def _layer(network: Network, name: str | None, module: nn.Module, shape: tuple[int, ...]) -> Layer:
    """Return a layer of the backbone, or (without a name) one of a head."""
    weight_shape = tuple(module.weight.shape)  # type: ignore[arg-type]
    layer = Layer(shape, weight_shape)
    if isinstance(module, CONVOLVING):
        strides, dilations = tuple(module.stride), tuple(module.dilation)  # some networks hold them as lists
        layer = replace(layer, strides=strides, pads=_pads(module), dilations=dilations, group=module.groups)
    if name is None:
        return layer
    if network.sparsity is not None and network.masks.get(name) is not None:
        layer = replace(layer, pattern=network.sparsity.pattern_of(name))
    quantizer, bits = _input_quantizer(network, name), network.plan.weight_bits.get(name)
    if bits is None or quantizer is None:
        return layer
    signs: Signs = "unsigned" if quantizer.affine else "signed"
    return replace(layer, precision=f"w{bits}a{int(quantizer.bits)}", signs=signs)


def _input_quantizer(network: Network, name: str) -> ActivationQuantizer | None:
    """Return the quantizer of a layer's input, at the first of its calls that has one."""
    nodes = network.graph.nodes if network.graph is not None else ()
    readers = [name, *(node.name for node in nodes if node.op == "call_module" and node.target == name)]
    keys = (network.plan.inputs.get(reader, {}).get(0) for reader in readers)
    quantizer = next((network.quantizers[key] for key in keys if key is not None), None)
    return quantizer if isinstance(quantizer, ActivationQuantizer) else None


def _pads(module: Any) -> tuple[int, ...]:
    """Return the padding of a convolution in ONNX's order: before every axis, then behind."""
    if module.padding == "valid":
        return (0,) * 2 * len(module.kernel_size)
    if module.padding == "same":
        totals = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        return (*(total // 2 for total in totals), *(total - total // 2 for total in totals))
    return (*module.padding, *module.padding)
