"""Measured precision carried over: by name, else by kind; what does not fit is refused in one line."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from small_networks import Attention, Depthwise, Plain, Residual, network

from nacdeploy.base import records
from nacdeploy.base.errors import UsageError
from nacdeploy.base.latency import Ratio
from nacdeploy.base.precision import Precision
from nacdeploy.exporters import carry, speed_guard
from nacdeploy.exporters.tune import Held, Precisions, member_kinds
from nacdeploy.network.attachments.fake_quant import Rule


def measured(**layers: tuple[str, Held]) -> Precisions:
    """Precisions of named layers, each with its kind."""
    held = {name: precision for name, (_, precision) in layers.items()}
    kinds = {name: kind for name, (kind, _) in layers.items()}
    return Precisions("ort", "this machine", held, kinds, Ratio(1.5, 1.4, 1.6), 7)


def test_members_of_a_network_that_is_not_quantized_are_those_that_could_be() -> None:
    made = network(Attention())
    found = member_kinds(made)
    assert found["patches"] == "conv"
    assert found["query"] == "linear"
    assert found["matmul"] == found["matmul_1"] == "product"
    made.quantize(Rule(Precision(8, 8)))
    assert member_kinds(made) == found


def test_layers_of_the_same_name_and_kind_have_the_precision_that_was_measured() -> None:
    precisions = measured(conv1=("conv", "float"), conv2=("conv", "int8"), classifier=("linear", "int8"))
    found = carry.carried(precisions, network(Residual()))
    assert found.floats == ("conv1",)
    assert (found.n_by_name, found.n_by_kind, found.n_unknown) == (3, 1, 0)


def test_other_layers_have_the_precision_of_most_of_their_kind() -> None:
    precisions = measured(
        a=("depthwise", "float"),
        b=("depthwise", "float"),
        c=("depthwise", "int8"),
        d=("conv", "int8"),
        e=("conv", "float"),
    )
    found = carry.carried(precisions, network(Depthwise()))
    assert found.floats == ("depthwise",)
    assert (found.n_by_name, found.n_by_kind, found.n_unknown) == (0, 2, 2)
    assert "0 layers by name, 2 by kind, 2 of kinds that were not measured as asked; in float: depthwise" in str(found)


def test_layer_of_the_same_name_and_another_kind_goes_by_its_kind() -> None:
    precisions = measured(depthwise=("conv", "int8"), other=("depthwise", "float"))
    assert carry.carried(precisions, network(Depthwise())).floats == ("depthwise",)


def test_networks_without_a_kind_in_common_are_refused() -> None:
    with pytest.raises(
        UsageError, match="the precision of product layers was measured, and this network has conv, linear"
    ):
        carry.carried(measured(matmul=("product", "float")), network(Plain()))


def test_taken_precision_puts_layers_in_float_and_times_nothing() -> None:
    made = network(Residual())
    made.quantize(Rule(Precision(8, 8)))
    found = speed_guard.taken(made, measured(conv1=("conv", "float"), x=("linear", "int8")))
    assert found.floats == {"stem.0", "conv1", "conv2"}
    assert set(found.network.plan.weight_bits) == {"classifier"}
    assert found.precisions is None
    assert set(made.plan.weight_bits) == {"stem.0", "conv1", "conv2", "classifier"}


def test_taken_precision_of_an_fp32_network_is_refused() -> None:
    with pytest.raises(UsageError, match="the checkpoint is in FP32"):
        speed_guard.taken(network(Residual()), measured(conv1=("conv", "float")))


def test_precisions_are_read_from_their_file(tmp_path: Path) -> None:
    precisions = measured(conv1=("conv", "float"))
    records.write_json(tmp_path / "precision.json", precisions)
    assert carry.read(tmp_path / "precision.json") == precisions


@pytest.mark.parametrize("change", [{"layers": {"conv1": "int4"}}, {"kinds": {}}, {"speed": None}])
def test_file_of_another_form_is_refused_in_one_line(change: dict[str, object], tmp_path: Path) -> None:
    data = records.to_data(measured(conv1=("conv", "float")))
    (tmp_path / "precision.json").write_text(json.dumps({**data, **change}))
    with pytest.raises(UsageError, match=r"^[^\n]*precision.json [^\n]+$"):
        carry.read(tmp_path / "precision.json")


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"other.json does not exist"):
        carry.read(tmp_path / "other.json")


def test_majority_holds_for_integers_where_as_many_are_float() -> None:
    precisions = measured(a=("linear", "int8"), b=("linear", "float"))
    assert carry.carried(precisions, network(Plain())).floats == ()
    assert carry.carried(replace(precisions, layers={"a": "float", "b": "float"}), network(Plain())).floats == ("8",)
