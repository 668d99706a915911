"""The exported graph: its integers are those of the simulation, and it answers as the simulation does."""

import copy
import os
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from conftest import follow, make_profile
from numpy.typing import NDArray
from onnx import numpy_helper
from small_networks import (
    BranchOnShape,
    Concat,
    DataDependent,
    Depthwise,
    FlattenLinear,
    Grouped,
    Plain,
    Residual,
    images,
    network,
    quantized,
)
from torch import nn

from nacdeploy.base.errors import NacdeployError
from nacdeploy.exporters.artifacts import onnx_checks
from nacdeploy.exporters.onnx_graph.lowering import OnnxGraph
from nacdeploy.exporters.onnx_graph.parameters import fold
from nacdeploy.exporters.onnx_graph.trace import to_onnx
from nacdeploy.exporters.targets import grid_named
from nacdeploy.exporters.targets.ort.runner import OnnxRunner, Optimization
from nacdeploy.metrics import ACCURACY
from nacdeploy.network.attachments import fake_quant
from nacdeploy.network.network import Network
from nacdeploy.strategies.state import CompressionState, state_key
from nacdeploy.task import Task

OPSET = 20
SESSIONS: dict[str, Optimization] = {"ort": "all", "trt": "basic", "onnx": "all"}


def initializers(graph: OnnxGraph) -> dict[str, NDArray[Any]]:
    return {
        tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load_from_string(graph.model).graph.initializer
    }


def held(graph: OnnxGraph) -> list[tuple[str, str, str, str]]:
    rows = onnx_checks.lowering_rows(onnx.load_from_string(graph.model), graph.asked)
    return [(row.layer, row.asked, row.held, row.reason) for row in rows]


def outputs(graph: OnnxGraph, x: torch.Tensor, optimization: Optimization = "all") -> list[NDArray[Any]]:
    return OnnxRunner(graph.model, optimization=optimization).run(x.numpy())


# --- folding -----------------------------------------------------------------------------------------------------


def test_fold_moves_signs_into_integers_and_sizes_into_scales() -> None:
    weight = torch.tensor([[1, -2], [3, 4], [5, 6]], dtype=torch.int8)
    scale, factor = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([2.0, -0.5, 0.0])
    integers, scales = fold(weight, scale, factor)
    assert integers.tolist() == [[1, -2], [-3, -4], [0, 0]]
    assert integers.dtype == torch.int8
    torch.testing.assert_close(scales[:2], torch.tensor([0.2, 0.1]))
    assert scales[2] > 0


@pytest.fixture(scope="module", params=["ort", "trt"])
def folded(request: pytest.FixtureRequest) -> tuple[Network, OnnxGraph]:
    """A plain network whose first norm has a negative, a zero and a tiny gamma."""
    made = network(Plain(), request.param)
    with torch.no_grad():
        gamma, beta = (made.backbone.get_parameter(f"1.{name}") for name in ("weight", "bias"))
        gamma[:4] = torch.tensor([-1.5, 0.0, 1e-9, 0.7])
        beta[:4] = torch.tensor([0.3, 0.4, 50.0, -0.2])
    return quantized(made), to_onnx(made, OPSET)


def channels_that_weigh(made: Network) -> list[int]:
    """All but those of zero and of tiny gamma."""
    return [0, *range(3, 8)]


def test_folding_changes_no_integer_but_its_sign(folded: tuple[Network, OnnxGraph]) -> None:
    made, graph = folded
    maximum = made.grid.weight_maximum(8)
    before, _ = fake_quant.integers(made.backbone.get_parameter("0.weight"), maximum)
    after = initializers(graph)[graph.asked["0"].weight]
    signs = np.sign(made.backbone.get_parameter("1.weight").detach().numpy())
    assert after.dtype == np.int8
    for channel in channels_that_weigh(made):
        assert np.array_equal(after[channel], before[channel].numpy() * int(signs[channel]))


