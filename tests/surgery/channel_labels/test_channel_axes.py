"""Channels of networks that users bring: what may be cut is cut right, and what is left is named with its cause."""

import copy
import re
from collections.abc import Callable

import pytest
import torch
from small_networks import conv, images, network
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from nacdeploy.network.captured.capture import first_tensor
from nacdeploy.network.captured.decibels import snr_db
from nacdeploy.network.network import Network
from nacdeploy.surgery.channels import channel_choice, channel_groups, channel_pruning
from nacdeploy.surgery.channels.channel_soundness import Soundness


class ChannelsFirstNorm(nn.LayerNorm):
    """LayerNorm over the channels of (N, C, H, W), as ConvNeXts have it."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        return functional.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps).permute(0, 3, 1, 2)


class Body(nn.Module):
    """A first convolution, a middle part of 8 channels, and a classifier."""

    def __init__(self, middle: nn.Module, n_read: int = 8) -> None:
        super().__init__()
        self.first, self.middle, self.classifier = conv(3, 8), middle, nn.Linear(n_read, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.middle(torch.relu(self.first(x))).mean((2, 3)))


class StandardisedConv(nn.Conv2d):
    """Its weight follows from all of its inputs."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = weight / (weight.std((1, 2, 3), keepdim=True) + 1e-5)
        return functional.conv2d(x, weight, self.bias, self.stride, self.padding)


class Recurrent(nn.Module):
    def __init__(self, kind: Callable[..., nn.Module] = nn.LSTM) -> None:
        super().__init__()
        self.a, self.b = conv(3, 8), conv(8, 6)
        self.rnn, self.h = kind(6 * 8, 4, bidirectional=True, batch_first=True), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.b(torch.relu(self.a(x)))).permute(0, 3, 1, 2).flatten(2)
        return self.h(self.rnn(x)[0][:, -1])


class Split(nn.Module):
    """Its halves go separate ways, by a number that the code holds."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.left = conv(8, 8), conv(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        left, right = torch.split(torch.relu(self.inner(x)), 4, 1)
        return torch.cat([self.left(left), right], 1)


class DualPath(nn.Module):
    """A sum and a growing concatenation side by side, on which torch-pruning raises."""

    def __init__(self) -> None:
        super().__init__()
        self.expand, self.out, self.last = conv(8, 8), conv(8, 10), conv(12, 8)

    def forward(self, x: Tensor) -> Tensor:
        held, grown = x[:, :6], x[:, 6:]
        new = self.out(torch.relu(self.expand(torch.cat([held, grown], 1))))
        return self.last(torch.cat([held + new[:, :6], grown, new[:, 6:]], 1))


class Attentive(nn.Module):
    """Squeeze and excite, and a mean over channels as a map."""

    def __init__(self) -> None:
        super().__init__()
        self.squeeze, self.excite, self.last = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1), conv(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = x * torch.sigmoid(self.excite(torch.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        return self.last(x)


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wide, self.last = conv(8, 16), conv(8, 8)
        self.scale = nn.Parameter(torch.ones(8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(functional.glu(self.wide(x), 1) * self.scale)


class Several(nn.Module):
    """Answers with a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Body(conv(8, 8))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.body(x), "twice": 2 * self.body(x)}


def unbiased(norm: nn.Module) -> nn.Module:
    norm.register_parameter("bias", None)
    return norm


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "layer norm of channels": lambda: Body(nn.Sequential(conv(8, 8), ChannelsFirstNorm(8), conv(8, 8))),
    "group norm": lambda: Body(nn.Sequential(conv(8, 8), nn.GroupNorm(2, 8), conv(8, 8))),
    "group norm without a bias": lambda: Body(nn.Sequential(conv(8, 8), unbiased(nn.GroupNorm(1, 8)), conv(8, 8))),
    "group norm of single channels": lambda: Body(nn.Sequential(conv(8, 8), nn.GroupNorm(8, 8), conv(8, 8))),
    "old weight norm": lambda: Body(nn.Sequential(nn.utils.weight_norm(conv(8, 8)), nn.ReLU(), conv(8, 8))),
    "weight norm": lambda: Body(nn.Sequential(parametrizations.weight_norm(conv(8, 8)), nn.ReLU(), conv(8, 8))),
    "standardised weights": lambda: Body(nn.Sequential(conv(8, 8), StandardisedConv(8, 8, 3, 1, 1))),
    "lstm": Recurrent,
    "gru": lambda: Recurrent(nn.GRU),
    "split": lambda: Body(Split()),
    "dual path": lambda: Body(DualPath()),
    "squeeze and excite": lambda: Body(Attentive()),
    "gated": lambda: Body(Gated()),
    "channel shuffle": lambda: Body(nn.Sequential(conv(8, 8, 2), nn.ChannelShuffle(2), conv(8, 8, 2))),
    "depthwise that multiplies": lambda: Body(nn.Sequential(conv(8, 16, 8), conv(16, 8))),
    "prelu": lambda: Body(nn.Sequential(conv(8, 8), nn.PReLU(8), conv(8, 8))),
    "instance norm": lambda: Body(nn.Sequential(conv(8, 8), nn.InstanceNorm2d(8, affine=True), conv(8, 8))),
    "dict": Several,
}


