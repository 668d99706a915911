"""Files that ONNX Runtime's optimiser or quantiser wrote, and ONNX's newest operators, as torch modules."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.helper import make_node
from torch import nn

from nacdeploy.models import from_onnx
from nacdeploy.models.from_onnx.running import Part

DRAW = np.random.default_rng(0)
OWN = {"domain": "com.microsoft"}


def weights(*shape: int) -> Any:
    return (DRAW.normal(size=shape) / 3).astype(np.float32)


def integers(*shape: int) -> Any:
    return DRAW.integers(-127, 127, shape).astype(np.int8)


SCALES = {"s": np.float32(0.01), "z": np.uint8(128), "t": np.float32(0.05), "u": np.uint8(120)}
QUANTIZE = make_node("QuantizeLinear", ["x", "s", "z"], ["q"])
WIDEN = make_node("DequantizeLinear", ["r", "t", "u"], ["y"])
CASES: dict[str, tuple[list[onnx.NodeProto], tuple[int, ...], dict[str, Any], float]] = {
    "FusedConv": (
        [make_node("FusedConv", ["x", "w", "b"], ["y"], activation="Relu", pads=[1, 1, 1, 1], **OWN)],
        (3, 6, 6),
        {"w": weights(4, 3, 3, 3), "b": weights(4)},
        100,
    ),
    "FusedGemm": (
        [make_node("FusedGemm", ["x", "w", "b"], ["y"], activation="LeakyRelu", activation_alpha=0.2, **OWN)],
        (6,),
        {"w": weights(6, 4), "b": weights(4)},
        100,
    ),
    "FusedMatMul": (
        [make_node("FusedMatMul", ["x", "w"], ["y"], alpha=0.25, transB=1, **OWN)],
        (5, 6),
        {"w": weights(4, 6)},
        100,
    ),
    "BiasGelu": (
        [make_node("MatMul", ["x", "w"], ["m"]), make_node("BiasGelu", ["m", "b"], ["y"], **OWN)],
        (5, 6),
        {"w": weights(6, 4), "b": weights(4)},
        90,
    ),
    "SkipLayerNormalization": (
        [
            make_node("MatMul", ["x", "w"], ["m"]),
            make_node("SkipLayerNormalization", ["m", "x", "g", "b"], ["n", "", "", "sum"], epsilon=1e-5, **OWN),
            make_node("Add", ["n", "sum"], ["y"]),
        ],
        (5, 6),
        {"w": weights(6, 6), "g": weights(6), "b": weights(6)},
        90,
    ),
    "RMSNormalization": (
        [make_node("MatMul", ["x", "w"], ["m"]), make_node("RMSNormalization", ["m", "g"], ["y"])],
        (5, 6),
        {"w": weights(6, 6), "g": weights(6)},
        90,
    ),
    "Attention": (
        [
            make_node("MatMul", ["x", "w"], ["m"]),
            make_node("Attention", ["m", "x", "x"], ["y"], q_num_heads=2, kv_num_heads=2, is_causal=1),
        ],
        (5, 8),
        {"w": weights(8, 8)},
        90,
    ),
    "QLinearConv": (
        [
            QUANTIZE,
            make_node("QLinearConv", ["q", "s", "z", "w", "ws", "wz", "t", "u", "b"], ["r"], pads=[1, 1, 1, 1]),
            WIDEN,
        ],
        (3, 6, 6),
        {
            **SCALES,
            "w": integers(4, 3, 3, 3),
            "ws": np.float32([0.004, 0.002, 0.001, 0.002]),
            "wz": np.zeros(4, np.int8),
            "b": np.int32([9, 5, 0, -4]),
        },
        20,
    ),
    "QLinearAdd": (
        [
            QUANTIZE,
            make_node("QLinearMatMul", ["q", "s", "z", "w", "ws", "wz", "t", "u"], ["m"]),
            make_node("QLinearAdd", ["m", "t", "u", "m", "t", "u", "t", "u"], ["a"], **OWN),
            make_node("QLinearConcat", ["t", "u", "a", "t", "u", "m", "t", "u"], ["r"], axis=1, **OWN),
            WIDEN,
        ],
        (6,),
        {**SCALES, "w": integers(6, 4), "ws": np.float32(0.003), "wz": np.int8(0)},
        20,
    ),
    "MatMulInteger": (
        [
            make_node("DynamicQuantizeLinear", ["x"], ["q", "qs", "qz"]),
            make_node("MatMulInteger", ["q", "w", "qz", "wz"], ["i"]),
            make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
            make_node("Mul", ["qs", "ws"], ["both"]),
            make_node("Mul", ["f", "both"], ["y"]),
        ],
        (5, 6),
        {"w": integers(6, 4), "ws": np.float32(0.01), "wz": np.int8(3)},
        20,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_operator_answers_as_the_file_and_its_weights_are_a_layer(tmp_path: Path, name: str) -> None:
    nodes, shape, constants, least_db = CASES[name]
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), key) for key, value in constants.items()],
    )
    opset = 23 if name in ("RMSNormalization", "Attention") else 17
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(made, opset_imports=imports, ir_version=8), path)
    parts = from_onnx.parts(from_onnx.Name(path))
    network = from_onnx.module(path)
    assert not parts.is_cut and any(isinstance(each, nn.Conv2d | nn.Linear) for each in network.modules())
    for n in (1, 3):
        x = DRAW.uniform(-1, 1, size=(n, *shape)).astype(np.float32)
        wanted = Part(path, "file").run({"x": x})["y"]
        with torch.no_grad():
            found = network(torch.from_numpy(x)).numpy()
        noise = float(np.square(found - wanted).sum() / np.square(wanted).sum())
        assert found.shape == wanted.shape and 10 * np.log10(noise + 1e-20) < -least_db
