"""Layer by layer the graph is within one step of the simulation; where it is not it is refused and its layer named."""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import follow, make_profile
from explained import Attention
from numpy.typing import NDArray
from onnx import numpy_helper
from small_networks import Concat, Depthwise, Plain, Residual, images, network, quantized
from torch import nn
from torch.nn import functional

from nacdeploy import task as tasks
from nacdeploy.base.errors import NacdeployError
from nacdeploy.exporters import export as exporting
from nacdeploy.exporters import parity, targets
from nacdeploy.exporters.artifacts import onnx_checks
from nacdeploy.exporters.describe import Context
from nacdeploy.exporters.onnx_graph.lowering import OnnxGraph
from nacdeploy.exporters.onnx_graph.trace import to_onnx
from nacdeploy.exporters.targets import grid_named
from nacdeploy.exporters.targets.ort.runner import OnnxRunner, Optimization
from nacdeploy.exporters.targets.runtime import answering
from nacdeploy.metrics import ACCURACY
from nacdeploy.network.attachments.placement import Plan
from nacdeploy.network.network import Network
from nacdeploy.strategies.baseline import initial_state, plain_network
from nacdeploy.strategies.settle import settle, unquantized
from nacdeploy.strategies.state import CompressionState
from nacdeploy.task import Task
from nacdeploy.task import evaluate as evaluation

OPSET = 20
SESSIONS: list[tuple[str, Optimization]] = [
    ("ort", "all"),
    ("ort", "disabled"),
    ("ort-8bit", "disabled"),  # whose products saturate in ONNX Runtime's kernels on CPUs without VNNI
    ("trt", "basic"),
    ("trt", "disabled"),
    ("openvino", "disabled"),
]
OPTIMISED, UNOPTIMISED = OnnxRunner, partial(OnnxRunner, optimization="disabled")
SESSION = pytest.mark.parametrize(("grid", "optimization"), SESSIONS)


def trained(backbone: nn.Module, grid: str) -> Network:
    """A network that was trained for some steps to tell apart five drawn patterns, then quantized."""
    made = network(backbone, grid)
    patterns = images(5, seed=7)
    optimizer = torch.optim.Adam(made.backbone.parameters(), lr=0.01)
    made.backbone.train()
    for step in range(30):
        labels = torch.randint(5, (32,), generator=torch.Generator().manual_seed(step))
        x = patterns[labels] + 0.3 * images(32, seed=step)
        optimizer.zero_grad()
        functional.cross_entropy(made.backbone(x), labels).backward()
        optimizer.step()
    made.backbone.eval()
    return quantized(made)


def altered(graph: OnnxGraph, layer: str, change: Callable[[NDArray], NDArray]) -> OnnxGraph:
    """The graph with other integers in one layer."""
    model = onnx.load_model_from_string(graph.model)
    (tensor,) = [t for t in model.graph.initializer if t.name == f"layers.{layer}.weight_q"]
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)).astype(np.int8), tensor.name))
    return replace(graph, model=model.SerializeToString())


def nodes_of(graph: OnnxGraph) -> dict[str, str]:
    """The ONNX node of every layer."""
    rows = onnx_checks.lowering_rows(onnx.load_model_from_string(graph.model), graph.asked)
    return {row.layer: row.node for row in rows}


# --- layer by layer ----------------------------------------------------------------------------------------------


@SESSION
@pytest.mark.parametrize("backbone", [Plain, Residual, Concat, Depthwise, Attention], ids=lambda each: each.__name__)
def test_every_quantized_layer_is_within_one_step(
    backbone: type[nn.Module], grid: str, optimization: Optimization
) -> None:
    made = trained(backbone(), grid)
    graph = to_onnx(made, OPSET)
    steps = parity.worst_steps(made, graph, images(16).numpy(), optimization)
    named = nodes_of(graph)
    del named["classifier" if "classifier" in named else "8"]  # nobody reads the logits as integers
    assert set(named.values()) <= steps.keys()
    assert max(steps.values()) <= 1


@SESSION
@pytest.mark.parametrize("word", ["Q", "PQ", "SQ", "QE"])
def test_every_layer_of_a_chain_is_within_one_step_on_real_images(
    word: str, grid: str, optimization: Optimization, baseline: CompressionState, task: Task
) -> None:
    made = follow(baseline, word, task, make_profile()).network
    if grid != made.grid.name:
        made.set_grid(grid_named(grid))
        settle(made, task, make_profile())
    x = next(evaluation.batches(task.data, task.data.validation, 16)).numpy()
    steps = parity.worst_steps(made, to_onnx(made, OPSET), x, optimization)
    assert len(steps) >= 8
    assert max(steps.values()) <= 1


