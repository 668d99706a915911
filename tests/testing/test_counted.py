"""Claims counted on what runs."""

import pytest
import torch
from small_networks import Residual
from torch import nn

from nacdeploy.exporters.onnx_graph.trace import to_onnx
from nacdeploy.testing import counted
from nacdeploy.testing.foreign import Foreign, of_module


@pytest.fixture(scope="module")
def made() -> Foreign:
    module = Residual()
    module.classifier = nn.Linear(8, 10)
    return of_module(module, 16)


def test_integers_in_the_file_are_the_layers_that_are_quantized(made: Foreign) -> None:
    model = to_onnx(made.quantized.network, 20).model
    assert counted.integer_weights(model) == counted.integer_nodes_that_run(model, made.images(1).numpy()) == 4


def test_no_integers_are_counted_in_a_float_file(made: Foreign) -> None:
    assert counted.integer_weights(to_onnx(made.start.network, 20).model) == 0


def test_zeros_are_seen_in_the_weights_that_run_and_in_the_file(made: Foreign) -> None:
    network = made.after("S").network
    masks = {name: network.masks.get(name) for name in network.masks.layers}
    assert masks.keys() == counted.zeros_that_run(network, made.images(2), masks)
    assert masks.keys() == counted.zeros_in_file(to_onnx(network, 20).model, masks)


def test_zeros_that_do_not_run_are_not_seen(made: Foreign) -> None:
    masks = {"conv2": torch.rand(8, 8, 3, 3) > 0.5}
    assert counted.zeros_that_run(made.start.network, made.images(2), masks) == set()
    assert counted.zeros_in_file(to_onnx(made.start.network, 20).model, masks) == set()
