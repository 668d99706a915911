"""The small ONNX models that the probes run: stacks of equal layers with Q/DQ pairs as our exporter writes them."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Signs = Literal["unsigned", "signed"]

N_LAYERS = 3
_OPSET, _IR_VERSION = 20, 10
_SCALE = np.float32(1 / 64)


def conv_stack(channels: int, side: int, signs: Signs | None) -> onnx.ModelProto:
    """Three 3x3 convolutions with ReLU, `channels` to `channels`; images (1, C, side, side). Without signs: FP32."""
    model = _Model(signs)
    tensor = model.quantized("images", "x")
    for index in range(N_LAYERS):
        weight = model.weight(f"w{index}", _values((channels, channels, 3, 3), 63, index), axis=0)
        tensor = model.node("Conv", [tensor, weight], f"y{index}", pads=[1, 1, 1, 1])
        tensor = model.quantized(model.node("Relu", [tensor], f"r{index}"), f"q{index}")
    return model.made([1, channels, side, side], tensor)


def linear_stack(width: int, signs: Signs | None) -> onnx.ModelProto:
    """Three linear layers over tokens (1, tokens, width), each followed by a bias, as a transformer has them."""
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
    """One layer whose activations and weights are all at their limits, its input, and one step of its output grid.

    Weights of half the outputs are all largest, of the other half all smallest, so that no pair of products cancels.
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
        """A Q/DQ pair; `zero_point` is that of unsigned integers, signed ones have 0."""
        if self._signs is None:
            return tensor
        zero = np.uint8(zero_point) if self._signs == "unsigned" else np.int8(0)
        names = [self.constant(f"{name}_s", np.array(scale, np.float32)), self.constant(f"{name}_z", np.array(zero))]
        self.node("QuantizeLinear", [tensor, *names], f"{name}_int")
        return self.node("DequantizeLinear", [f"{name}_int", *names], f"{name}_float")

    def made(self, shape: Sequence[int | str], output: str) -> onnx.ModelProto:
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("images", output)]
        graph = helper.make_graph(self._nodes, "probe", ends[:1], ends[1:], self._constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)


def _values(shape: tuple[int, ...], largest: int, seed: int) -> NDArray[Any]:
    drawn = np.random.default_rng(seed).integers(-largest, largest + 1, shape)
    return drawn.astype(np.int8)
