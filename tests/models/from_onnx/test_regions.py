"""Graphs that torch cannot hold as a whole: what it holds is the network, and the rest stays around it."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.helper import make_node

from nacdeploy.base.errors import UsageError
from nacdeploy.exporters.onnx_graph.splicing import spliced
from nacdeploy.models import from_onnx
from nacdeploy.models.from_onnx import Parts
from nacdeploy.models.from_onnx.graph import reading

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
DRAW = np.random.default_rng(0)
Value = tuple[str, int, list[Any] | None]


def weights(*shape: int) -> Any:
    return (DRAW.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def model(
    nodes: list[onnx.NodeProto], inputs: list[Value], outputs: list[Value], constants: dict[str, Any], opset: int = 17
) -> onnx.ModelProto:
    values = [[helper.make_tensor_value_info(*each) for each in side] for side in (inputs, outputs)]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    made = helper.make_graph(nodes, "g", *values, tensors)
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 3)]
    found = helper.make_model(made, opset_imports=imports, ir_version=8)
    found.metadata_props.add(key="classes", value="cat,dog")
    return found


def branch(nodes: list[onnx.NodeProto], outputs: list[Value], inputs: list[Value] | None = None) -> onnx.GraphProto:
    made = [[helper.make_tensor_value_info(*each) for each in side] for side in (inputs or [], outputs)]
    return helper.make_graph(nodes, "inner", *made)


CONVS = [
    make_node("Conv", ["x", "w1"], ["c1"], "conv1", pads=[1, 1, 1, 1]),
    make_node("Relu", ["c1"], ["r1"], "relu1"),
    make_node("Conv", ["r1", "w2"], ["c2"], "conv2", pads=[1, 1, 1, 1]),
]
WEIGHTS = {"w1": weights(16, 3, 3, 3), "w2": weights(6, 16, 3, 3)}
IMAGE: Value = ("x", FLOAT, ["n", 3, 8, 8])


def recurrent() -> onnx.ModelProto:
    """Return convolutions, an LSTM whose state goes in and out, and a layer behind."""
    nodes = [
        *CONVS,
        make_node("Flatten", ["c2"], ["flat"], "flat"),
        make_node("Unsqueeze", ["flat", "zero"], ["seq"], "seq"),
        make_node("LSTM", ["seq", "W", "R", "", "", "h", "c"], ["", "hn", "cn"], "lstm", hidden_size=5),
        make_node("Squeeze", ["hn", "zero"], ["last"], "last"),
        make_node("Gemm", ["last", "g"], ["y"], "head"),
    ]
    constants = {"W": weights(1, 20, 384), "R": weights(1, 20, 5), "g": weights(5, 4), "zero": np.array([0])}
    state: list[Value] = [("h", FLOAT, [1, "n", 5]), ("c", FLOAT, [1, "n", 5])]
    outputs: list[Value] = [("y", FLOAT, ["n", 4]), ("hn", FLOAT, [1, "n", 5]), ("cn", FLOAT, [1, "n", 5])]
    return model(nodes, [IMAGE, *state], outputs, {**WEIGHTS, **constants})


def detector() -> onnx.ModelProto:
    """Return boxes and scores of convolutions, and the suppression of overlaps behind them."""
    nodes = [
        *CONVS,
        make_node("Reshape", ["c2", "to"], ["rows"], "rows"),
        make_node("Transpose", ["rows"], ["cells"], "cells", perm=[0, 2, 1]),
        make_node("Slice", ["cells", "zero", "four", "two"], ["boxes"], "boxes"),
        make_node("Slice", ["rows", "four", "six", "one"], ["scores"], "scores"),
        make_node("NonMaxSuppression", ["boxes", "scores", "most", "iou", "least"], ["picked"], "nms"),
        make_node("Gather", ["picked", "last"], ["which"], "which", axis=1),
        make_node("Squeeze", ["boxes", "zero"], ["all"], "all"),
        make_node("Gather", ["all", "which"], ["y"], "y"),
    ]
    constants = {"to": np.array([0, 6, -1]), "most": np.array([5]), "last": np.array(2), "zero": np.array([0])}
    constants |= {"one": np.array([1]), "two": np.array([2]), "four": np.array([4]), "six": np.array([6])}
    constants |= {"iou": np.float32([0.5]), "least": np.float32([0.1])}
    image: Value = ("x", FLOAT, [1, 3, 8, 8])
    return model(nodes, [image], [("y", FLOAT, ["k", 4]), ("picked", INT64, ["k", 3])], {**WEIGHTS, **constants})


def looped() -> onnx.ModelProto:
    """Return convolutions behind which a loop halves the answer, and a condition on values adds something."""
    body = branch(
        [make_node("Mul", ["v", "half"], ["w"], "halve"), make_node("Identity", ["go"], ["on"])],
        [("on", BOOL, []), ("w", FLOAT, None)],
        [("i", INT64, []), ("go", BOOL, []), ("v", FLOAT, None)],
    )
    more = branch([make_node("Add", ["looped", "half"], ["added"], "add")], [("added", FLOAT, None)])
    same = branch([make_node("Identity", ["looped"], ["kept"], "keep")], [("kept", FLOAT, None)])
    nodes = [
        *CONVS,
        make_node("Loop", ["three", "true", "c2"], ["looped"], "loop", body=body),
        make_node("ReduceMax", ["looped"], ["top"], "top", keepdims=0),
        make_node("Greater", ["top", "half"], ["is_high"], "is_high"),
        make_node("If", ["is_high"], ["y"], "if", then_branch=more, else_branch=same),
    ]
    constants = {"three": np.array(3), "true": np.array(True), "half": np.float32(0.5)}
    return model(nodes, [IMAGE], [("y", FLOAT, ["n", 6, 8, 8])], {**WEIGHTS, **constants})


def prepared() -> onnx.ModelProto:
    """Return a network behind operators of another domain that make its input, channels last."""
    nodes = [
        make_node("Scaler", ["pixels"], ["odd"], "own", domain="ai.onnx.ml", offset=[0.5], scale=[2.0]),
        make_node("Transpose", ["odd"], ["x"], "first", perm=[0, 3, 1, 2]),
        *CONVS,
        make_node("Relu", ["c2"], ["y"], "out"),
    ]
    return model(nodes, [("pixels", FLOAT, ["n", 8, 8, 3])], [("y", FLOAT, ["n", 6, 8, 8])], WEIGHTS)


def sequences() -> onnx.ModelProto:
    """Return layers on sequences first, inputs and outputs `(T, N, C)`."""
    nodes = [
        make_node("Transpose", ["x"], ["t"], "in", perm=[1, 0, 2]),
        make_node("MatMul", ["t", "w"], ["m"], "layer"),
        make_node("Relu", ["m"], ["r"], "relu"),
        make_node("Transpose", ["r"], ["y"], "out", perm=[1, 0, 2]),
    ]
    return model(nodes, [("x", FLOAT, [7, "batch", 8])], [("y", FLOAT, [7, "batch", 16])], {"w": weights(8, 16)})


def shaped() -> onnx.ModelProto:
    """Return layers behind which the shape of the input decides how often the answer is repeated."""
    nodes = [
        *CONVS,
        make_node("ReduceMean", ["c2"], ["m"], "mean", axes=[2, 3], keepdims=0),
        make_node("Shape", ["r1"], ["s"], "shape"),
        make_node("Gather", ["s", "zero"], ["n"], "n"),
        make_node("Unsqueeze", ["n", "first"], ["times"], "times"),
        make_node("Concat", ["times", "first_one"], ["to"], "to", axis=0),
        make_node("Tile", ["m", "to"], ["y"], "tile"),
    ]
    constants = {"zero": np.array(0), "first": np.array([0]), "first_one": np.array([1])}
    return model(nodes, [IMAGE], [("y", FLOAT, ["k", 6]), ("r1", FLOAT, ["n", 16, 8, 8])], {**WEIGHTS, **constants})


FILES = {
    "recurrent": (recurrent, {"x": (3, 8, 8), "h": (1, 1, 5), "c": (1, 1, 5)}),
    "detector": (detector, {"x": (3, 8, 8)}),
    "looped": (looped, {"x": (3, 8, 8)}),
    "prepared": (prepared, {"pixels": (8, 8, 3)}),
    "sequences": (sequences, {"x": (7, 1, 8)}),
    "shaped": (shaped, {"x": (3, 8, 8)}),
}


def run(made: onnx.ModelProto | Path, feeds: dict[str, Any]) -> dict[str, Any]:
    given = str(made) if isinstance(made, Path) else made.SerializeToString()
    session = onnxruntime.InferenceSession(given, providers=["CPUExecutionProvider"])
    return dict(zip([each.name for each in session.get_outputs()], session.run(None, feeds), strict=True))


def cut(path: Path, made: onnx.ModelProto, name: str, **more: Any) -> tuple[from_onnx.Name, Parts]:
    onnx.save(made, path)
    found = from_onnx.Name(path, shapes=FILES[name][1], **more)
    return found, from_onnx.parts(found)


@pytest.mark.parametrize("name", FILES)
def test_parts_answer_together_as_the_file(tmp_path: Path, name: str) -> None:
    make, shapes = FILES[name]
    path = tmp_path / "net.onnx"
    source, parts = cut(path, make(), name)
    assert parts.is_cut
    network = from_onnx.module(source)
    assert any(isinstance(each, torch.nn.Conv2d | torch.nn.Linear) for each in network.modules())
    whole = spliced(parts, parts.network, reading.as_written(path), {}, {})
    onnx.checker.check_model(whole)
    file = onnx.load(path)
    assert [each.name for each in whole.graph.input] == [each.name for each in file.graph.input]
    assert [each.name for each in whole.graph.output] == [each.name for each in file.graph.output]
    assert [(each.key, each.value) for each in whole.metadata_props] == [("classes", "cat,dog")]
    batched = reading.samples(file)
    for n in (1,) if name == "detector" else (1, 3):
        feeds = {
            key: DRAW.normal(
                size=(n, *shape)
                if key in batched
                else tuple(n if size == 1 and i else size for i, size in enumerate(shape))
            ).astype(np.float32)
            for key, shape in shapes.items()
        }
        wanted, found = run(path, feeds), run(whole, feeds)
        assert all(np.allclose(wanted[key], found[key], atol=1e-5) for key in wanted)


def test_network_is_the_largest_part_and_the_rest_is_named(tmp_path: Path) -> None:
    _, parts = cut(tmp_path / "net.onnx", recurrent(), "recurrent")
    assert list(parts.kept) == ["lstm (LSTM)"] and parts.kept["lstm (LSTM)"] == "torch does not hold it"
    assert {node.name for node in parts.network.graph.node} >= {"conv1", "conv2"}
    assert "head" not in {node.name for node in parts.network.graph.node}
    _, parts = cut(tmp_path / "net.onnx", detector(), "detector")
    assert list(parts.kept) == ["nms (NonMaxSuppression)"]
    assert {each.name for each in parts.network.graph.output} == {"boxes", "scores"}


def test_excluded_nodes_behind_stay_as_they_are(tmp_path: Path) -> None:
    _, parts = cut(tmp_path / "net.onnx", shaped(), "shaped", exclude=("conv2",))
    assert parts.kept["conv2 (Conv)"] == "excluded by 'conv2'"
    assert {node.name for node in parts.network.graph.node if node.op_type == "Conv"} == {"conv1"}


def test_excluded_layer_between_others_stays_in_float_in_the_network(tmp_path: Path) -> None:
    nodes = [*CONVS, make_node("Conv", ["c2", "w3"], ["y"], "conv3")]
    path, x = tmp_path / "net.onnx", torch.rand(2, 3, 8, 8)
    onnx.save(model(nodes, [IMAGE], [("y", FLOAT, None)], {**WEIGHTS, "w3": weights(5, 6, 1, 1)}), path)
    source = from_onnx.Name(path, exclude=("conv2",))
    parts = from_onnx.parts(source)
    assert parts.left == {"conv2"} and parts.kept == {"conv2 (Conv)": "excluded by 'conv2'"} and not parts.is_cut
    network = from_onnx.module(source)
    assert [each.out_channels for each in network.modules() if isinstance(each, torch.nn.Conv2d)] == [16, 5]
    with torch.no_grad():
        assert np.allclose(run(path, {"x": x.numpy()})["y"], network(x).numpy(), atol=1e-5)


def test_pattern_that_names_no_node_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has no node 'head/\*' to exclude; its last ones: .*tile"):
        cut(tmp_path / "net.onnx", shaped(), "shaped", exclude=("head/*",))


def test_file_with_nothing_to_make_faster_is_one_line(tmp_path: Path) -> None:
    nodes = [
        make_node("Unsqueeze", ["x", "zero"], ["s"]),
        make_node("LSTM", ["s", "W", "R"], ["y"], "lstm", hidden_size=5),
    ]
    made = model(
        nodes,
        [("x", FLOAT, ["n", 8])],
        [("y", FLOAT, None)],
        {"W": weights(1, 20, 8), "R": weights(1, 20, 5), "zero": np.array([0])},
    )
    onnx.save(made, tmp_path / "net.onnx")
    with pytest.raises(UsageError, match=r"nothing that can be made faster.*lstm \(LSTM\)") as caught:
        from_onnx.parts(from_onnx.Name(tmp_path / "net.onnx"))
    assert "\n" not in str(caught.value)


def switched() -> onnx.ModelProto:
    """Return a network whose input `rate` decides which of two convolutions runs."""
    one, two = (
        branch([make_node("Conv", ["x", name], ["c"], f"conv_{name}", pads=[1, 1, 1, 1])], [("c", FLOAT, None)])
        for name in ("w1", "w3")
    )
    nodes = [
        make_node("Equal", ["rate", "rate_1"], ["is_one"], "is_one"),
        make_node("If", ["is_one"], ["c"], "if", then_branch=one, else_branch=two),
        make_node("Relu", ["c"], ["y"], "relu"),
    ]
    constants = {"w1": WEIGHTS["w1"], "w3": weights(16, 3, 3, 3), "rate_1": np.array(16)}
    return model(nodes, [IMAGE, ("rate", INT64, [])], [("y", FLOAT, ["n", 16, 8, 8])], constants)


def test_condition_that_a_fixed_input_decides_is_folded_and_other_values_run_as_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(switched(), path)
    with pytest.raises(UsageError, match="--fix INPUT=VALUE"):
        from_onnx.parts(from_onnx.Name(path, shapes={"x": (3, 8, 8), "rate": ()}))
    name = from_onnx.Name(path, fixed={"rate": np.array(16)}, shapes={"x": (3, 8, 8)})
    parts = from_onnx.parts(name)
    assert [node.op_type for node in parts.network.graph.node] == ["Conv", "Relu"]
    whole = spliced(parts, parts.network, reading.as_written(path), name.fixed, {"x": {2: 8, 3: 8}})
    onnx.checker.check_model(whole)
    for rate in (16, 8):
        feeds = {"x": DRAW.normal(size=(2, 3, 8, 8)).astype(np.float32), "rate": np.array(rate)}
        assert np.allclose(run(path, feeds)["y"], run(whole, feeds)["y"], atol=1e-5)


@pytest.mark.parametrize(
    "text",
    [
        "net.onnx",
        "net.onnx?exclude=/head/*&exclude=a%26b&fix=sr:16000&shape=x:3x8x8",
        "a/net.onnx?fix=size:1.5,2.0@1x2",
    ],
)
def test_name_is_read_as_it_is_written(text: str) -> None:
    assert str(from_onnx.parsed(text)) == text


@pytest.mark.parametrize("text", ["net.onnx?head", "net.onnx?fix=sr", "net.onnx?fix=sr:fast", "net.onnx?shape=x:3xy"])
def test_name_that_is_not_understood_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not understood; known: exclude=NODE"):
        from_onnx.parsed(text)


def test_convolutions_of_signals_are_layers_and_answer_alike(tmp_path: Path) -> None:
    nodes = [
        make_node("Conv", ["x", "a"], ["c"], "one", strides=[2], pads=[1, 2]),
        make_node("Relu", ["c"], ["r"], "relu"),
        make_node("Conv", ["r", "b"], ["d"], "two", group=2, dilations=[2]),
        make_node("Add", ["d", "half"], ["s"], "shift"),
        make_node("Conv", ["s", "e"], ["y"], "three", auto_pad="SAME_UPPER"),
    ]
    constants = {"a": weights(8, 2, 3), "b": weights(8, 4, 3), "e": weights(4, 8, 3), "half": np.float32(0.5)}
    made = model(nodes, [("x", FLOAT, ["n", 2, 32])], [("y", FLOAT, None), ("r", FLOAT, None)], constants)
    path = tmp_path / "net.onnx"
    onnx.save(made, path)
    network = from_onnx.module(path)
    assert sum(isinstance(each, torch.nn.Conv2d) for each in network.modules()) == 3
    x = torch.rand(3, 2, 32)
    with torch.no_grad():
        found = network(x)
    wanted = run(path, {"x": x.numpy()})
    assert all(np.allclose(wanted[key], found[key].numpy(), atol=1e-5) for key in ("y", "r"))
    relu = next(node for node in from_onnx.parts(from_onnx.Name(path)).network.graph.node if node.op_type == "Relu")
    assert relu.input[0].endswith("/answer"), "nothing stands between a convolution and its activation"


@pytest.mark.parametrize(
    ("value", "opset", "said"),
    [
        (helper.make_tensor_value_info("x", TensorProto.STRING, ["n"]), 17, "input 'x' is of type string"),
        (helper.make_tensor_sequence_value_info("x", FLOAT, None), 17, "input 'x' is of type sequence_type"),
        (helper.make_tensor_value_info("x", FLOAT, ["n"]), 999, "written in opset 999, and the newest that is read"),
    ],
)
def test_file_of_another_kind_is_one_line(tmp_path: Path, value: onnx.ValueInfoProto, opset: int, said: str) -> None:
    made = helper.make_graph([make_node("Identity", ["x"], ["y"])], "g", [value], [value])
    made.output[0].name = "y"
    path = tmp_path / "net.onnx"
    path.write_bytes(
        helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8).SerializeToString()
    )
    with pytest.raises(UsageError, match=said) as caught:
        from_onnx.parts(from_onnx.Name(path))
    assert "\n" not in str(caught.value)


def test_nodes_in_any_order_are_read(tmp_path: Path) -> None:
    made = shaped()
    nodes = list(made.graph.node)[::-1]
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    path = tmp_path / "net.onnx"
    path.write_bytes(made.SerializeToString())
    assert from_onnx.parts(from_onnx.Name(path, shapes={"x": (3, 8, 8)})).is_cut
