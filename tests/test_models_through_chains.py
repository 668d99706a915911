"""What every kind of network must survive: sound cuts, and convolutions that run on integers from end to end."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from nacdeploy.base.precision import Precision
from nacdeploy.exporters.targets import grid_named
from nacdeploy.models import resolve
from nacdeploy.network.attachments.exit_places import exit_places
from nacdeploy.network.attachments.fake_quant import Rule
from nacdeploy.network.network import Network
from nacdeploy.surgery.channels import channel_groups

W8A8 = Rule(Precision.parse("w8a8"), min_channels=16)


class Branches(nn.Module):
    """Functional activations, a concatenation, max pooling and a swish."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right = nn.Conv2d(1, 16, 3), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 1)
        self.joined, self.classifier = nn.Conv2d(32, 32, 3, padding=1), nn.Linear(32, 10)
        self.swish = nn.Hardswish()

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.stem(x))
        x = torch.cat([functional.relu(self.left(x)), self.swish(self.right(x))], 1)
        return self.classifier(functional.max_pool2d(functional.relu(self.joined(x)), 2).mean((2, 3)))


@pytest.fixture
def branches() -> Network:
    return Network(Branches().eval(), grid_named("ort"), (1, 16, 16))


def test_concatenation_and_pool_read_quantized_tensors(branches: Network) -> None:
    branches.quantize(W8A8)
    inputs = branches.plan.inputs
    assert len(inputs["cat"]) == 2
    assert inputs["max_pool2d"][0] == inputs["mean"][0] == "relu_2"


def test_smooth_activation_reads_a_quantized_convolution(branches: Network) -> None:
    branches.quantize(W8A8)
    assert branches.plan.inputs["swish"] == {0: "right"}


def test_functional_activations_offer_exit_places(branches: Network) -> None:
    assert branches.graph is not None
    assert [place.name for place in exit_places(branches.graph, branches.backbone)] == ["relu"]


@pytest.mark.parametrize(("groups", "covered"), [(16, True), (4, False)])
def test_depthwise_convolution_counts_its_channels(groups: int, covered: bool) -> None:
    assert W8A8.covers("layer", nn.Conv2d(16, 16, 3, groups=groups)) is covered


def test_reflecting_convolution_stays_float() -> None:
    assert not W8A8.covers("layer", nn.Conv2d(32, 32, 3, padding=1, padding_mode="reflect"))


def test_transformer_gives_up_embedding_and_hidden_channels_and_whole_heads() -> None:
    spec = resolve("deit_tiny", n_classes=10, channels=1, input_size=(16, 16), width=12)
    network = Network(spec.build().eval(), grid_named("ort"), (1, 16, 16))
    roots = [group.root for group in channel_groups.groups(network)]
    assert len(roots) == 25
    assert sum("qkv" in root for root in roots) == 12  # of each block
