"""The claims of letters, counted in running networks: integer weights in a file's nodes, zeros in the weights of a
forward."""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from nacdeploy.exporters.targets.ort.runner import OPTIMIZED, OnnxRunner

Masks = Mapping[str, Tensor | None]
COMPUTE = ("Conv", "ConvTranspose", "Gemm", "MatMul")
ON_INTEGERS = ("QLinearConv", "QGemm", "QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat", "ConvInteger")
_PRODUCTS = ("convolution", "conv1d", "conv2d", "linear", "addmm", "mm", "bmm", "matmul", "baddbmm")
_MOVING = ("Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Clip", "Slice", "Gather", "Concat")


def weighted(module: nn.Module) -> int:
    """Count the layers of a network that hold a convolution's or a product's weight, subclasses included."""
    return sum(isinstance(each, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear) for each in module.modules())


def integer_weights(model: bytes) -> int:
    """Count the int8 weights of a file that a product reads together with data from integers."""
    graph = onnx.load_model_from_string(model).graph
    makers = {name: node for node in graph.node for name in node.output}
    integers = {t.name for t in graph.initializer if t.data_type in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)}
    found = set()
    for node in graph.node:
        if node.op_type in COMPUTE:
            sources = [_source(name, makers) for name in node.input[:2]]
            weights = integers.intersection(sources)
            if weights and "" not in sources:
                found |= weights
    return len(found)


def _source(name: str, makers: Mapping[str, onnx.NodeProto]) -> str:
    """Return the integers that a tensor is dequantized from, or "" if it is not."""
    while name in makers:
        maker = makers[name]
        if maker.op_type == "DequantizeLinear":
            return maker.input[0]
        if maker.op_type not in _MOVING:
            return ""
        name = maker.input[0]
    return ""


def integer_nodes_that_run(model: bytes, images: NDArray[Any]) -> int:
    """Count the products on integers in the graph that ONNX Runtime makes of a file and runs."""
    with tempfile.TemporaryDirectory() as folder:
        runner = OnnxRunner(model, trace=Path(folder))
        runner.run(images)
        runner.end_trace()
        nodes = onnx.load_model(Path(folder) / OPTIMIZED).graph.node
    return sum(node.op_type in ON_INTEGERS for node in nodes)


def zeros_that_run(network: nn.Module, images: Tensor, masks: Masks) -> set[str]:
    """Return the layers whose zeros are in a tensor that a product of a forward reads."""
    seen = _Seen(masks)
    with torch.no_grad(), seen:
        network(images)
    return seen.found


def zeros_in_file(model: bytes, masks: Masks) -> set[str]:
    """Return the layers whose zeros are in a constant of a file."""
    found: set[str] = set()
    for tensor in onnx.load_model_from_string(model).graph.initializer:
        if len(tensor.dims) > 1:
            value = torch.from_numpy(np.array(numpy_helper.to_array(tensor)))
            found |= set(_matching(value, masks))
    return found


def _matching(value: Tensor, masks: Masks) -> Iterator[str]:
    """Yield the layers whose mask hides nothing but zeros of a weight, plain or transposed."""
    for each in (value, value.transpose(-1, -2)) if value.dim() == 2 else (value,):
        for name, kept in masks.items():
            if kept is not None and kept.shape == each.shape and not bool(each[~kept].count_nonzero()):
                yield name


class _Seen(TorchDispatchMode):
    def __init__(self, masks: Masks) -> None:
        super().__init__()
        self._masks, self._shapes = masks, {m.shape for m in masks.values() if m is not None}
        self.found: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in _PRODUCTS:
            for each in args:
                if isinstance(each, Tensor) and each.dim() > 1 and self._shapes & {each.shape, each.mT.shape}:
                    self.found |= set(_matching(each.detach(), self._masks))
        return func(*args, **(kwargs or {}))
