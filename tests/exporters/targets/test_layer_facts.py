"""Facts of a layer: what multiplies for it, what converts around it, what was fused into its kernel."""

import pytest
from explained import IMAGES, Attention, exported, layers_of
from small_networks import Plain, Residual

from nacdeploy.exporters.artifacts.float_twin import float_twin
from nacdeploy.exporters.artifacts.onnx_layers import BETWEEN
from nacdeploy.exporters.targets.ort.layer_facts import LayerFacts, from_onnx_runtime, held_by
from nacdeploy.exporters.targets.ort.profiling import profile


def facts_of(backbone: type, target: str = "ort", *, quantized: bool = True) -> dict[str, LayerFacts]:
    _, model, rows = exported(backbone, target, quantized=quantized)
    models = {"own": model.SerializeToString()}
    if quantized:
        models["twin"] = float_twin(model).SerializeToString()
    found = profile(models, IMAGES, baseline="own", threads=1, n_rounds=3).by_name
    return from_onnx_runtime(model, layers_of(model, rows), found["own"], found.get("twin"))


def test_facts_hold_every_layer_and_what_lies_between() -> None:
    facts = facts_of(Residual)
    assert set(facts) == {"stem.0", "conv1", "conv2", "classifier", BETWEEN}
    assert all(f.time_ms >= f.reformat_ms >= 0 for f in facts.values())
    assert all(f.twin_ms is not None for f in facts.values())
    assert "QLinearAdd" in facts[BETWEEN].apart


def test_facts_read_precision_and_fusion_from_the_built_graph() -> None:
    facts = facts_of(Plain)
    assert {name: facts[name].held for name in ("0", "3")} == {"0": "int8", "3": "int8"}
    assert (facts["0"].kernels, facts["0"].fused) == (("QLinearConv",), ("Relu",))
    assert "QuantizeLinear" in facts["0"].reformats


def test_facts_of_a_float_network_have_no_twin() -> None:
    facts = facts_of(Plain, quantized=False)
    assert {f.held for name, f in facts.items() if name != BETWEEN} == {"float32"}
    assert all(f.twin_ms is None and f.twin_ratio is None for f in facts.values())
    assert facts["0"].fused == ("Relu",)


def test_facts_see_int8_that_the_runtime_dequantises() -> None:
    """Signed integers before ReLU: ONNX Runtime keeps the file's int8 convolution in float."""
    facts = facts_of(Plain, "trt")
    assert facts["0"].held == "float32"
    assert "DequantizeLinear" in " ".join(facts["0"].reformats)


def test_facts_of_attention_name_its_products() -> None:
    products = [f for f in facts_of(Attention).values() if f.layer.startswith("node_")]
    assert len(products) == 2
    assert {f.held for f in products} == {"int8"}


@pytest.mark.parametrize(
    ("kernels", "held"),
    [(["QLinearConv"], "int8"), (["QLinearConv", "Conv"], "float32"), (["Gemm"], "float32"), ([], "")],
)
def test_held_by_is_int8_only_when_every_kernel_is(kernels: list[str], held: str) -> None:
    assert held_by(kernels) == held
