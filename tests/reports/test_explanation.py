"""Rows and totals from facts made up here."""

import pytest

from nacdeploy.base.precision import Precision
from nacdeploy.exporters.artifacts.artifact import Lowering
from nacdeploy.exporters.artifacts.onnx_layers import BETWEEN, OnnxLayer
from nacdeploy.exporters.targets.ort.layer_facts import LayerFacts
from nacdeploy.network.attachments.fake_quant import Rule
from nacdeploy.reports import explanation
from nacdeploy.reports.explanation import LayerReasons

NAMES = ("fast", "slow", "stem", "product")
MULTIPLES = {"int8": 4, "float": 16}


@pytest.fixture
def facts() -> dict[str, LayerFacts]:
    found = (
        LayerFacts("fast", "int8", ("QLinearConv",), 0.050, 0.0, 0.150, 3.0),
        LayerFacts("slow", "int8", ("QLinearConv",), 0.010, 0.0, 0.009, 0.9),
        LayerFacts("stem", "float32", ("Conv",), 0.020, 0.0, 0.020, 1.0),
        LayerFacts("product", "float32", ("MatMul",), 0.005, 0.0, 0.005, 1.0),
        LayerFacts(BETWEEN, "", (), 0.015, 0.0, 0.015, 1.0, apart=("Add",)),
    )
    return {f.layer: f for f in found}


@pytest.fixture
def rows(facts: dict[str, LayerFacts]) -> tuple[LayerReasons, ...]:
    layers = (
        OnnxLayer("fast", "conv", ("n1",), 600, 32, 36, 0.5, True, "int8"),
        OnnxLayer("slow", "conv", ("n2",), 300, 32, 32, 0.0, False, "int8"),
        OnnxLayer("stem", "conv", ("n3",), 80, 3, 36, 0.0, False, "float32"),
        OnnxLayer("product", "product", ("n4",), 20, None, None, None, False, "float32"),
    )
    lowering = [
        Lowering("fast", "conv", "w8a8", "int8", "", "n1"),
        Lowering("slow", "conv", "w8a8", "int8", "", "n2"),
        Lowering("stem", "conv", "w32a32", "float32", "", "n3"),
    ]
    rule = Rule(Precision(8, 8), min_channels=16)
    return explanation.make_rows(layers, lowering, facts, rule, MULTIPLES, {"n1": "int8", "n2": "float16"})


def test_rows_stand_worst_first(rows: tuple[LayerReasons, ...]) -> None:
    assert [row.layer for row in rows] == ["stem", "slow", "product", "fast"]


def test_shares_of_time_and_macs_add_up_to_one(rows: tuple[LayerReasons, ...], facts: dict[str, LayerFacts]) -> None:
    between = explanation.between_fraction(facts)
    assert between == pytest.approx(0.15)
    assert sum(row.time_fraction for row in rows) + between == pytest.approx(1.0)
    assert sum(row.macs_fraction for row in rows) == pytest.approx(1.0)


def test_rows_align_by_the_multiple_of_what_they_hold(rows: tuple[LayerReasons, ...]) -> None:
    found = {row.layer: (row.alignment.multiple, row.alignment.wasted_fraction) for row in rows}
    assert found["fast"] == (4, 0.0)
    assert found["stem"] == (16, pytest.approx(1 - 36 / 48))


def test_rows_name_the_engines_type_where_it_is_known(rows: tuple[LayerReasons, ...]) -> None:
    assert {row.layer: row.engine for row in rows} == {"fast": "int8", "slow": "float16", "stem": "", "product": ""}


def test_top_reasons_are_those_of_the_time_without_gain(rows: tuple[LayerReasons, ...]) -> None:
    assert explanation.top_reasons(rows, 0.15) == (
        ("float: fewer than 16 channels", pytest.approx(0.2)),
        ("between layers", pytest.approx(0.15)),
        ("INT8, but its kernel is no faster", pytest.approx(0.1)),
    )


def test_layer_whose_weight_was_renamed_is_explained_as_what_it_is(facts: dict[str, LayerFacts]) -> None:
    layers = (OnnxLayer("stem", "linear", ("n3",), 80, 32, 32, 0.0, False, "float32"),)
    lowering = [Lowering("stem", "linear", "w32a32", "absent", "no node uses this weight", "")]
    rule = Rule(Precision(8, 8), exclude=("stem",))
    (row,) = explanation.make_rows(layers, lowering, facts, rule, MULTIPLES, {})
    assert (row.in_file, row.reason.text) == ("float32", "float: excluded (quantize.exclude, min_snr_db or max_drop)")


@pytest.mark.parametrize(("on_gpu", "n_picked"), [(False, 0), (True, None)])
def test_sparsity_says_what_is_known_of_the_kernels(on_gpu: bool, n_picked: int | None) -> None:
    layers = [OnnxLayer("a", "conv", ("n",), 1, 4, 4, 0.5, True, "int8")]
    found = explanation.sparsity(layers, on_gpu=on_gpu)
    assert (found.n_eligible, found.n_picked, found.n_gained) == (1, n_picked, n_picked)
    assert "sparse kernels" in found.note or "not verifiable here" in found.note
