"""Residual branches that may go are found, and without them a network answers as with zeros for their outputs."""

import copy
from typing import Any

import pytest
import torch
from small_networks import SHAPE, DataDependent, Plain, Residual, conv, images, network
from torch import Tensor, fx, nn
from torchvision.models import mobilenet_v2, resnet18

from nacdeploy.exporters.targets import grid_named
from nacdeploy.models import deit, mobilenet, resnet
from nacdeploy.network.attachments.sparsity import Sparsity
from nacdeploy.network.captured.graph import Captured, Interpreter
from nacdeploy.network.cost import cost
from nacdeploy.network.network import Network, count_parameters
from nacdeploy.surgery.depth.branches import branches
from nacdeploy.surgery.depth.dropping import Block, drop, misfit

SMALL = {"n_classes": 5, "channels": 3, "input_size": (8, 8)}


class Block2(nn.Module):
    """One branch, with the addition in place and one ReLU for all."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.relu = conv(8, 8), conv(8, 8), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.relu(self.conv1(x)))
        y += x
        return self.relu(y)


def chain(*blocks: nn.Module) -> nn.Module:
    return nn.Sequential(conv(3, 8), nn.ReLU(), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))


class Twice(nn.Module):
    """Its layer is called in the branch and once more."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x + self.conv(x))


class Leaking(Block2):
    """A value within the branch is read behind the addition."""

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.conv1(x))
        return (x + self.conv2(y)) * y


class Counting(Block2):
    """Its code counts on the shape that the first layer gives."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(8, 4), conv(2, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.conv1(x).reshape(-1, 2, 2, 8, 8).sum(2))


class Around(nn.Module):
    """A branch around another branch."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.last = Block2(), conv(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.last(self.inner(x.clone()))


CASES: dict[str, tuple[Any, tuple[int, ...], int]] = {
    "resnet8": (lambda: resnet.build("resnet8", **SMALL, width=4), SHAPE, 1),
    "resnet20": (lambda: resnet.build("resnet20", **SMALL, width=4), SHAPE, 7),
    "mobilenet_v2": (lambda: mobilenet.build("mobilenet_v2", **SMALL, width=0.25), SHAPE, 12),
    "deit_tiny": (lambda: deit.build("deit_tiny", **SMALL, width=12), SHAPE, 24),
    "torchvision resnet18": (lambda: resnet18(num_classes=5), (3, 32, 32), 5),
    "torchvision mobilenet_v2": (lambda: mobilenet_v2(num_classes=5, width_mult=0.25), (3, 32, 32), 11),
    "by hand": (Residual, SHAPE, 1),
    "in place": (lambda: chain(Block2(), Block2()), SHAPE, 2),
    "around another": (lambda: chain(Around()), SHAPE, 1),
}


class Silenced(Interpreter):
    """A network with zeros for some tensors, to compare with."""

    def __init__(self, backbone: nn.Module, captured: Captured, names: set[str]) -> None:
        super().__init__(backbone, captured)
        self.names = names

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        return value * 0 if n.name in self.names else value


@pytest.mark.parametrize("name", CASES)
def test_network_without_branches_answers_as_with_zeros_for_them(name: str) -> None:
    build, shape, n_branches = CASES[name]
    made = Network(build(), grid_named("ort"), shape).eval()
    found = branches(made)
    assert len(found) == n_branches
    smaller = copy.deepcopy(made)
    drop(smaller, [branch.block for branch in found])
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = Silenced(made.backbone, made.captured, {branch.output for branch in found}).run(x)
        assert torch.allclose(smaller(x), expected, rtol=1e-5, atol=1e-6)
        assert torch.allclose(smaller.backbone(x), expected, rtol=1e-5, atol=1e-6)
    gone = {layer for branch in found for layer in branch.layers}
    assert smaller.layers.keys() == made.layers.keys() - gone
    assert count_parameters(smaller) < count_parameters(made)
    assert cost(smaller, smaller.example_input()).macs < cost(made, made.example_input()).macs
    assert smaller.graph is not None
    assert not any(branch.nodes & {node.name for node in smaller.graph.nodes} for branch in found)


@pytest.mark.parametrize("block", [Twice, Leaking, Counting])
def test_branch_that_others_need_stays(block: type[nn.Module]) -> None:
    assert branches(network(chain(block()))) == ()


@pytest.mark.parametrize("backbone", [Plain, DataDependent])
def test_network_without_residual_branches_has_none(backbone: type[nn.Module]) -> None:
    assert branches(network(backbone())) == ()


def test_clamp_behind_a_dropped_branch_goes_with_it() -> None:
    made = Network(resnet.build("resnet20", **SMALL, width=4), grid_named("ort"), SHAPE).eval()
    (block,) = [branch.block for branch in branches(made) if branch.block.end == "stages.0.1.bn2"]
    drop(made, [block])
    assert made.graph is not None
    names = {node.name for node in made.graph.nodes}
    assert "stages_0_0_relu2" in names and "stages_0_1_relu2" not in names


def test_masks_go_with_their_layers() -> None:
    made = network(chain(Block2()))
    made.sparsify(Sparsity("element", 0.5, (), 1))
    before = set(made.masks.layers)
    (branch,) = branches(made)
    drop(made, [branch.block])
    assert set(made.masks.layers) == before - set(branch.layers)
    assert torch.isfinite(made(images())).all()


@pytest.mark.parametrize(
    ("block", "why"),
    [
        (Block(("9",), "9"), "which the model lacks"),
        (Block(("2", "2.conv1"), "2"), "twice"),
        (Block(("2.conv1",), "2.conv2"), "none of its modules"),
        (Block(("",), ""), "which the model lacks"),
    ],
)
def test_block_of_another_network_does_not_fit(block: Block, why: str) -> None:
    made = network(chain(Block2()))
    assert misfit(made, [branch.block for branch in branches(made)]) is None
    assert why in str(misfit(made, [block]))
