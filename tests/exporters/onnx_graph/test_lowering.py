"""One trace serves every choice of precision, and what is lowered from it is what exporting afresh would give."""

from functools import cache

import numpy as np
import onnx
import pytest
import torch
from conftest import follow, make_profile
from explained import Attention
from numpy.typing import NDArray
from onnx import numpy_helper
from small_networks import (
    BranchOnShape,
    Concat,
    Depthwise,
    FlattenLinear,
    Grouped,
    Plain,
    Residual,
    Signal,
    Volume,
    conv,
    images,
    network,
    quantized,
)
from torch import Tensor, nn

from nacdeploy.base.errors import NacdeployError
from nacdeploy.exporters.artifacts import onnx_checks
from nacdeploy.exporters.onnx_graph.lowering import DOMAIN, OnnxGraph
from nacdeploy.exporters.onnx_graph.trace import Traced, lower, to_onnx, trace
from nacdeploy.exporters.targets import grid_named, grid_names
from nacdeploy.exporters.targets.ort.runner import OnnxRunner
from nacdeploy.exporters.tune import member_kinds, with_float
from nacdeploy.network.attachments.sparsity import sparsity_of
from nacdeploy.network.network import Network
from nacdeploy.strategies.state import CompressionState
from nacdeploy.task import Task

OPSET = 20
BACKBONES = [Plain, Residual, Concat, Depthwise, Grouped, FlattenLinear, BranchOnShape, Attention, Signal, Volume]
EVERY = pytest.mark.parametrize("backbone", BACKBONES, ids=lambda each: each.__name__)
GRID = pytest.mark.parametrize("grid", ["ort", "trt"])


@cache
def traced(backbone: type[nn.Module], grid: str) -> tuple[Network, Traced]:
    """A quantized network and its trace; no test changes them."""
    made = quantized(network(backbone(), grid))
    return made, trace(made, OPSET)


def answers(graph: OnnxGraph, x: Tensor) -> list[NDArray]:
    """What the file says, without ONNX Runtime's own fusions."""
    return OnnxRunner(graph.model, optimization="disabled").run(x.numpy())


def simulated(made: Network, x: Tensor) -> NDArray:
    with torch.inference_mode():
        return made(x).numpy()


def tensors(graph: OnnxGraph) -> dict[str, NDArray]:
    model = onnx.load_model_from_string(graph.model)
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def subsets(made: Network) -> list[frozenset[str]]:
    """The members that go to float one after the other, from either end."""
    members = list(member_kinds(made))
    return [frozenset(part) for n in range(1, len(members) + 1) for part in (members[:n], members[-n:])]


# --- one trace, many choices -------------------------------------------------------------------------------------


@GRID
@EVERY
def test_every_choice_lowered_from_one_trace_answers_as_its_simulation(backbone: type[nn.Module], grid: str) -> None:
    made, once = traced(backbone, grid)
    for floats in subsets(made):
        choice = with_float(made, floats)
        graph = lower(once, choice)
        # an activation on the border between two steps may fall on either side: signal to noise, not equality
        assert onnx_checks.snr_db(simulated(choice, images()), answers(graph, images())[0]) >= 30, sorted(floats)


@GRID
@pytest.mark.parametrize("backbone", [Residual, Concat, Attention], ids=lambda each: each.__name__)
def test_lowering_fewer_layers_equals_exporting_that_network_afresh(backbone: type[nn.Module], grid: str) -> None:
    made, once = traced(backbone, grid)
    choice = with_float(made, list(member_kinds(made))[1::2])
    lowered, afresh = lower(once, choice), to_onnx(choice, OPSET)
    for one, other in zip(answers(lowered, images()), answers(afresh, images()), strict=True):
        np.testing.assert_array_equal(one, other)
    assert lowered.asked == afresh.asked
    assert {name: array.tolist() for name, array in tensors(lowered).items() if name.startswith("layers.")} == {
        name: array.tolist() for name, array in tensors(afresh).items() if name.startswith("layers.")
    }


@EVERY
def test_everything_in_float_answers_as_the_plain_network(backbone: type[nn.Module]) -> None:
    made, once = traced(backbone, "ort")
    graph = lower(once, with_float(made, member_kinds(made)))
    with torch.inference_mode():
        plain = made.backbone(images()).numpy()
    np.testing.assert_allclose(answers(graph, images())[0], plain, rtol=1e-3, atol=1e-4)
    types = {node.op_type for node in onnx.load_model_from_string(graph.model).graph.node}
    assert not types & {"QuantizeLinear", "DequantizeLinear"}