def test_folding_multiplies_scales_by_gamma_over_sigma(folded: tuple[Network, OnnxGraph]) -> None:
    made, graph = folded
    _, before = fake_quant.integers(made.backbone.get_parameter("0.weight"), made.grid.weight_maximum(8))
    weight_name = graph.asked["0"].weight
    after = initializers(graph)[weight_name.replace("weight_q", "scale")]
    norm = made.backbone.get_submodule("1")
    assert isinstance(norm, nn.BatchNorm2d)
    ratio = (norm.weight.abs() / torch.sqrt(norm.running_var + norm.eps)).detach().numpy()  # type: ignore[operator]
    chosen = channels_that_weigh(made)
    np.testing.assert_allclose((after / before.numpy())[chosen], ratio[chosen], rtol=1e-5)
    assert (after > 0).all()


def test_channel_of_zero_gamma_is_zero(folded: tuple[Network, OnnxGraph]) -> None:
    _, graph = folded
    assert not initializers(graph)[graph.asked["0"].weight][1].any()


def test_folded_graph_answers_as_the_simulation(folded: tuple[Network, OnnxGraph]) -> None:
    made, graph = folded
    x = images(64)
    with torch.inference_mode():
        expected = made(x).numpy()
    found = outputs(graph, x, SESSIONS[made.grid.name])[0]
    assert onnx_checks.agreement(expected, found, ACCURACY) >= 0.98
    assert onnx_checks.snr_db(expected, found) >= 30


def test_tiny_gamma_with_a_large_bias_does_not_overflow(folded: tuple[Network, OnnxGraph]) -> None:
    """On the ort grid biases are int32 on the product of the scales; gamma 1e-9 makes that product tiny."""
    made, graph = folded
    found = initializers(graph)
    prefix = graph.asked["0"].weight.removesuffix("weight_q")
    norm = made.backbone.get_submodule("1")
    assert isinstance(norm, nn.BatchNorm2d)
    with torch.no_grad():
        expected = norm(torch.zeros(1, 8, 1, 1)).flatten().numpy()
    if f"{prefix}bias_q" in found:
        bias = found[f"{prefix}bias_q"].astype(np.float64) * found[f"{prefix}bias_scale"]
        assert np.abs(found[f"{prefix}bias_q"].astype(np.int64)).max() < 2**31 - 1
    else:
        bias = found[f"{prefix}bias"]
    np.testing.assert_allclose(bias, expected, rtol=1e-3, atol=1e-3)


# --- parity ------------------------------------------------------------------------------------------------------


SLOW = pytest.mark.slow
PARITY = [("QP", "ort"), ("QE", "trt"), *(pytest.param(*each, marks=SLOW) for each in (("QP", "trt"), ("QE", "ort")))]


@pytest.mark.parametrize(("word", "target"), [*PARITY, pytest.param("", "ort", marks=SLOW)])
def test_graph_agrees_with_the_simulation_on_real_images(
    word: str, target: str, baseline: CompressionState, task: Task
) -> None:
    state = follow(baseline, word, task, make_profile())
    made = copy.deepcopy(state.network)
    made.set_grid(grid_named(target))
    graph = to_onnx(made, OPSET)
    x = task.data.normalize(task.data.validation.images)
    with torch.inference_mode():
        *exits, own = made.forward_exits(x)
    found = outputs(graph, x, SESSIONS[target])
    assert graph.outputs == ("logits", "exit_1", "exit_2")[: len(found)]
    assert len(found) == 1 + 2 * ("E" in word)
    for expected, given in zip((own, *exits), found, strict=True):
        assert onnx_checks.agreement(expected.numpy(), given, ACCURACY) >= 0.99
        assert onnx_checks.snr_db(expected.numpy(), given) >= 20


@pytest.mark.parametrize("target", ["ort", "trt"])
@pytest.mark.parametrize(
    "backbone", [Residual, Concat, Depthwise, Grouped, FlattenLinear, BranchOnShape], ids=lambda each: each.__name__
)
def test_every_kind_of_network_agrees(backbone: type[nn.Module], target: str) -> None:
    made = quantized(network(backbone(), target))
    x = images(64)
    with torch.inference_mode():
        expected = made(x).numpy()
    graph = to_onnx(made, OPSET)
    found = outputs(graph, x, SESSIONS[target])[0]
    assert {row[2] for row in held(graph)} == {"int8"}
    assert onnx_checks.agreement(expected, found, ACCURACY) >= 0.96
    assert onnx_checks.snr_db(expected, found) >= 20


