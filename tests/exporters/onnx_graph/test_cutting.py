"""Cuts of graphs at their exits: which tensor goes on, and where none does."""

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from nacdeploy.cascades.cascade import Cascade, gated
from nacdeploy.cascades.confidence import RULES
from nacdeploy.exporters.onnx_graph.cutting import NoCutError, Segmented, segmented
from nacdeploy.exporters.onnx_graph.nested_if import nested, with_thresholds
from nacdeploy.exporters.targets.ort.runner import OnnxRunner

N = helper.make_node
DRAW = np.random.default_rng(0)
MATRICES = {f"w{i}": DRAW.normal(0, 0.7, (6, 6)).astype(np.float32) for i in range(6)}
GRID = {"scale": np.float32(0.05), "zero": np.uint8(3)}


def a_graph(nodes: list[onnx.NodeProto], outputs: tuple[str, ...]) -> onnx.ModelProto:
    """A checked model of nodes over `x` (batch, 6), the matrices w0 to w5, and a grid of 8 bits."""
    values = {**MATRICES, **GRID, "shape": np.array([6], dtype=np.int64)}
    used = {name for node in nodes for name in node.input}
    constants = [numpy_helper.from_array(np.asarray(v), k) for k, v in values.items() if k in used]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 6]) for name in outputs]
    start = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 6])]
    graph = helper.make_graph(nodes, "g", start, ends, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return model


def images(n: int = 40) -> NDArray[Any]:
    return np.random.default_rng(1).normal(size=(n, 6)).astype(np.float32)


def assert_chain_is_whole(model: onnx.ModelProto, parts: Segmented) -> None:
    """The chain of segments answers bit for bit as the graph, and so does the single file, image by image."""
    whole = OnnxRunner(model.SerializeToString())
    answers = dict(zip(whole.output_names, whole.run(images()), strict=True))
    outputs = [answers[name] for name in (*parts.exits, *parts.ends)]
    chain = Cascade([OnnxRunner(each).run for each in parts.models], [0.5] * len(parts.exits), RULES["softmax"])
    for one, other in zip(chain.every(images()), outputs, strict=True):
        assert np.array_equal(one, other)
    thresholds = [float(np.median(RULES["softmax"](each))) + 1e-5 for each in outputs[:-1]]
    expected = gated(outputs, thresholds, RULES["softmax"])
    assert len(set(expected.exits.tolist())) == len(outputs)
    single = OnnxRunner(with_thresholds(nested(parts, [0.1] * len(thresholds), "softmax"), thresholds))
    for place in range(len(images())):
        answer, taken = single.run(images()[place : place + 1])
        assert taken == expected.exits[place]
        assert np.array_equal(answer[0], expected.outputs[place])


def a_chain(*, end: str = "c") -> list[onnx.NodeProto]:
    """x -> a -> b -> c with exits behind a and b."""
    return [
        N("MatMul", ["x", "w0"], ["a"], "layer_a"),
        N("Relu", ["a"], ["a_"]),
        N("MatMul", ["a_", "w1"], ["b"], "layer_b"),
        N("Relu", ["b"], ["b_"]),
        N("MatMul", ["b_", "w2"], [end], "layer_c"),
        N("MatMul", ["a_", "w3"], ["exit_1"], "head_1"),
        N("MatMul", ["b_", "w4"], ["exit_2"], "head_2"),
    ]


def test_chain_is_cut_at_the_tensors_that_exits_read() -> None:
    model = a_graph(a_chain(), ("c", "exit_1", "exit_2"))
    parts = segmented(model, ["exit_1", "exit_2"], ["c"])
    assert [cut.tensor for cut in parts.cuts] == ["a_", "b_"]
    assert [(cut.dtype, cut.shape, cut.scale) for cut in parts.cuts] == [("float32", (6,), None)] * 2
    assert_chain_is_whole(model, parts)


def test_weights_lie_in_one_segment_each() -> None:
    parts = segmented(a_graph(a_chain(), ("c", "exit_1", "exit_2")), ["exit_1", "exit_2"], ["c"])
    held = [{t.name for t in onnx.load_model_from_string(each).graph.initializer} for each in parts.models]
    assert held == [{"w0", "w3"}, {"w1", "w4"}, {"w2"}]


@pytest.mark.parametrize("head_reads", ["a_", "a8"])
def test_cut_is_the_8_bit_tensor_where_there_is_a_pair(head_reads: str) -> None:
    nodes = [
        N("MatMul", ["x", "w0"], ["a"], "layer_a"),
        N("Relu", ["a"], ["a_"]),
        N("QuantizeLinear", ["a_", "scale", "zero"], ["a_q"]),
        N("DequantizeLinear", ["a_q", "scale", "zero"], ["a8"]),
        N("MatMul", ["a8", "w1"], ["b"], "layer_b"),
        N("Add", ["b", "a8"], ["c"]),
        N("MatMul", [head_reads, "w3"], ["exit_1"], "head_1"),
    ]
    model = a_graph(nodes, ("c", "exit_1"))
    parts = segmented(model, ["exit_1"], ["c"])
    (cut,) = parts.cuts
    assert (cut.tensor, cut.dtype, cut.zero_point) == ("a_q", "uint8", 3)
    assert cut.scale == pytest.approx(0.05)
    first, second = (onnx.load_model_from_string(each).graph for each in parts.models)
    assert first.output[1].type.tensor_type.elem_type == second.input[0].type.tensor_type.elem_type == TensorProto.UINT8
    assert second.node[0].op_type == "DequantizeLinear"
    assert_chain_is_whole(model, parts)


def test_float_goes_on_where_a_connection_reads_it_beside_the_pair() -> None:
    nodes = [
        N("MatMul", ["x", "w0"], ["a"], "layer_a"),
        N("QuantizeLinear", ["a", "scale", "zero"], ["a_q"]),
        N("DequantizeLinear", ["a_q", "scale", "zero"], ["a8"]),
        N("MatMul", ["a8", "w1"], ["b"], "layer_b"),
        N("Add", ["b", "a"], ["c"]),
        N("MatMul", ["a", "w3"], ["exit_1"], "head_1"),
    ]
    parts = segmented(model := a_graph(nodes, ("c", "exit_1")), ["exit_1"], ["c"])
    assert [cut.tensor for cut in parts.cuts] == ["a"]
    assert_chain_is_whole(model, parts)


def test_connection_around_an_exit_is_refused_by_the_layer_that_would_run_twice() -> None:
    nodes = [
        N("MatMul", ["x", "w0"], ["a"], "layer_a"),
        N("MatMul", ["a", "w1"], ["b"], "layer_b"),
        N("MatMul", ["b", "w3"], ["exit_1"], "head_1"),
        N("MatMul", ["b", "w2"], ["c"], "layer_c"),
        N("Add", ["a", "c"], ["d"]),
    ]
    with pytest.raises(NoCutError, match=r"alive behind 'exit_1' \(a connection leads around it\): 'layer_b'"):
        segmented(a_graph(nodes, ("d", "exit_1")), ["exit_1"], ["d"])


def test_connection_from_the_images_leaves_no_cut() -> None:
    nodes = [
        N("MatMul", ["x", "w0"], ["a"], "layer_a"),
        N("MatMul", ["a", "w3"], ["exit_1"], "head_1"),
        N("MatMul", ["a", "w1"], ["b"], "layer_b"),
        N("Add", ["b", "x"], ["c"]),
    ]
    with pytest.raises(NoCutError, match="no tensor behind 'exit_1'"):
        segmented(a_graph(nodes, ("c", "exit_1")), ["exit_1"], ["c"])


def test_connection_inside_a_segment_stays_there() -> None:
    nodes = [
        N("MatMul", ["x", "w0"], ["a"], "layer_a"),
        N("MatMul", ["a", "w1"], ["b"], "layer_b"),
        N("Add", ["a", "b"], ["s"]),
        N("MatMul", ["s", "w3"], ["exit_1"], "head_1"),
        N("MatMul", ["s", "w2"], ["c"], "layer_c"),
        N("Add", ["s", "c"], ["d"]),
    ]
    parts = segmented(model := a_graph(nodes, ("d", "exit_1")), ["exit_1"], ["d"])
    assert [cut.tensor for cut in parts.cuts] == ["s"]
    assert_chain_is_whole(model, parts)


def test_who_counts_the_batch_counts_it_at_the_cut() -> None:
    nodes = [
        N("MatMul", ["x", "w0"], ["a"], "layer_a"),
        N("MatMul", ["a", "w3"], ["exit_1"], "head_1"),
        N("MatMul", ["a", "w1"], ["b"], "layer_b"),
        N("Shape", ["x"], ["n"], start=0, end=1),
        N("Concat", ["n", "shape"], ["sizes"], axis=0),
        N("Reshape", ["b", "sizes"], ["c"]),
    ]
    parts = segmented(model := a_graph(nodes, ("c", "exit_1")), ["exit_1"], ["c"])
    assert [cut.tensor for cut in parts.cuts] == ["a"]
    assert_chain_is_whole(model, parts)


@pytest.mark.parametrize("rule", RULES)
def test_single_file_leaves_by_every_rule_as_the_gate_does(rule: str) -> None:
    model = a_graph(a_chain(), ("c", "exit_1", "exit_2"))
    parts = segmented(model, ["exit_1", "exit_2"], ["c"])
    outputs = Cascade([OnnxRunner(each).run for each in parts.models], [0.5, 0.5], RULES[rule]).every(images())
    thresholds = [float(np.median(RULES[rule](each))) + 1e-5 for each in outputs[:-1]]
    expected = gated(outputs, thresholds, RULES[rule])
    single = OnnxRunner(nested(parts, thresholds, rule))
    taken = [int(single.run(images()[i : i + 1])[1]) for i in range(len(images()))]
    assert set(taken) == {0, 1, 2} and taken == expected.exits.tolist()