def test_lowering_twice_gives_the_same_bytes_and_leaves_the_trace() -> None:
    made, once = traced(Residual, "ort")
    before = once.model.SerializeToString(deterministic=True)
    assert lower(once, made).model == lower(once, made).model
    assert once.model.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("grid", [*dict.fromkeys(grid_names())])
def test_no_marker_is_left_in_a_lowered_graph(grid: str) -> None:
    model = onnx.load_model_from_string(lower(*reversed(traced(Concat, grid))).model)
    assert {node.domain for node in model.graph.node} == {""}
    assert DOMAIN not in {opset.domain for opset in model.opset_import}
    onnx.checker.check_model(model, full_check=True)


def test_quantizing_what_was_traced_as_float_is_refused_in_one_line() -> None:
    once = trace(network(Residual()), OPSET)
    with pytest.raises(NacdeployError, match=r"^node '\w+' is to read integers, but was traced as one that does not$"):
        lower(once, quantized(network(Residual())))


# --- exits -------------------------------------------------------------------------------------------------------


def test_exits_follow_every_choice(baseline: CompressionState, task: Task) -> None:
    made = follow(baseline, "QE", task, make_profile()).network
    once = trace(made, OPSET)
    x = task.data.normalize(task.data.validation.images[:32])
    for floats in (frozenset[str](), frozenset(list(member_kinds(made))[:4]), frozenset(member_kinds(made))):
        choice = with_float(made, floats)
        with torch.inference_mode():
            *exits, own = choice.forward_exits(x)
        graph = lower(once, choice)
        assert graph.outputs == ("logits", "exit_1", "exit_2")
        for expected, found in zip((own, *exits), answers(graph, x), strict=True):
            assert onnx_checks.snr_db(expected.numpy(), found) >= 30


# --- names, shapes and values of initializers --------------------------------------------------------------------


@GRID
@EVERY
def test_parameters_keep_their_names_whatever_their_precision(backbone: type[nn.Module], grid: str) -> None:
    made, once = traced(backbone, grid)
    integers, floats = tensors(lower(once, made)), tensors(lower(once, with_float(made, member_kinds(made))))
    for layer in made.plan.weight_bits:
        assert integers[f"layers.{layer}.weight_q"].dtype == np.int8
        assert integers[f"layers.{layer}.scale"].dtype == floats[f"layers.{layer}.weight"].dtype == np.float32
        assert floats[f"layers.{layer}.bias"].ndim == 1
        assert {f"layers.{layer}.bias", f"layers.{layer}.bias_q"} & integers.keys()


@GRID
@EVERY
def test_scales_of_tensors_are_scalars_and_those_of_weights_per_output_channel(
    backbone: type[nn.Module], grid: str
) -> None:
    made, once = traced(backbone, grid)
    found = tensors(lower(once, made))
    for key in made.quantizers:
        assert found[f"edges.{key}.scale"].shape == found[f"edges.{key}.zero_point"].shape == ()
    for layer in made.plan.weight_bits:
        n_outputs = made.backbone.get_parameter(f"{layer}.weight").shape[0]
        assert found[f"layers.{layer}.scale"].shape == (n_outputs,)


def test_operands_of_a_concatenation_have_pairs_of_their_own_on_one_scale() -> None:
    made, once = traced(Concat, "ort")
    graph = lower(once, made)
    pairs = [graph.edges["cat", position] for position in (0, 1)]
    scales = {node.input[1] for node in onnx.load_model_from_string(graph.model).graph.node if node.output[0] in pairs}
    assert len(set(pairs)) == 2
    assert len(scales) == 1


@GRID
def test_four_bit_activations_are_clipped_to_their_grid(grid: str) -> None:
    made = quantized(network(Plain(), grid), bits=4)
    for quantizer in made.quantizers.values():
        quantizer.bits = 4  # type: ignore[assignment]
    graph = to_onnx(made, OPSET)
    wide = 10 * images()
    assert onnx_checks.snr_db(simulated(made, wide), answers(graph, wide)[0]) >= 30
    assert "Clip" in {node.op_type for node in onnx.load_model_from_string(graph.model).graph.node}
    weights = [array for name, array in tensors(graph).items() if name.endswith("weight_q")]
    assert max(abs(array.astype(int)).max() for array in weights) <= 7


@GRID
def test_two_of_four_holds_in_the_integers_after_every_choice(
    grid: str, baseline: CompressionState, task: Task
) -> None:
    made = follow(baseline, "SQ", task, make_profile()).network
    made.set_grid(grid_named(grid))
    masked = [layer for layer in made.masks.layers if layer in made.plan.weight_bits]
    assert masked
    once = trace(made, OPSET)
    floats = with_float(made, masked[:2])
    found, mixed = tensors(lower(once, made)), tensors(lower(once, floats))
    for layer in masked:
        assert sparsity_of(found[f"layers.{layer}.weight_q"]).is_two_four, layer
        name = "weight" if layer in masked[:2] else "weight_q"
        assert sparsity_of(mixed[f"layers.{layer}.{name}"]).is_two_four, layer


