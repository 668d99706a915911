"""A small graph with explicit Q/DQ, written by hand as the exporter writes its own."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

IMAGE = (3, 16, 16)


class NetworkWriter:
    """Writes conv-relu-conv-add-pool-gemm with explicit Q/DQ, as the exporter does."""

    def __init__(self, activation_type: type = np.int8) -> None:
        self.random = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.tensors = [numpy_helper.from_array(np.array(0, activation_type), "zero")]

    def constant(self, name: str, values: np.ndarray) -> str:
        self.tensors.append(numpy_helper.from_array(values, name))
        return name

    def node(self, operator: str, inputs: list[str], name: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [name], name=f"node_{name}", **attributes))
        return name

    def quantised(self, tensor: str, scale: float) -> str:
        step = self.constant(f"{tensor}_scale", np.array(scale, np.float32))
        integers = self.node("QuantizeLinear", [tensor, step, "zero"], f"{tensor}_q")
        return self.node("DequantizeLinear", [integers, step, "zero"], f"{tensor}_dq")

    def weight(self, layer: str, shape: tuple[int, ...]) -> list[str]:
        integers = self.constant(f"{layer}.weight_q", self.random.integers(-127, 128, shape, dtype=np.int8))
        scale = self.constant(f"{layer}.weight_scale", np.full(shape[0], 1 / (64 * shape[1]), np.float32))
        zero = self.constant(f"{layer}.weight_zero", np.zeros(shape[0], np.int8))
        bias = self.constant(f"{layer}.bias", self.random.normal(size=shape[0]).astype(np.float32))
        return [self.node("DequantizeLinear", [integers, scale, zero], f"{layer}.weight", axis=0), bias]

    def model(self) -> onnx.ModelProto:
        images = self.quantised("images", 1 / 127)
        first = self.node("Conv", [images, *self.weight("conv1", (32, 3, 3, 3))], "c1", pads=[1, 1, 1, 1])
        skip = self.quantised(self.node("Relu", [first], "r1"), 0.05)
        second = self.node("Conv", [skip, *self.weight("conv2", (32, 32, 3, 3))], "c2", pads=[1, 1, 1, 1])
        joined = self.node("Add", [skip, self.quantised(second, 0.05)], "sum")
        pooled = self.quantised(self.node("GlobalAveragePool", [joined], "pooled"), 0.02)
        self.node("Gemm", [self.node("Flatten", [pooled], "flat"), *self.weight("fc", (10, 32))], "logits", transB=1)
        graph = helper.make_graph(
            self.nodes,
            "network",
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", *IMAGE])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
            self.tensors,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