def test_network_that_torch_cannot_export_is_refused_in_one_line() -> None:
    made = quantized(network(DataDependent()))
    with pytest.raises(NacdeployError, match="torch cannot export this network to ONNX") as refusal:
        to_onnx(made, OPSET)
    assert "\n" not in str(refusal.value)


def test_layer_called_twice_agrees() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
            self.classifier = nn.Linear(8, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.conv1(x))
            x = torch.relu(self.conv2(torch.relu(self.conv2(x))))
            return self.classifier(x.mean((2, 3)))

    made = quantized(network(Shared()))
    x = images(64)
    with torch.inference_mode():
        expected = made(x).numpy()
    found = outputs(to_onnx(made, OPSET), x)[0]
    assert onnx_checks.snr_db(expected, found) >= 20


def test_exporting_changes_nothing() -> None:
    made = quantized(network(Residual()))
    key = state_key(made)
    to_onnx(made, OPSET)
    assert state_key(made) == key
    assert not made.training


# --- what the graph holds ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def four_bits(baseline: CompressionState, task: Task) -> OnnxGraph:
    profile = make_profile(quantize={"exclude": ["stem"]})
    return to_onnx(follow(baseline, "QQE", task, profile).network, OPSET)


def test_four_bit_layers_are_held_as_int8_on_the_four_bit_grid(four_bits: OnnxGraph) -> None:
    rows = [row for row in held(four_bits) if row[0] != "stem.0"]
    assert {row[1:] for row in rows} == {("w4a8", "int8", "values fit 4 bits")}
    assert len(rows) == 9


def test_excluded_layer_is_held_in_float(four_bits: OnnxGraph) -> None:
    assert ("stem.0", "w32a32", "float32", "excluded (quantize.exclude, min_snr_db or max_drop)") in held(four_bits)


def test_unquantized_network_is_held_in_float(baseline: CompressionState) -> None:
    graph = to_onnx(baseline.network, OPSET)
    assert {row[1:] for row in held(graph)} == {("w32a32", "float32", "")}
    assert "QuantizeLinear" not in {node.op_type for node in onnx.load_from_string(graph.model).graph.node}


def test_exits_are_extra_outputs(four_bits: OnnxGraph) -> None:
    model = onnx.load_from_string(four_bits.model)
    assert [output.name for output in model.graph.output] == ["logits", "exit_1", "exit_2"]
    assert [value.name for value in model.graph.input] == ["images"]


def test_batch_norms_are_folded(four_bits: OnnxGraph) -> None:
    assert "BatchNormalization" not in {node.op_type for node in onnx.load_from_string(four_bits.model).graph.node}


def test_batch_is_free(four_bits: OnnxGraph) -> None:
    shapes = [outputs(four_bits, torch.zeros(n, 1, 8, 8))[0].shape for n in (1, 7)]
    assert shapes == [(1, 10), (7, 10)]


def test_trt_graph_has_no_unsigned_integers_and_float_biases() -> None:
    graph = to_onnx(quantized(network(Residual(), "trt")), OPSET)
    assert onnx_checks.unsigned_nodes(onnx.load_from_string(graph.model)) == []
    assert {array.dtype.name for array in initializers(graph).values()} & {"int32", "uint8"} == set()


def test_graph_names_no_path_of_this_machine(four_bits: OnnxGraph) -> None:
    places = {Path.home(), Path.cwd(), Path(sysconfig.get_path("purelib")), Path(__file__).parents[2]}
    texts = [str(place).encode() for place in places if str(place) != os.sep]
    assert [text for text in texts if text in four_bits.model] == []
    assert b".py" not in four_bits.model


def test_graph_is_valid_onnx(four_bits: OnnxGraph) -> None:
    model = onnx.load_from_string(four_bits.model)
    onnx.checker.check_model(model, full_check=True)
    assert model.opset_import[0].version == OPSET