# --- networks that people write ----------------------------------------------------------------------------------


class _Convs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm, self.conv2 = conv(3, 8), nn.BatchNorm2d(8), conv(8, 8)
        self.classifier = nn.Linear(8, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv1(x)))
        return self.classifier(torch.relu(self.conv2(x)).mean((2, 3)))


class CalledByKeyword(_Convs):
    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(input=self.conv1(input=x)))
        return self.classifier(torch.relu(self.conv2(input=x)).mean((2, 3)))


class UncapturedByKeyword(BranchOnShape):
    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv1(input=x))
        x = x[:, :, ::2, ::2] if x.shape[2] > 100 else x
        return self.classifier(torch.relu(self.conv2(x)).mean((2, 3)))


class NamesOfMethods(nn.Module):
    """Layers named as the methods of a container are."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 2, 2)
        self.queries, self.keys, self.values = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.classifier = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).to(torch.float32).flatten(2).transpose(1, 2)
        weights = torch.softmax(self.queries(x) @ self.keys(x).transpose(1, 2), -1)
        return self.classifier((weights @ self.values(x)).mean(1))


class NamesAlikeButForADot(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.a_0, self.classifier = nn.Sequential(conv(3, 8)), conv(8, 6), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.relu(self.a_0(torch.relu(self.a(x)))).mean((2, 3)))


class NormBehindLinear(_Convs):
    def __init__(self) -> None:
        super().__init__()
        del self.conv2
        self.linear, self.norm1 = nn.Linear(8, 8, bias=False), nn.BatchNorm1d(8)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv1(x))).mean((2, 3))
        return self.classifier(torch.relu(self.norm1(self.linear(x))))


class NormOverTokens(_Convs):
    """It normalises the tokens, as many as the layer before it has outputs."""

    def __init__(self) -> None:
        super().__init__()
        del self.conv2
        self.linear, self.norm1 = nn.Linear(8, 64), nn.BatchNorm1d(64)
        self.classifier = nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv1(x))).flatten(2).transpose(1, 2)
        return self.classifier(torch.relu(self.norm1(self.linear(x))).mean(1))


class LinearOverPixels(_Convs):
    """A linear layer on (N, H, W, C)."""

    def __init__(self) -> None:
        super().__init__()
        del self.conv2
        self.linear = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv1(x))).permute(0, 2, 3, 1)
        return self.classifier(torch.relu(self.linear(x)).mean((1, 2)))


class MeanOfThreeAxes(_Convs):
    """Its mean over the last two of three axes is no mean over height and width."""

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv2(torch.relu(self.norm(self.conv1(x)))))
        return self.classifier(x.mean((2, 3))) + x.flatten(2).mean((-2, -1), keepdim=True).squeeze(-1)


class Transposed(_Convs):
    """A layer that is never quantized between two that are."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(8, 8, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.up(torch.relu(self.norm(self.conv1(x)))))
        return self.classifier(torch.relu(self.conv2(x)).mean((2, 3)))


@GRID
@pytest.mark.parametrize(
    "backbone",
    [
        CalledByKeyword,
        UncapturedByKeyword,
        NamesOfMethods,
        NamesAlikeButForADot,
        NormBehindLinear,
        NormOverTokens,
        LinearOverPixels,
        MeanOfThreeAxes,
        Transposed,
    ],
    ids=lambda each: each.__name__,
)
def test_network_as_people_write_it_is_held_in_integers_and_agrees(backbone: type[nn.Module], grid: str) -> None:
    made, once = traced(backbone, grid)
    graph = lower(once, made)
    rows = onnx_checks.lowering_rows(onnx.load_model_from_string(graph.model), graph.asked)
    assert {row.held for row in rows} == {"int8"}
    assert onnx_checks.snr_db(simulated(made, images()), answers(graph, images())[0]) >= 30


@pytest.mark.parametrize("opset", [18, 19, 21, 23])
def test_opset_is_the_one_asked_for(opset: int) -> None:
    made, _ = traced(Residual, "ort")
    model = onnx.load_model_from_string(to_onnx(made, opset).model)
    assert [each.version for each in model.opset_import] == [opset]
    onnx.checker.check_model(model, full_check=True)


def test_opset_that_torch_cannot_write_is_refused_in_one_line() -> None:
    with pytest.raises(NacdeployError, match=r"not 99: change export.opset in the profile"):
        trace(network(Plain()), 99)
