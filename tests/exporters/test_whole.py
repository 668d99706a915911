"""`whole.onnx`: types, sizes, texts and metadata of the file that it stands in the place of."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.helper import make_node

from nacdeploy.exporters import whole
from nacdeploy.models import from_onnx
from nacdeploy.models.from_onnx.graph import reading
from nacdeploy.models.from_onnx.running import Part
from nacdeploy.task.original import Original

DRAW = np.random.default_rng(0)


def weights(*shape: int) -> Any:
    return (DRAW.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def file(
    nodes: list[onnx.NodeProto], shape: list[Any], constants: dict[str, Any], kind: int = TensorProto.FLOAT
) -> onnx.ModelProto:
    made = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", kind, shape, "what goes in")],
        [helper.make_tensor_value_info("y", kind, None, "what comes out")],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
        "a network",
    )
    found = helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=8, producer_name="somebody")
    found.metadata_props.add(key="names", value="cat,dog")
    return found


CONVS = [
    make_node("Conv", ["x", "w"], ["c"], "one", pads=[1, 1, 1, 1]),
    make_node("Relu", ["c"], ["r"], "relu"),
    make_node("Conv", ["r", "v"], ["y"], "two"),
]
WEIGHTS = {"w": weights(8, 3, 3, 3), "v": weights(4, 8, 1, 1)}
SIDES = [  # the mean by pixels, times a side of the image, which is computed from its shape
    *CONVS[:2],
    make_node("Conv", ["r", "v"], ["d"], "two"),
    make_node("Shape", ["d"], ["s"]),
    make_node("Gather", ["s", "two"], ["side"]),
    make_node("Cast", ["side"], ["sides"], to=TensorProto.FLOAT),
    make_node("GlobalAveragePool", ["d"], ["g"]),
    make_node("Mul", ["g", "sides"], ["y"]),
]


def original(path: Path, model: onnx.ModelProto, shape: tuple[int, ...], kind: Any = np.float32) -> Original:
    onnx.save(model, path)
    name = from_onnx.Name(path, shapes={"x": shape})
    calls = [{"x": DRAW.random((1, *shape)).astype(np.float32)} for _ in range(4)]
    return Original(name, from_onnx.parts(name), lambda i: calls[i], len(calls))


def made(source: Original) -> tuple[onnx.ModelProto, list[str]]:
    return whole._made(source.parts.network, reading.as_written(source.name.path), source)


def test_texts_and_metadata_stay(tmp_path: Path) -> None:
    source = original(tmp_path / "net.onnx", file(CONVS, ["n", 3, 8, 8], WEIGHTS), (3, 8, 8))
    found, notes = made(source)
    assert (found.producer_name, found.graph.name, found.graph.doc_string) == ("somebody", "net", "a network")
    assert found.graph.input[0].doc_string == "what goes in" and found.graph.output[0].doc_string == "what comes out"
    assert [each.value for each in found.metadata_props] == ["cat,dog"] and not notes
    assert found.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "n"


def test_half_precision_goes_in_and_comes_out(tmp_path: Path) -> None:
    half = {name: value.astype(np.float16) for name, value in WEIGHTS.items()}
    path = tmp_path / "net.onnx"
    source = original(path, file(CONVS, ["n", 3, 8, 8], half, TensorProto.FLOAT16), (3, 8, 8))
    found, _ = made(source)
    onnx.checker.check_model(found)
    x = DRAW.random((3, 3, 8, 8)).astype(np.float16)
    wanted, answer = (Part(each, "part").run({"x": x})["y"] for each in (path, found))
    assert wanted.dtype == answer.dtype == np.float16 and np.allclose(wanted, answer, atol=1e-2)


@pytest.mark.parametrize(("nodes", "is_open"), [(CONVS, True), (SIDES, False)])
def test_open_sizes_stay_open_where_the_graph_answers_them_and_else_the_file_does(
    tmp_path: Path, nodes: list[onnx.NodeProto], is_open: bool
) -> None:
    path = tmp_path / "net.onnx"
    source = original(path, file(nodes, ["n", 3, "h", "w"], {**WEIGHTS, "two": np.array(2)}), (3, 8, 8))
    found, notes = made(source)
    assert any(("stay open" if is_open else "other sizes run as in the file") in note for note in notes)
    assert any(node.op_type == "If" for node in found.graph.node) != is_open
    for shape in ((1, 3, 8, 8), (3, 3, 8, 8), (2, 3, 12, 20)):
        x = DRAW.random(shape).astype(np.float32)
        wanted, answer = (Part(each, "part").run({"x": x})["y"] for each in (path, found))
        assert np.allclose(wanted, answer, atol=1e-5)


def test_graph_that_answers_otherwise_is_measured_output_by_output(tmp_path: Path) -> None:
    source = original(tmp_path / "net.onnx", file(CONVS, ["n", 3, 8, 8], WEIGHTS), (3, 8, 8))
    found, _ = made(source)
    for tensor in found.graph.initializer:
        if tensor.dims[:2] == [4, 8]:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.1), tensor.name))
    outcome = whole.compared(found.SerializeToString(), source)
    assert 19.5 < outcome.decibels["y"] < 20.5 and not outcome.equal