def test_worst_steps_see_a_layer_of_other_integers() -> None:
    made = quantized(network(Residual()))
    graph = altered(to_onnx(made, OPSET), "conv1", lambda weight: weight // 2)
    steps = parity.worst_steps(made, graph, images(16).numpy(), "disabled")
    wrong = [node for node, distance in steps.items() if distance > 1]
    assert wrong == [nodes_of(graph)["conv1"]]


def test_float_network_has_no_steps() -> None:
    made = network(Plain())
    assert parity.worst_steps(made, to_onnx(made, OPSET), images().numpy()) == {}


# --- the first divergence ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", ["ort", "trt"])
@pytest.mark.parametrize(
    ("backbone", "layer"),
    [
        *((Plain, layer) for layer in ("0", "3", "8")),
        *((Residual, layer) for layer in ("stem.0", "conv1", "conv2", "classifier")),
        *((Concat, layer) for layer in ("left", "right", "joined")),
        *((Depthwise, layer) for layer in ("depthwise", "project")),
        *((Attention, layer) for layer in ("patches", "query", "value", "classifier")),
    ],
)
def test_divergence_names_the_node_of_the_altered_layer(backbone: type[nn.Module], layer: str, grid: str) -> None:
    made = quantized(network(backbone(), grid))
    graph = altered(to_onnx(made, OPSET), layer, lambda weight: -weight)
    found = parity.first_divergence(made, graph, images().numpy(), UNOPTIMISED, 20.0)
    assert found is not None
    assert found.node == nodes_of(graph)[layer]
    assert f"'{layer}'" in found.origin
    assert found.snr_db < 20


@pytest.mark.parametrize("backbone", [Plain, Residual, Concat, Attention], ids=lambda each: each.__name__)
def test_sound_graph_does_not_diverge(backbone: type[nn.Module]) -> None:
    made = quantized(network(backbone()))
    assert parity.first_divergence(made, to_onnx(made, OPSET), images().numpy(), OPTIMISED, 20.0) is None


def test_altered_float_network_diverges_at_its_outputs() -> None:
    made = network(Plain())
    other = network(Plain(), seed=3)
    found = parity.first_divergence(made, to_onnx(other, OPSET), images().numpy(), OPTIMISED, 20.0)
    assert found is not None
    assert found.tensor == "logits"


# --- the check ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def quantized_state(baseline: CompressionState, task: Task) -> CompressionState:
    return follow(baseline, "QE", task, make_profile())


def test_check_returns_a_record_per_runtime(quantized_state: CompressionState, task: Task) -> None:
    graph = to_onnx(quantized_state.network, OPSET)
    table = make_profile(export={"n_parity": 60}).export
    checks = parity.check(quantized_state.network, graph, task, table, answering(targets.parse("ort")))
    assert [(each.optimization, each.n_images) for each in checks] == [("all", 60), ("disabled", 60)]
    assert all(each.agreement >= 0.99 for each in checks)


def test_altered_layer_is_refused_by_its_name(quantized_state: CompressionState, task: Task) -> None:
    graph = to_onnx(quantized_state.network, OPSET)
    layer = list(graph.asked)[3]
    wrong = altered(graph, layer, lambda weight: -weight)
    with pytest.raises(NacdeployError) as refusal:
        parity.check(quantized_state.network, wrong, task, make_profile().export, {"all": OPTIMISED})
    message = str(refusal.value)
    assert "\n" not in message
    assert f"the first node that diverges is '{nodes_of(graph)[layer]}' (made by torch layer '{layer}')" in message
    assert " dB at 'edges/" in message
    assert "no artifact is written" in message


def test_altered_exit_is_refused_at_its_own_output(quantized_state: CompressionState, task: Task) -> None:
    graph = to_onnx(quantized_state.network, OPSET)
    model = onnx.load_model_from_string(graph.model)
    head = next(node for node in model.graph.node if "exit_2" in node.output)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == head.input[1])
    tensor.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(tensor), tensor.name))
    wrong = replace(graph, model=model.SerializeToString())
    with pytest.raises(NacdeployError, match="dB at 'exit_2'"):
        parity.check(quantized_state.network, wrong, task, make_profile().export, {"all": OPTIMISED})


