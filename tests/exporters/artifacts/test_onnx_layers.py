"""Layers are read from the file, and every kernel of the graph that ONNX Runtime makes of it finds its layer."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from explained import IMAGES, Attention, exported, layers_of
from numpy.typing import NDArray
from onnx import numpy_helper
from small_networks import Concat, Depthwise, FlattenLinear, Grouped, Plain, Residual, Signal, Volume
from torch import Tensor, nn

from nacdeploy.exporters.artifacts.float_twin import float_twin
from nacdeploy.exporters.artifacts.onnx_layers import BETWEEN, KERNELS, base_name, owners
from nacdeploy.exporters.targets.ort.runner import OPTIMIZED, OnnxRunner
from nacdeploy.network import cost
from nacdeploy.network.attachments.sparsity import sparsity_of

NETWORKS = [Plain, Residual, Concat, Depthwise, Grouped, FlattenLinear, Attention, Signal, Volume]


def optimized(model: onnx.ModelProto, folder: Path) -> onnx.GraphProto:
    OnnxRunner(model.SerializeToString(), trace=folder).end_trace()
    return onnx.load(folder / OPTIMIZED).graph


@pytest.mark.parametrize("backbone", NETWORKS)
@pytest.mark.parametrize("quantized", [True, False])
def test_layers_have_the_macs_that_torch_counts(backbone: type[nn.Module], quantized: bool) -> None:
    made, model, rows = exported(backbone, quantized=quantized)
    layers = layers_of(model, rows)
    expected = cost.layer_costs(made, torch.zeros(IMAGES.shape))
    assert sorted(layer.macs for layer in layers) == sorted(row.macs for row in expected)
    assert {layer.name for layer in layers if layer.kind != "product"} == {row.layer for row in rows}
    assert {layer.held for layer in layers} == {"int8" if quantized else "float32"}


def test_layers_name_channels_and_kinds() -> None:
    _, model, rows = exported(Depthwise)
    found = {layer.name: (layer.kind, layer.n_inputs, layer.n_outputs) for layer in layers_of(model, rows)}
    assert found == {
        "expand": ("conv", 3, 8),
        "depthwise": ("depthwise conv", 8, 8),
        "project": ("conv", 8, 6),
        "classifier": ("linear", 6, 5),
    }


def test_products_of_activations_are_layers_without_channels() -> None:
    _, model, rows = exported(Attention)
    products = [layer for layer in layers_of(model, rows) if layer.kind == "product"]
    assert [(p.macs, p.n_inputs, p.zero_fraction) for p in products] == [(16 * 16 * 16, None, None)] * 2


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.reader, self.answer = nn.LSTM(IMAGES.shape[-1], 16, batch_first=True, bidirectional=True), nn.Linear(32, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.answer(self.reader(images.flatten(1, 2))[0][:, -1])


def test_recurrent_layer_has_its_own_macs_and_time() -> None:
    made, model, rows = exported(Recurrent)
    layers = layers_of(model, rows)
    expected = cost.layer_costs(made, torch.zeros(IMAGES.shape))
    assert sorted(layer.macs for layer in layers) == sorted(row.macs for row in expected)
    (recurrent,) = (layer for layer in layers if layer.kind == "recurrent")
    owner = owners(model.graph, model.graph, layers)
    assert all(owner[node.name] != "answer" for node in model.graph.node if node.op_type == "LSTM")
    assert recurrent.held == "float32" and recurrent.n_inputs is None


def test_layers_read_their_zeros_from_the_integers() -> None:
    _, model, rows = exported(Plain)
    row = next(row for row in rows if row.layer == "3")
    name = next(t.name for t in model.graph.initializer if t.name.startswith("layers.3.weight"))
    tensor = next(t for t in model.graph.initializer if t.name == name)
    weight = numpy_helper.to_array(tensor).copy()
    weight[:, ::2] = 0
    tensor.CopyFrom(numpy_helper.from_array(weight, name))
    (layer,) = [layer for layer in layers_of(model, rows) if layer.name == row.layer]
    assert layer.zero_fraction == pytest.approx(1 - np.count_nonzero(weight) / weight.size)
    assert layer.is_two_four


@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        (np.array([[1, 0, 1, 0], [0, 0, 1, 1]]), True),
        (np.array([[1, 0, 1, 1]]), False),
        (np.array([[0, 1, 1, 0, 0, 1, 1, 0]]), True),
        (np.array([[0, 0, 1, 1, 1, 0, 0, 0]]), True),
        (np.array([[0, 0, 0]]), False),
        (np.ones((2, 4, 3, 3)) * np.array([1, 0, 0, 1]).reshape(1, 4, 1, 1), True),
        (np.ones((2, 4, 3, 3)), False),
    ],
)
def test_is_two_four_looks_along_input_channels(weight: NDArray[np.float64], expected: bool) -> None:
    assert sparsity_of(weight).is_two_four is expected


@pytest.mark.parametrize("target", ["ort", "trt"])
@pytest.mark.parametrize("backbone", NETWORKS)
def test_every_kernel_of_the_optimised_graph_finds_its_layer(
    backbone: type[nn.Module], target: str, tmp_path: Path
) -> None:
    _, model, rows = exported(backbone, target)
    layers = layers_of(model, rows)
    for name, each in (("own", model), ("twin", float_twin(model))):
        (tmp_path / name).mkdir()
        built = optimized(each, tmp_path / name)
        owner = owners(built, model.graph, layers)
        kernels = [owner[node.name] for node in built.node if node.op_type in KERNELS]
        assert sorted(kernels) == sorted(layer.name for layer in layers for _ in layer.nodes)


@pytest.mark.parametrize("width", [6, 8, 16, 17])
def test_kernels_find_their_layers_in_every_layout(width: int, tmp_path: Path) -> None:
    """Widths decide whether ONNX Runtime blocks channels, and so renames weights and nodes."""

    def backbone() -> nn.Module:
        convs = (nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU())
        return nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 5))

    _, model, rows = exported(backbone, quantized=False)
    built = optimized(model, tmp_path)
    owner = owners(built, model.graph, layers_of(model, rows))
    assert [owner[n.name] for n in built.node if n.op_type in KERNELS] == ["0", "2", "6"]


def test_nodes_follow_the_layer_that_their_data_comes_from() -> None:
    _, model, rows = exported(Residual, quantized=False)
    owner = owners(model.graph, model.graph, layers_of(model, rows))
    by_type = {(node.op_type, owner[node.name]) for node in model.graph.node}
    assert {("Relu", "stem.0"), ("Relu", "conv1"), ("Add", BETWEEN)} <= by_type


def test_a_conversion_that_follows_no_layer_belongs_to_its_reader() -> None:
    _, model, rows = exported(Plain)
    owner = owners(model.graph, model.graph, layers_of(model, rows))
    first = next(node for node in model.graph.node if node.op_type == "QuantizeLinear" and "images" in node.input)
    assert owner[first.name] == "0"


@pytest.mark.parametrize(
    ("name", "base"),
    [("node_conv_token_12", "node_conv"), ("relu_1_nchwc", "relu_1"), ("a/duplicated", "a"), ("plain", "plain")],
)
def test_base_name_takes_off_what_the_runtime_appends(name: str, base: str) -> None:
    assert base_name(name) == base
