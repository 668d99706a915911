"""Values of another range than the file's: said by its own words, its first norm, its first convolution."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.helper import make_node

from nacdeploy.base.errors import UsageError
from nacdeploy.task import graph_ranges

DRAW = np.random.default_rng(0)
CALLS = [{"x": DRAW.random((1, 3, 8, 8), dtype=np.float32)} for _ in range(4)]
BYTES = [{"x": call["x"] * np.float32(255)} for call in CALLS]


def file(nodes: list[onnx.NodeProto], constants: dict[str, object], text: str = "") -> onnx.ModelProto:
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8], text)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in constants.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


WEIGHT = {"w": DRAW.normal(size=(4, 3, 3, 3)) / 5}
PLAIN = [make_node("Conv", ["x", "w"], ["y"])]


def with_offsets(scale: float) -> onnx.ModelProto:
    nodes = [make_node("Conv", ["x", "w", "b"], ["c"]), make_node("Relu", ["c"], ["y"])]
    return file(nodes, {**WEIGHT, "b": scale * DRAW.normal(size=4)})


def with_norm(scale: float) -> onnx.ModelProto:
    nodes = [make_node("Conv", ["x", "w"], ["c"]), make_node("BatchNormalization", ["c", "s", "o", "m", "v"], ["y"])]
    return file(nodes, {**WEIGHT, "s": [1] * 4, "o": [0] * 4, "m": [0] * 4, "v": [(scale * 0.3) ** 2] * 4})


def looked_at(model: onnx.ModelProto, calls: list[dict[str, np.ndarray]]) -> list[str]:
    return graph_ranges.checked(model, calls, "net.onnx")


def test_file_says_its_range() -> None:
    assert looked_at(file(PLAIN, WEIGHT, "pixels, 0 to 1"), CALLS) == []
    with pytest.raises(UsageError, match=r"the file says that it takes 0\.\.1: set images\.value_range = '0\.\.1'"):
        looked_at(file(PLAIN, WEIGHT, "pixels, 0 to 1"), BYTES)
    with pytest.raises(UsageError, match=r"the file says that it takes 0\.\.255.*multiply by 255"):
        model = file(PLAIN, WEIGHT)
        model.metadata_props.add(key="Image.NominalPixelRange", value="NominalRange_0_255")
        looked_at(model, CALLS)


def test_first_norm_remembers_its_range() -> None:
    assert looked_at(with_norm(1), CALLS) == [] == looked_at(with_norm(255), BYTES)
    with pytest.raises(UsageError, match=r"times wider in its first batch norm .* 0\.\.1 would fit"):
        looked_at(with_norm(1), BYTES)
    with pytest.raises(UsageError, match=r"times less in its first batch norm .* 0\.\.255 would fit"):
        looked_at(with_norm(255), CALLS)


def test_offsets_of_the_first_convolution_tell_its_range() -> None:
    assert looked_at(with_offsets(0.5), CALLS) == [] == looked_at(with_offsets(120), BYTES)
    (line,) = looked_at(with_offsets(0.5), BYTES)
    assert line.startswith("CHECK THE RANGE: values") and "0..1 would fit better" in line
    (line,) = looked_at(with_offsets(120), CALLS)
    assert "0..255 would fit better" in line


def test_answers_that_are_all_saturated_are_said() -> None:
    nodes = [make_node("Flatten", ["x"], ["f"]), make_node("MatMul", ["f", "w"], ["y"])]
    model = file(nodes, {"w": DRAW.normal(size=(192, 8)) / 4})
    assert looked_at(model, CALLS) == []
    (line,) = looked_at(model, BYTES)
    assert "every answer is saturated, at 0..1 it is not" in line


def test_values_of_no_usual_range_are_not_judged() -> None:
    normal = [{"x": DRAW.normal(size=(1, 3, 8, 8)).astype(np.float32)}]
    assert looked_at(with_norm(255), normal) == []
