"""Q with bits by layer and with other weights, through training and into the exported graph."""

import onnx
import pytest
from conftest import follow, make_profile

from nacdeploy.base.errors import RefusedError, UsageError
from nacdeploy.exporters import parity
from nacdeploy.exporters.artifacts import onnx_checks
from nacdeploy.exporters.onnx_graph.trace import to_onnx
from nacdeploy.strategies.state import CompressionState
from nacdeploy.strategies.steps import letters
from nacdeploy.task import Task
from nacdeploy.task import evaluate as evaluation

OWN = {"stages.0.0.conv1": "w4a8", "classifier": "w8a6"}


def test_layers_have_their_own_bits_on_every_rung(baseline: CompressionState, task: Task) -> None:
    profile = make_profile(quantize={"layer_bits": OWN})
    first, second = (follow(baseline, word, task, profile) for word in ("Q", "QQ"))
    for state, rung in ((first, 8), (second, 4)):
        bits = dict(state.network.plan.weight_bits)
        assert (bits.pop("stages.0.0.conv1"), bits.pop("classifier")) == (4, 8)
        assert set(bits.values()) == {rung}
    node = first.network.plan.inputs["classifier"]
    assert first.network.quantizers[node[0]].bits == 6
    plain = follow(baseline, "Q", task, make_profile())
    assert first.metrics.cost.bitops < plain.metrics.cost.bitops
    assert first.metrics.cost.memory_bits < plain.metrics.cost.memory_bits


def test_explanation_names_the_layers_of_their_own_bits(baseline: CompressionState, task: Task) -> None:
    profile = make_profile(quantize={"layer_bits": OWN, "weights": "dorefa"})
    state = follow(baseline, "Q", task, profile)
    step = state.steps[0]
    assert (
        letters.make(step.link, profile)
        .explain(step.decision)
        .endswith("; dorefa weights; stages.0.0.conv1 w4a8, classifier w8a6")
    )


@pytest.mark.parametrize("weights", ["dorefa", "binary"])
def test_finetuning_behind_q_trains_through_its_weights(weights: str, baseline: CompressionState, task: Task) -> None:
    profile = make_profile(quantize={"weights": weights, "ladder": ["w4a8"]}, finetune={"epochs": 4})
    before, after = (follow(baseline, word, task, profile) for word in ("Q", "QF"))
    assert after.metrics.score >= before.metrics.score
    assert after.metrics.score > 0.6


@pytest.mark.parametrize("weights", ["dorefa", "binary"])
def test_exported_integers_are_those_of_the_simulation(weights: str, baseline: CompressionState, task: Task) -> None:
    profile = make_profile(quantize={"weights": weights, "layer_bits": OWN})
    state = follow(baseline, "SPQ" if weights == "dorefa" else "QF", task, profile)
    graph = to_onnx(state.network, 20)
    x = next(evaluation.batches(task.data, task.data.validation, 16)).numpy()
    steps = parity.worst_steps(state.network, graph, x)
    assert len(steps) >= 8
    assert max(steps.values()) <= 1
    rows = onnx_checks.lowering_rows(onnx.load_model_from_string(graph.model), graph.asked)
    asked = {row.layer: (row.asked, row.held) for row in rows}
    expected = ("w4a8", "w8a6") if weights == "dorefa" else ("w1a8", "w1a6")
    assert asked["stages.0.0.conv1"] == (expected[0], "int8")
    assert asked["classifier"] == (expected[1], "int8")


def test_binary_weights_cost_one_bit_and_have_no_next_rung(baseline: CompressionState, task: Task) -> None:
    profile = make_profile(quantize={"weights": "binary"})
    state = follow(baseline, "Q", task, profile)
    plain = follow(baseline, "Q", task, make_profile())
    assert state.metrics.cost.bitops * 8 == plain.metrics.cost.bitops
    with pytest.raises(RefusedError, match="every layer has the bits that it would get with w4a8 already"):
        follow(state, "Q", task, profile)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"layer_bits": {"clasifier": "w8a8"}}, "no layer is named 'clasifier'; did you mean 'classifier'"),
        ({"layer_bits": {"classifier": "w9a8"}}, r"quantize\.layer_bits: precision 'w9a8': weights take 2 to 8"),
        ({"layer_bits": {"classifier": "w1a8"}}, r"quantize\.layer_bits: precision 'w1a8': weights take 2 to 8"),
        ({"weights": "ternary"}, "quantize.weights: Input should be 'symmetric', 'balanced', 'dorefa' or 'binary'"),
    ],
)
def test_wrong_settings_end_with_one_line(
    table: dict[str, object], said: str, baseline: CompressionState, task: Task
) -> None:
    with pytest.raises(UsageError, match=said):
        follow(baseline, "Q", task, make_profile(quantize=table))


def test_settings_at_their_defaults_leave_keys_as_they_were(baseline: CompressionState, task: Task) -> None:
    """Training seeds are drawn from keys: they must not change because rules know more settings."""
    from nacdeploy.strategies import state as states

    profile = make_profile(quantize={"weights": "symmetric"})
    network = follow(baseline, "QS(pattern=element)", task, profile).network
    spoken = states._structure(network, True)
    assert spoken["rule"].keys() == {"precision", "exclude", "min_channels"}
    assert spoken["sparsity"].keys() == {"pattern", "ratio", "exclude", "min_channels"}
