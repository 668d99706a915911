"""What stands on a tensor beside the backbone: run, trained, keyed, cut, factored and exported."""

import copy
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from conftest import follow, make_profile
from torch import Tensor, nn

from nacdeploy.base.errors import NacdeployError
from nacdeploy.exporters.onnx_graph.trace import to_onnx
from nacdeploy.exporters.targets.ort.runner import OnnxRunner, Optimization
from nacdeploy.network.attachments.attachment import Attachment, OnnxWriter
from nacdeploy.network.network import Network, Simulation, no_grad_eval
from nacdeploy.profile import Profile
from nacdeploy.strategies.chain import Link
from nacdeploy.strategies.settle import unquantized
from nacdeploy.strategies.state import CompressionState, plain_key, state_key
from nacdeploy.strategies.steps import letters
from nacdeploy.surgery.channels import channel_pruning
from nacdeploy.task import Task

OPSET = 20


class Ceiling(Attachment):
    """No value of a channel is above its ceiling (C,)."""

    by_channel = ("ceiling",)

    def __init__(self, ceiling: Tensor) -> None:
        super().__init__()
        self.ceiling = nn.Parameter(ceiling)

    def forward(self, x: Tensor) -> Tensor:
        return torch.minimum(x, self.ceiling.reshape(-1, 1, 1))

    def lower(self, writer: OnnxWriter, source: str) -> str:
        return writer.node("Min", [source, writer.constant("ceiling", self.ceiling.reshape(-1, 1, 1))])


def node_of(network: Network, layer: str) -> str:
    """The node that calls a layer."""
    assert network.graph is not None
    return next(node.name for node in network.graph.nodes if str(node.target) == layer)


def capped(network: Network, layer: str = "layer1.0.conv1", low: float = 0.1) -> Network:
    """A copy of a network with a ceiling on what a layer writes, another for each channel."""
    made = copy.deepcopy(network)
    n_channels = len(made.backbone.get_submodule(layer).weight)  # type: ignore[arg-type]
    made.attach(node_of(made, layer), Ceiling(torch.linspace(low, 2 * low, n_channels)))
    return made


def with_network(state: CompressionState, network: Network) -> CompressionState:
    return replace(state, network=network)


def outputs(network: Network, x: Tensor) -> Tensor:
    with no_grad_eval(network):
        return network(x)


@pytest.fixture(scope="module")
def layer(baseline: CompressionState) -> str:
    """A convolution with a batch norm behind it, not the first."""
    return [name for name, module in baseline.network.layers.items() if isinstance(module, nn.Conv2d)][1]


@pytest.fixture(scope="module")
def images(task: Task) -> Tensor:
    return task.data.normalize(task.data.test.images[:32])


def test_readers_see_a_tensor_through_its_attachment(baseline: CompressionState, layer: str, images: Tensor) -> None:
    network = capped(baseline.network, layer)
    seen: dict[str, Tensor] = {}
    with no_grad_eval(network):
        network.run(images, Simulation(network), lambda node, value: seen.update({node: value}))
    (ceiling,) = network.attached.values()
    assert (seen[ceiling.node] <= ceiling.ceiling.reshape(-1, 1, 1)).all()
    assert not torch.equal(outputs(network, images), outputs(baseline.network, images))


def test_keys_tell_place_kind_and_values_and_stay_without_attachments(baseline: CompressionState, layer: str) -> None:
    network, other = capped(baseline.network, layer), capped(baseline.network, layer, low=0.2)
    keys = [state_key(each) for each in (baseline.network, network, other)]
    assert len(set(keys)) == 3
    assert state_key(capped(baseline.network, layer)) == keys[1]
    assert plain_key(network) not in (plain_key(baseline.network), plain_key(other))
    assert state_key(unquantized(network)) == keys[1]


def test_attachment_to_what_is_no_node_is_refused(baseline: CompressionState) -> None:
    with pytest.raises(NacdeployError, match="nothing can be attached to 'nowhere': the captured graph has no node"):
        copy.deepcopy(baseline.network).attach("nowhere", Ceiling(torch.ones(1)))