def test_nothing_is_written_where_parity_fails(
    quantized_state: CompressionState, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lower = exporting.lower

    def damaged(*arguments: object) -> OnnxGraph:
        graph = lower(*arguments)  # type: ignore[arg-type]
        return altered(graph, next(iter(graph.asked)), lambda weight: -weight)

    monkeypatch.setattr(exporting, "lower", damaged)
    with pytest.raises(NacdeployError, match="the first node that diverges is"):
        exporting.export(quantized_state, task, make_profile(), targets.parse("ort"), tmp_path / "artifact", Context())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_transformer_is_within_one_step_on_real_images() -> None:
    profile = make_profile(model="deit_tiny", width=24)
    task = tasks.make("deit_tiny", "digits", profile)
    made = follow(initial_state(plain_network(task, profile), task), "Q", task, profile).network
    x = next(evaluation.batches(task.data, task.data.validation, 16)).numpy()
    assert max(parity.worst_steps(made, to_onnx(made, OPSET), x, "all").values()) <= 1


def test_near_tie_is_no_surprise_and_a_clear_answer_that_changes_is() -> None:
    reference = np.array([[1.0, 0.99, 0.0], [5.0, 0.0, 0.0], [0.0, 4.0, 1.0]] * 20)
    noisy = reference + 0.02 * np.random.default_rng(0).standard_normal(reference.shape)
    noisy[0] = [0.98, 1.0, 0.0]
    assert (noisy.argmax(1) != reference.argmax(1)).any()
    assert parity.n_surprising(reference, noisy, ACCURACY) == 0
    noisy[1] = [0.0, 5.0, 0.0]
    assert parity.n_surprising(reference, noisy, ACCURACY) == 1


def test_one_changed_answer_among_few_images_is_allowed() -> None:
    assert not parity.disagrees(1, 50, 0.99)
    assert parity.disagrees(3, 50, 0.99)
    assert parity.disagrees(10, 500, 0.99)


def test_artifact_is_compared_with_the_original_network(quantized_state: CompressionState, task: Task) -> None:
    graph = to_onnx(quantized_state.network, 20)
    original = copy.deepcopy(quantized_state.network)
    original.rule, original.plan, original.quantizers = None, Plan(), nn.ModuleDict()
    found = parity.against_original(original, graph, task, make_profile().export, OnnxRunner)
    assert found.optimization == "original"
    assert found.agreement > 0.9
    assert found.snr_db is not None
    assert 10 < found.snr_db < 60


# --- where quantization itself is at few decibels ------------------------------------------------------------------


@pytest.mark.parametrize(("strength", "expected"), [(0.9, True), (2.0, False), (20.0, False)])
def test_outputs_are_excused_only_as_far_from_float_as_the_simulation(
    strength: float, expected: bool, baseline: CompressionState, task: Task
) -> None:
    """Another error of the same size is rounding; a larger one is a wrong graph."""
    made = follow(baseline, "Q(bits=w4a4)", task, make_profile()).network
    kept = task.data.validation
    plain = evaluation.predict(unquantized(made), task.data, kept)
    simulated = evaluation.predict(made, task.data, kept)
    error = (simulated - plain).std() * torch.randn(plain.shape, generator=torch.Generator().manual_seed(0))
    is_near = onnx_checks.snr_db(plain.numpy(), simulated.numpy()) > parity.LEAST_DB
    assert is_near  # else nothing is excused
    answers = parity.Simulated(made, task, kept, [simulated])
    _, is_apart = answers.compared([(plain + strength * error).numpy()], "all", make_profile().export)
    assert is_apart is not expected


@pytest.mark.parametrize(("less_db", "expected"), [(3.0, True), (9.0, False)])
def test_one_input_that_holds_most_of_the_error_is_excused_within_limits(
    less_db: float, expected: bool, baseline: CompressionState, task: Task
) -> None:
    """A network may amplify a flip, on another input from runtime to runtime; that explains a few decibels."""
    made = follow(baseline, "Q(bits=w4a4)", task, make_profile()).network
    kept = task.data.validation
    plain, simulated = evaluation.predict(unquantized(made), task.data, kept), evaluation.predict(made, task.data, kept)
    db = onnx_checks.snr_db(plain.numpy(), simulated.numpy()) - less_db
    outputs = plain.clone()
    outputs[0] += (plain.square().sum() / 10 ** (db / 10) / len(plain[0])).sqrt()  # no answer changes
    table = make_profile().export
    found, is_apart = parity.Simulated(made, task, kept, [simulated]).compared([outputs.numpy()], "all", table)
    assert found.snr_db is not None and found.snr_db < table.min_snr_db
    assert is_apart is not expected


def test_outputs_within_the_bounds_may_not_be_clearly_further_from_float(
    baseline: CompressionState, task: Task
) -> None:
    """A runtime that rounds weights which stay float may keep 20 dB of a simulation that has 30."""
    made = follow(baseline, "Q", task, make_profile()).network
    kept = task.data.validation
    simulated = evaluation.predict(made, task.data, kept)
    answers, table = parity.Simulated(made, task, kept, [simulated]), make_profile().export
    noise = torch.randn(simulated.shape, generator=torch.Generator().manual_seed(0)) * simulated.square().mean().sqrt()
    own = onnx_checks.snr_db(evaluation.predict(unquantized(made), task.data, kept).numpy(), simulated.numpy())
    assert own > table.min_snr_db + parity.CLEARLY_DB + 2
    for db, expected in ((own + 6, False), (own - parity.CLEARLY_DB - 2, True)):
        found, is_apart = answers.compared([(simulated + 10 ** (-db / 20) * noise).numpy()], "all", table)
        assert found.snr_db == pytest.approx(db, abs=0.5) and is_apart is expected


def test_outputs_of_a_float_network_and_of_exits_are_not_excused(baseline: CompressionState, task: Task) -> None:
    for word in ("P", "QE"):
        made = follow(baseline, word, task, make_profile()).network
        *exits, logits = evaluation.predict_exits(made, task.data, task.data.validation)
        outputs = [each.numpy() for each in (logits, *exits)]
        answers = parity.Simulated(made, task, task.data.validation, [logits, *exits])
        outputs[0] = outputs[0] + 10 * np.random.default_rng(0).standard_normal(outputs[0].shape).astype(np.float32)
        assert answers.compared(outputs, "all", make_profile().export)[1]
