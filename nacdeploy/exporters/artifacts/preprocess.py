"""The preprocessing of an artifact as an ONNX graph, so that a server takes pixels: `pixels` uint8 (N, H, W, C), of any
size, become the network's input.

Sizes are changed with an antialias, as Pillow does it; Pillow rounds to 8 bits between its two passes, so that single
pixels may differ by one step or two.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from nacdeploy.exporters.artifacts.artifact import Preprocessing

FILE, PIXELS = "preprocess.onnx", "pixels"
_OPSET, _IR = 20, 9
_MODES: dict[str, dict[str, Any]] = {
    "bilinear": {"mode": "linear", "antialias": 1},
    "bicubic": {"mode": "cubic", "cubic_coeff_a": -0.5, "antialias": 1},
}


def covers(taken: Preprocessing) -> bool:
    """Tell whether a graph can do it: files of 8 bits, and a kind of interpolation that ONNX has."""
    return taken.bits == 8 and taken.interpolation in _MODES


def graph(taken: Preprocessing, output: str) -> bytes:
    """Return the graph whose output is the network's input (N, C, height, width)."""
    made = _Graph()
    x = made.node("Transpose", [PIXELS], perm=[0, 3, 1, 2])
    x = made.node("Cast", [x], to=TensorProto.FLOAT)
    if taken.resize:
        x = made.resized(x, made.by_shorter_side(x, taken.resize), taken)
    if taken.crop:
        x = made.cropped(x, taken.crop)
    x = made.resized(x, made.constant([taken.height, taken.width]), taken)
    if taken.channel_order == "bgr" and taken.channels > 1:
        x = made.node("Gather", [x, made.constant(list(reversed(range(taken.channels))))], axis=1)
    scaled = made.node("Mul", [x, made.constant(taken.scale, np.float32)])
    centred = made.node("Sub", [scaled, made.by_channel(taken.mean, taken.channels)])
    made.node("Div", [centred, made.by_channel(taken.std, taken.channels)], outputs=[output])
    pixels: list[str | int | None] = ["batch", "height", "width", taken.channels]
    given = helper.make_tensor_value_info(PIXELS, TensorProto.UINT8, pixels)
    shape: list[str | int | None] = ["batch", taken.channels, taken.height, taken.width]
    found = helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)
    whole = helper.make_graph(made.nodes, "preprocessing", [given], [found], made.constants)
    model = helper.make_model(whole, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


@dataclass
class _Graph:
    """A graph under construction."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def node(self, kind: str, inputs: Sequence[str], outputs: Sequence[str] = (), **attributes: Any) -> str:
        """Add a node and return the name of its output."""
        names = list(outputs) or [f"t{len(self.nodes)}"]
        self.nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names[0]

    def constant(self, value: Any, dtype: Any = np.int64) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(value, dtype), name))
        return name

    def by_channel(self, values: Sequence[float], n_channels: int) -> str:
        whole = np.broadcast_to(np.array(values, np.float32), (n_channels,))
        return self.constant(whole.reshape(1, n_channels, 1, 1), np.float32)

    def sides(self, x: str) -> str:
        """Return height and width of x (N, C, H, W)."""
        return self.node("Shape", [x], start=2, end=4)

    def by_shorter_side(self, x: str, side: int) -> str:
        """Return height and width where the shorter one is `side`; the longer one is rounded down."""
        sides = self.sides(x)
        shorter = self.node("ReduceMin", [sides], keepdims=0)
        return self.node("Div", [self.node("Mul", [sides, self.constant(side)]), shorter])

    def resized(self, x: str, sides: str, taken: Preprocessing) -> str:
        """Return x in 8-bit steps at a height and width."""
        mode = _MODES[taken.interpolation]
        found = self.node(
            "Resize", [x, "", "", sides], axes=[2, 3], coordinate_transformation_mode="half_pixel", **mode
        )
        low, high = self.constant(0.0, np.float32), self.constant(255.0, np.float32)
        return self.node("Clip", [self.node("Round", [found]), low, high])

    def cropped(self, x: str, side: int) -> str:
        """Return the middle square of a side."""
        spare = self.node("Sub", [self.sides(x), self.constant(side)])
        half = self.node("Mul", [self.node("Cast", [spare], to=TensorProto.FLOAT), self.constant(0.5, np.float32)])
        start = self.node("Cast", [self.node("Round", [half])], to=TensorProto.INT64)
        end = self.node("Add", [start, self.constant(side)])
        return self.node("Slice", [x, start, end, self.constant([2, 3])])
