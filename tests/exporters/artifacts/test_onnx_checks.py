"""What the graph holds is read from the graph, on graphs of every kind that exporters write."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from nacdeploy.base.errors import NacdeployError, UsageError
from nacdeploy.exporters.artifacts.onnx_checks import (
    Held,
    Wish,
    agreement,
    held_precision,
    lowering_rows,
    n_bits_used,
    parity,
    snr_db,
    unsigned_nodes,
)
from nacdeploy.metrics import ACCURACY


def tensor(name: str, values: object, dtype: type) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, dtype), name)


def linear_model(
    *,
    quantised_data: bool = True,
    weight_type: type = np.int8,
    through: tuple[str, ...] = (),
    values: int = 127,
    data_type: type = np.int8,
    float_type: type = np.float32,
) -> onnx.ModelProto:
    """One matrix multiplication; `through` are layout nodes between the weight and its use."""
    weight_name = "fc.weight_q" if np.issubdtype(weight_type, np.integer) else "fc.weight"
    tensors = [
        tensor(weight_name, np.full((4, 4), values), weight_type),
        tensor("scale", 0.1, float_type),
        tensor("zero", 0, data_type),
        tensor("weight_zero", 0, np.int8 if weight_name == "fc.weight" else weight_type),
    ]
    nodes, data, weight = [], "x", weight_name
    if quantised_data:
        nodes.append(helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["x_q"], name="quantise"))
        nodes.append(helper.make_node("DequantizeLinear", ["x_q", "scale", "zero"], ["x_dq"], name="dequantise"))
        data = "x_dq"
    if weight_name.endswith("_q"):
        nodes.append(helper.make_node("DequantizeLinear", [weight, "scale", "weight_zero"], ["w_dq"], name="weight_dq"))
        weight = "w_dq"
    for index, operator in enumerate(through):
        nodes.append(helper.make_node(operator, [weight], [f"w_{index}"], name=f"layout_{index}"))
        weight = f"w_{index}"
    nodes.append(helper.make_node("MatMul", [data, weight], ["y"], name="multiply"))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def held(model: onnx.ModelProto, weight: str = "fc.weight_q") -> Held:
    return held_precision(model, {"fc": weight})["fc"]


@pytest.mark.parametrize("through", [(), ("Transpose",), ("Transpose", "Identity")])
@pytest.mark.parametrize("data_type", [np.int8, np.uint8])
def test_held_precision_is_int8_when_both_sides_are_dequantised(through: tuple[str, ...], data_type: type) -> None:
    assert held(linear_model(through=through, data_type=data_type)) == Held("int8", "", "multiply", 8)


@pytest.mark.parametrize(
    ("model", "weight", "expected"),
    [
        (linear_model(quantised_data=False), "fc.weight_q", ("float32", "activation input is not quantised")),
        (linear_model(weight_type=np.float32), "fc.weight", ("float32", "weight is float")),
        (linear_model(weight_type=np.float16), "fc.weight", ("float16", "weight is float")),
        (
            linear_model(quantised_data=False, float_type=np.float16),
            "fc.weight_q",
            ("float16", "activation input is not quantised"),
        ),
        (linear_model(weight_type=np.uint8), "fc.weight_q", ("float32", "weight is uint8, not int8")),
        (linear_model(), "another.weight", ("absent", "no node uses this weight")),
    ],
)
def test_held_precision_says_why_a_layer_is_not_int8(
    model: onnx.ModelProto, weight: str, expected: tuple[str, str]
) -> None:
    found = held(model, weight)
    assert (found.precision, found.reason) == expected


def test_held_precision_finds_a_renamed_weight_by_module_path() -> None:
    model = linear_model(weight_type=np.float32)
    scopes = model.graph.node[-1].metadata_props.add()
    scopes.key, scopes.value = "pkg.torch.onnx.name_scopes", "['', 'body', 'body.0', 'linear']"
    found = held_precision(model, {"body.0": "body.0.weight", "body.1": "body.1.weight"})
    assert (found["body.0"].precision, found["body.0"].node) == ("float32", "multiply")
    assert found["body.1"].precision == "absent"


def test_held_precision_reads_the_weight_on_either_side() -> None:
    model = linear_model()
    multiply = model.graph.node[-1]
    multiply.input[0], multiply.input[1] = multiply.input[1], multiply.input[0]
    assert held(model).precision == "int8"


def test_held_precision_is_that_of_the_worst_use_when_a_weight_is_shared() -> None:
    model = linear_model()
    model.graph.node.append(helper.make_node("MatMul", ["x", "w_dq"], ["z"], name="again"))
    assert held(model) == Held("float32", "activation input is not quantised", "again", 8)


def test_held_precision_looks_into_branches_and_constants() -> None:
    model = linear_model()
    weight = next(t for t in model.graph.initializer if t.name == "fc.weight_q")
    model.graph.node.insert(0, helper.make_node("Constant", [], ["fc.weight_q"], value=weight))
    model.graph.initializer.remove(weight)
    multiply = model.graph.node.pop()
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])
    branch = helper.make_graph([multiply], "branch", [], [output])
    other = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "other", [], [output])
    model.graph.node.append(helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=other))
    assert held(model) == Held("int8", "", "multiply", 8)


@pytest.mark.parametrize(
    ("precision", "model", "expected"),
    [
        ("w8a8", linear_model(), ("int8", "")),
        ("w4a8", linear_model(values=7), ("int8", "values fit 4 bits")),
        ("w4a8", linear_model(values=8), ("int8", "values need 5 bits")),
        ("w8a8", linear_model(quantised_data=False), ("float32", "activation input is not quantised")),
        ("w32a32", linear_model(weight_type=np.float32), ("float32", "")),
        ("w32a32", linear_model(weight_type=np.float16), ("float16", "the float rest is FP16")),
        ("w32a32", linear_model(), ("int8", "the graph is quantised here")),
    ],
)
def test_lowering_rows_say_why_held_differs_from_asked(
    precision: str, model: onnx.ModelProto, expected: tuple[str, str]
) -> None:
    weight = next(t.name for t in model.graph.initializer if t.name.startswith("fc."))
    (row,) = lowering_rows(model, {"fc": Wish("linear", precision, weight)})
    assert (row.layer, row.kind, row.asked, row.node) == ("fc", "linear", precision, "multiply")
    assert (row.held, row.reason) == expected


def test_unsigned_nodes_names_explicit_and_implied_uint8() -> None:
    assert unsigned_nodes(linear_model()) == []
    assert unsigned_nodes(linear_model(data_type=np.uint8)) == ["quantise", "dequantise"]
    implied = linear_model()
    del implied.graph.node[0].input[2], implied.graph.node[1].input[2]
    assert unsigned_nodes(implied) == ["quantise", "dequantise"]


@pytest.mark.parametrize(
    ("values", "n_bits"),
    [([0], 1), ([1], 2), ([-1, 0], 1), ([7, -7], 4), ([-8], 4), ([8], 5), ([127], 8), ([-128], 8), ([], 1)],
)
def test_n_bits_used_is_the_smallest_signed_width(values: list[int], n_bits: int) -> None:
    assert n_bits_used(tensor("w", values, np.int8)) == n_bits


def test_snr_db_follows_its_definition() -> None:
    assert snr_db(np.array([10.0, 0.0]), np.array([9.0, 0.0])) == pytest.approx(20.0)
    assert snr_db(np.ones(3), np.ones(3)) == np.inf


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_snr_db_passes_no_threshold_when_a_value_is_not_finite(bad: float) -> None:
    assert snr_db(np.array([1.0, bad]), np.array([1.0, bad])) == -np.inf
    assert snr_db(np.array([1.0, 2.0]), np.array([1.0, bad])) == -np.inf
    assert snr_db(np.zeros(2), np.ones(2)) == -np.inf


def test_agreement_is_the_fraction_of_equal_answers() -> None:
    reference = np.eye(4)
    assert agreement(reference, reference * 3, ACCURACY) == 1.0
    assert agreement(reference, np.eye(4)[[0, 1, 3, 2]], ACCURACY) == 0.5
    assert agreement(reference, np.where(np.arange(4)[:, None] == 0, np.nan, reference), ACCURACY) == 0.75


def test_agreement_refuses_other_shapes() -> None:
    with pytest.raises(UsageError, match="shapes"):
        agreement(np.eye(3), np.eye(4), ACCURACY)


def test_parity_records_equal_outputs_as_no_ratio() -> None:
    reference = np.eye(4)
    assert parity(reference, reference, "all", ACCURACY).snr_db is None
    found = parity(reference, reference * 1.1, "basic", ACCURACY)
    assert (found.n_images, found.agreement, found.optimization) == (4, 1.0, "basic")
    assert found.snr_db == pytest.approx(20.0)


def test_parity_refuses_outputs_that_are_not_finite() -> None:
    with pytest.raises(NacdeployError, match="not a finite number"):
        parity(np.eye(4), np.full((4, 4), np.nan), "all", ACCURACY)
