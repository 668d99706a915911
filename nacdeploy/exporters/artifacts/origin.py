"""Where an ONNX node comes from: the layer of the torch model, from what torch's exporter left in the graph."""

from collections.abc import Iterator

import onnx

from nacdeploy.exporters.artifacts.onnx_links import module_path

_PREFIXES = ("network.backbone.", "layers.", "edges.")


def torch_layer(model: onnx.ModelProto, node: onnx.NodeProto) -> str:
    """The torch module that made a node, in words; for what the model's own forward computes, the layer before it."""
    if own := _layer_of(model, node):
        return f"made by torch layer '{own}'"
    behind = next((layer for maker in _makers(model, node) if (layer := _layer_of(model, maker))), "")
    place = f" behind torch layer '{behind}'" if behind else ""
    return f"made by the torch model's forward{place}"


def _layer_of(model: onnx.ModelProto, node: onnx.NodeProto) -> str:
    """The layer that a node's metadata or its weight names."""
    return _scope(node) or next((layer for name in node.input if (layer := _of_weight(model, name))), "")


def _scope(node: onnx.NodeProto) -> str:
    return _plain(module_path(node))


def _of_weight(model: onnx.ModelProto, name: str) -> str:
    """The layer whose weight a tensor is, or is dequantised from: `layers.stem.0.weight_q` belongs to stem.0."""
    makers = {output: node for node in model.graph.node for output in node.output}
    source = makers[name].input[0] if name in makers and makers[name].op_type == "DequantizeLinear" else name
    is_weight = source.startswith("layers.") and any(tensor.name == source for tensor in model.graph.initializer)
    return _plain(source.rpartition(".")[0]) if is_weight else ""


def _makers(model: onnx.ModelProto, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """The nodes before a node, nearest first."""
    by_output = {output: maker for maker in model.graph.node for output in maker.output}
    waiting, seen = list(node.input), set()
    while waiting:
        name = waiting.pop(0)
        if name in by_output and name not in seen:
            seen.add(name)
            yield by_output[name]
            waiting += by_output[name].input


def _plain(path: str) -> str:
    for prefix in _PREFIXES:
        path = path.removeprefix(prefix)
    return path