def test_second_attachment_stands_behind_the_first(baseline: CompressionState, layer: str, images: Tensor) -> None:
    network = capped(capped(baseline.network, layer, low=0.3), layer, low=0.1)
    assert len(network.attached) == 2
    assert torch.equal(outputs(network, images), outputs(capped(baseline.network, layer, low=0.1), images))


@pytest.mark.parametrize(
    "word", ["P(ratio=0.4)", "D(rank=ratio,multiple=1)", "S(pattern=filter)P(ratio=0.4)", "EP(ratio=0.4)"]
)
def test_attachment_follows_surgery_with_its_values(
    word: str, baseline: CompressionState, layer: str, task: Task, images: Tensor
) -> None:
    started = with_network(baseline, capped(baseline.network, layer))
    state = follow(started, word, task, make_profile(exits={"recipe": {"epochs": 1}}))
    (before,), (after,) = started.network.attached.values(), state.network.attached.values()
    seen: dict[str, Tensor] = {}
    with no_grad_eval(state.network):
        state.network.run(images, Simulation(state.network), lambda node, value: seen.update({node: value}))
    assert seen[after.node].shape[1] == len(after.ceiling)
    assert set(after.ceiling.tolist()) <= set(before.ceiling.tolist())
    if "P" in word:
        assert len(after.ceiling) < len(before.ceiling)


def test_reordered_channels_take_their_values_along(
    baseline: CompressionState, layer: str, task: Task, profile: Profile, images: Tensor
) -> None:
    started = with_network(baseline, capped(baseline.network, layer))
    decision = letters.make(Link("S"), profile).decide(started, task)
    reordered = copy.deepcopy(started.network)
    channel_pruning.apply_cut(reordered, decision.permutation)
    (before,), (after,) = started.network.attached.values(), reordered.attached.values()
    assert before.ceiling.tolist() != after.ceiling.tolist()
    assert torch.allclose(outputs(reordered, images), outputs(started.network, images), atol=1e-4)


def test_attachment_whose_tensor_is_gone_is_said(baseline: CompressionState, layer: str) -> None:
    network = capped(baseline.network, layer)
    (ceiling,) = network.attached.values()
    ceiling.node = "gone"
    with pytest.raises(NacdeployError, match="nothing can be attached to 'gone'"):
        network.changed()


def test_finetuning_trains_an_attachment(baseline: CompressionState, layer: str, task: Task, profile: Profile) -> None:
    network = capped(baseline.network, layer)
    network.train()
    network(task.data.normalize(task.data.train.images[:50])).square().mean().backward()
    (ceiling,) = network.attached.values()
    assert ceiling.ceiling.grad is not None
    assert ceiling.ceiling.grad.abs().sum() > 0


@pytest.mark.parametrize("word", ["", "Q", "QPF", "D(rank=ratio,multiple=1)Q"])
@pytest.mark.parametrize("optimization", ["all", "disabled"])
def test_graph_answers_as_the_network_with_attachments(
    word: str,
    optimization: Optimization,
    baseline: CompressionState,
    layer: str,
    task: Task,
    profile: Profile,
    images: Tensor,
) -> None:
    state = follow(with_network(baseline, capped(baseline.network, layer)), word, task, profile)
    graph = to_onnx(state.network, OPSET)
    nodes = onnx.load_model_from_string(graph.model).graph.node
    assert [node.name for node in nodes if node.op_type == "Min"] == [f"node_attached/{key_of(state.network)}/1"]
    (answer,) = OnnxRunner(graph.model, optimization=optimization).run(images.numpy())
    expected = outputs(state.network, images).numpy()
    # a value between two steps may be rounded either way in either of the two
    assert np.mean(np.abs(answer - expected) > 0.05 * np.abs(expected).max()) < (0.02 if "Q" in word else 1e-9)


def key_of(network: Network) -> str:
    (key,) = network.attached
    return key
