"""The channels of a tensor of three axes: of a signal (N, C, L) the second, of tokens (N, L, C) the last."""

import pytest
import torch
from small_networks import Signal, images, network
from torch import Tensor, nn

from nacdeploy.metrics import ACCURACY
from nacdeploy.network.captured.axes import channel_axis
from nacdeploy.network.network import Network
from nacdeploy.strategies.operators.add_exits.operator import AddExits, ExitsDecision, NewExit
from nacdeploy.strategies.operators.add_exits.settings import ExitTable
from nacdeploy.surgery.channels import channel_groups, channel_importance, channel_pruning


class Patches(nn.Module):
    """A map as tokens, by two ways, and as a signal again; 16 places, 8 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix, self.last = nn.Conv2d(3, 8, 2, 2), nn.Linear(8, 8), nn.Conv1d(8, 6, 1)
        self.classifier = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        signal = torch.relu(self.stem(x).flatten(2))
        tokens = torch.sigmoid(signal.transpose(1, 2))
        others = torch.tanh(self.stem(x).permute(0, 2, 3, 1).flatten(1, 2))
        mixed = self.mix(tokens + others)
        return self.classifier(torch.exp(self.last(mixed.transpose(1, 2))).mean(2))


@pytest.mark.parametrize(
    ("operator", "axis"), [("relu", 1), ("sigmoid", -1), ("tanh", -1), ("add", -1), ("transpose_1", 1), ("exp", 1)]
)
def test_axis_follows_from_what_wrote_the_tensor(operator: str, axis: int) -> None:
    made = network(Patches())
    assert made.graph is not None
    (node,) = (each for each in made.graph.nodes if each.name == operator)
    assert channel_axis(node, made.backbone, 3) == axis
    assert channel_axis(node, made.backbone, 4) == 1


def test_channels_of_a_signal_are_ranked_by_their_own_activations() -> None:
    made = network(Signal())
    with torch.no_grad():
        made.backbone.wide.bias[:5] = -100.0  # type: ignore[index, union-attr]
    labels = torch.zeros(8, dtype=torch.long)
    known = channel_importance.evidence(made, images(), labels, ACCURACY.loss, 0)
    group = next(each for each in channel_groups.groups(made) if each.root == "wide")
    (ranked,) = channel_importance.ranked([group], "apoz", known)
    assert set(ranked.order[:5]) == set(range(5))


def with_exit(made: Network, node: str, shape: tuple[int, ...]) -> Network:
    operator = AddExits(ExitTable())
    return operator.perform(made, ExitsDecision((NewExit(node, node, shape),), 5, 4))


def test_exit_of_a_signal_keeps_its_course_and_is_cut_along_with_its_channels() -> None:
    made = network(Signal())
    assert made.graph is not None
    node = [each.name for each in made.graph.nodes if each.name.startswith("relu")][-1]
    made = with_exit(made, node, (24, 14))
    (head,) = made.heads.values()
    assert not head.is_tokens and head.linear.in_features == 24 * 4
    with torch.no_grad():
        head.linear.weight.copy_(torch.randn(head.linear.weight.shape))
    cut = channel_pruning.plan_cut(made, {"wide": (0, 7)})
    channel_pruning.apply_cut(made, cut)
    (head,) = made.heads.values()
    assert head.linear.in_features == 22 * 4 and made.forward_exits(images())[0].shape == (8, 5)
