"""The small ONNX models for timing: stacks of equal layers for the probes, and single layers for the table of
layers, with Q/DQ pairs as our exporter writes them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Signs = Literal["unsigned", "signed"]

N_LAYERS = 3
_OPSET, _IR_VERSION = 20, 10
_SCALE = np.float32(1 / 64)
_FLOAT = np.dtype(np.float32)


def conv_stack(channels: int, side: int, signs: Signs | None) -> onnx.ModelProto:
    """Make three 3x3 convolutions with ReLU, `channels` to `channels`; images (1, C, side, side). Without signs:
    FP32."""
    model = _Model(signs)
    tensor = model.quantized("images", "x")
    for index in range(N_LAYERS):
        weight = model.weight(f"w{index}", _values((channels, channels, 3, 3), 63, index), axis=0)
        tensor = model.node("Conv", [tensor, weight], f"y{index}", pads=[1, 1, 1, 1])
        tensor = model.quantized(model.node("Relu", [tensor], f"r{index}"), f"q{index}")
    return model.made([1, channels, side, side], tensor)


def linear_stack(width: int, signs: Signs | None) -> onnx.ModelProto:
    """Make three linear layers over tokens (1, tokens, width), each followed by a bias, as in a transformer."""
    model = _Model(signs)
    tensor = "images"
    for index in range(N_LAYERS):
        weight = model.weight(f"w{index}", _values((width, width), 63, index), axis=1)
        bias = model.constant(f"b{index}", np.zeros(width, np.float32))
        tensor = model.node("MatMul", [model.quantized(tensor, f"q{index}"), weight], f"y{index}")
        tensor = model.node("Add", [tensor, bias], f"z{index}")
    return model.made([1, "tokens", width], tensor)


def worst_case(
    kind: Literal["conv", "linear"], signs: Signs, weight_bits: int
) -> tuple[onnx.ModelProto, NDArray[Any], float]:
    """Make one layer with all activations and weights at their limits; return it, its input, and one step of its output
    grid.

    Half the outputs have only largest weights, half only smallest, so that no pair of products cancels.
    """
    n, largest = 64, 2 ** (weight_bits - 1) - 1
    model = _Model(signs)
    sign = np.where(np.arange(n) % 2, -1, 1)
    peak = 255 if signs == "unsigned" else 127
    x = model.quantized("images", "x")
    if kind == "conv":
        values = np.broadcast_to(sign[:, None, None, None] * largest, (n, n, 3, 3)).astype(np.int8)
        output = model.node("Conv", [x, model.weight("w", values, axis=0)], "y", pads=[1, 1, 1, 1])
        step = float(9 * n * peak * largest * _SCALE**2 / 127)
        output, shape = model.quantized(output, "q", scale=step, zero_point=128), [1, n, 8, 8]
    else:
        values = np.broadcast_to(sign[None, :] * largest, (n, n)).astype(np.int8)
        output, shape = model.node("MatMul", [x, model.weight("w", values, axis=1)], "y"), [1, 8, n]
        step = float(n * peak * largest * _SCALE**2 / 127)
    return model.made(shape, output), np.full(shape, peak * _SCALE, np.float32), step


@dataclass(frozen=True)
class Layer:
    """The features of a convolution or linear layer that decide its time.

    Attributes:
        input_shape: of one image, (C, H, W), (L, C) or (C,).
        weight_shape: torch's shape of the weight.
        precision: "float", or the precision that the kernel reads, "w8a8" or "w4a8".
        signs: the signs of the activations on integers.
        pattern: the pattern of zeros in the weights, "dense" for none.
    """

    input_shape: tuple[int, ...]
    weight_shape: tuple[int, ...]
    strides: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    group: int = 1
    precision: str = "float"
    signs: Signs | None = None
    pattern: str = "dense"


def one_layer(layer: Layer, batch_size: int) -> tuple[onnx.ModelProto, NDArray[Any]]:
    """Make one layer that reads and writes as its neighbours do (integers if quantized), and its input."""
    shape = (batch_size, *layer.input_shape)
    kind = np.dtype(np.float32 if layer.signs is None else np.uint8 if layer.signs == "unsigned" else np.int8)
    model = _Model(layer.signs)
    x = model.dequantized("images", "x")
    weights = _values(layer.weight_shape, 63, 0)
    if len(layer.weight_shape) == 2:
        output = model.node("MatMul", [x, model.weight("w", weights.T, axis=1)], "y")
        return model.made(shape, output, kind), np.ones(shape, kind)
    attributes = {"strides": layer.strides, "pads": layer.pads, "dilations": layer.dilations, "group": layer.group}
    output = model.integers(model.node("Conv", [x, model.weight("w", weights, axis=0)], "y", **attributes), "q")
    return model.made(shape, output, kind, kind), np.ones(shape, kind)


def no_layer() -> tuple[onnx.ModelProto, NDArray[Any]]:
    """Make a model without a layer: its time is the cost of a call."""
    model = _Model(None)
    return model.made((1,), model.node("Relu", ["images"], "y")), np.ones(1, np.float32)


class _Model:
    """Nodes and constants of a graph under construction; without signs the Q/DQ pairs are left out."""

    def __init__(self, signs: Signs | None) -> None:
        self._signs = signs
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def node(self, op_type: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self._nodes.append(helper.make_node(op_type, inputs, [output], name=f"node_{output}", **attributes))
        return output

    def constant(self, name: str, value: NDArray[Any]) -> str:
        self._constants.append(numpy_helper.from_array(value, name))
        return name

    def weight(self, name: str, values: NDArray[Any], axis: int) -> str:
        if self._signs is None:
            return self.constant(name, values.astype(np.float32) * _SCALE)
        n = values.shape[axis]
        scale = self.constant(f"{name}_scale", np.full(n, _SCALE, np.float32))
        zero = self.constant(f"{name}_zero", np.zeros(n, np.int8))
        return self.node("DequantizeLinear", [self.constant(f"{name}_q", values), scale, zero], f"{name}_dq", axis=axis)

    def quantized(self, tensor: str, name: str, scale: float = float(_SCALE), zero_point: int = 0) -> str:
        """Add a Q/DQ pair; `zero_point` is for unsigned integers, signed integers have 0."""
        if self._signs is None:
            return tensor
        names = self._grid(name, scale, zero_point)
        self.node("QuantizeLinear", [tensor, *names], f"{name}_int")
        return self.node("DequantizeLinear", [f"{name}_int", *names], f"{name}_float")

    def integers(self, tensor: str, name: str) -> str:
        """Add the first half of a pair."""
        return tensor if self._signs is None else self.node("QuantizeLinear", [tensor, *self._grid(name)], name)

    def dequantized(self, tensor: str, name: str) -> str:
        """Add the second half of a pair."""
        return tensor if self._signs is None else self.node("DequantizeLinear", [tensor, *self._grid(name)], name)

    def _grid(self, name: str, scale: float = float(_SCALE), zero_point: int = 0) -> list[str]:
        zero = np.uint8(zero_point) if self._signs == "unsigned" else np.int8(0)
        return [self.constant(f"{name}_s", np.array(scale, np.float32)), self.constant(f"{name}_z", np.array(zero))]

    def made(
        self,
        shape: Sequence[int | str],
        output: str,
        reads: np.dtype[Any] = _FLOAT,
        writes: np.dtype[Any] = _FLOAT,
    ) -> onnx.ModelProto:
        ends = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(kind), [None] * len(shape))
            for name, kind in (("images", reads), (output, writes))
        ]
        ends[0] = helper.make_tensor_value_info("images", helper.np_dtype_to_tensor_dtype(reads), shape)
        graph = helper.make_graph(self._nodes, "probe", ends[:1], ends[1:], self._constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)


def _values(shape: tuple[int, ...], largest: int, seed: int) -> NDArray[Any]:
    drawn = np.random.default_rng(seed).integers(-largest, largest + 1, shape)
    return drawn.astype(np.int8)