def half(made: Network) -> dict[str, tuple[int, ...]]:
    found = channel_groups.groups(made)
    return channel_choice.choose_each(found, {g.root: g.n_channels / 2 for g in found}, 1)


@pytest.mark.parametrize("name", NETWORKS)
def test_half_of_the_channels_can_go_as_if_they_were_zero(name: str) -> None:
    made = network(NETWORKS[name]())
    removed = half(made)
    cut = channel_pruning.plan_cut(made, removed)
    assert removed
    assert Soundness(made).holds(cut)
    smaller = copy.deepcopy(made)
    channel_pruning.apply_cut(smaller, cut)
    assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in made.parameters())
    with torch.no_grad():
        assert snr_db(first_tensor(smaller.backbone(images())), smaller(images())) > 100
    for root, channels in removed.items():
        before, after = (each.layers[root].weight.shape[0] for each in (made, smaller))  # type: ignore[union-attr]
        assert after == before - len(channels)  # type: ignore[operator]


def test_layer_norm_counts_the_channels_that_are_left() -> None:
    """By hand: the whole network with the norm's statistics over the channels that stay."""
    made = network(Body(nn.Sequential(conv(8, 8), ChannelsFirstNorm(8))))
    cut = channel_pruning.plan_cut(made, {"middle.0": (1, 4)})
    smaller = copy.deepcopy(made)
    channel_pruning.apply_cut(smaller, cut)
    left = [0, 2, 3, 5, 6, 7]
    body = made.backbone
    with torch.no_grad():
        x = body.get_submodule("middle.0")(torch.relu(body.get_submodule("first")(images())))[:, left].movedim(1, -1)
        norm, last = body.get_submodule("middle.1"), body.get_submodule("classifier")
        x = functional.layer_norm(x, (6,), norm.weight[left], norm.bias[left])  # type: ignore[index]
        expected = functional.linear(x.mean((1, 2)), last.weight[:, left], last.bias)  # type: ignore[index, arg-type]
        assert snr_db(expected, smaller(images())) > 100


def test_group_norm_loses_as_many_channels_of_each_group() -> None:
    made = network(NETWORKS["group norm"]())
    group = next(group for group in channel_groups.groups(made) if group.root == "middle.0")
    assert group.quantum == 2
    assert abs(group.order[0] - group.order[1]) == 4


@pytest.mark.parametrize(
    ("name", "layer", "cause"),
    [
        ("standardised weights", "middle.0", "a StandardisedConv that reads it computes its weight"),
        ("lstm", "b", "lstm in 'rnn'"),
        ("gru", "b", "gru in 'rnn'"),
        ("split", "middle.inner", "own code counts or mixes"),
    ],
)
def test_layer_that_is_left_is_named_with_its_cause(name: str, layer: str, cause: str) -> None:
    made = network(NETWORKS[name]())
    assert re.search(cause, channel_groups.left_out(made)[layer])
    assert "classifier" not in channel_groups.left_out(made)


def test_tied_weights_are_left_and_named() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.a, self.b, self.last = conv(3, 8), conv(8, 8), conv(8, 8), nn.Linear(8, 5)
            self.b.weight = self.a.weight

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.b(torch.relu(self.a(torch.relu(self.first(x))))))
            return self.last(x.mean((2, 3)))

    left = channel_groups.left_out(network(Tied()))
    assert left["a"] == "its values are tied: a.weight is b.weight"


def test_causes_are_counted_and_the_commonest_comes_first() -> None:
    why = {"a": "one", "b": "two", "c": "two", "d": "two", "e": "two"}
    assert channel_choice.causes(why) == ("'b', 'c', 'd' and 1 more: two", "'a': one")


def test_cut_that_changes_the_answer_is_not_sound() -> None:
    made = network(Body(conv(8, 8)))
    cut = channel_pruning.plan_cut(made, {"first": (2,)})
    assert Soundness(made).holds(cut)
    wrong = [
        channel_pruning.Slice(s.tensor, s.axis, (0, 1, 2, 3, 4, 5, 6) if s.tensor.endswith("first.weight") else s.kept)
        for s in cut.slices
    ]
    assert not Soundness(made).holds(channel_pruning.Cut(tuple(wrong), cut.attributes))


@pytest.mark.parametrize("name", [name for name in NETWORKS if name.endswith("norm") or "group norm" in name])
def test_norm_keeps_no_outputs_from_being_cut(name: str) -> None:
    assert "middle.0" not in channel_groups.left_out(network(NETWORKS[name]()))
