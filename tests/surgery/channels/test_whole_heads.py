"""Heads of attention go as wholes where the network's own code takes their number from attributes of its own."""

import json
from typing import Any

import pytest
import torch
from small_networks import Attending, Heads, Separate, images, network
from torch import Tensor, nn

from nacdeploy.base import records
from nacdeploy.metrics import ACCURACY
from nacdeploy.network.network import Network
from nacdeploy.surgery.channels import channel_choice, channel_groups, channel_importance, channel_pruning
from nacdeploy.surgery.channels.channel_choice import READER, Group, families
from nacdeploy.surgery.channels.channel_pruning import Cut


class Around(nn.Module):
    """One kind of attention between two layers."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.stem, self.attention, self.classifier = nn.Conv2d(3, 24, 2, 2), attention, nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.attention(self.stem(x).flatten(2).transpose(1, 2)).mean(1))


class FromShape(Attending):
    """Its heads have the width of the input over their number."""

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        q, k, v = self.qkv(x).reshape(n, length, 3, self.num_heads, width // self.num_heads).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).reshape(n, length, width))


class HeadsFirst(nn.Module):
    """The three parts of each head side by side, its number under another name, and no count for the answer."""

    def __init__(self) -> None:
        super().__init__()
        self.n_head, self.dim = 4, 24
        self.to_qkv, self.out = nn.Linear(24, 96), nn.Linear(32, 24)

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[-1] == self.dim
        q, k, v = self.to_qkv(x).view(*x.shape[:2], self.n_head, 24).transpose(1, 2).chunk(3, -1)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, scale=0.3)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Shared(nn.Module):
    """Two blocks whose code is in one module, with one count of heads."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 4
        self.blocks = nn.ModuleList(nn.ModuleDict({k: nn.Linear(24, 24) for k in "qkvo"}) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            q, k, v = (block[key](x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for key in "qkv")
            x = x + block["o"](nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x


def of_heads(made: Network) -> list[Group]:
    return [group for group in channel_groups.groups(made) if group.run > 1]


def without(made: Network, place: int) -> tuple[Network, Cut]:
    """The network without one head of each attention."""
    removed = {g.root: families(g.n_channels, g.quantum, g.run)[place] for g in of_heads(made)}
    cut = channel_pruning.plan_cut(made, removed)
    smaller = network(type(made.backbone)(*getattr(made.backbone, "given", ())))
    smaller.load_state_dict(made.state_dict())
    channel_pruning.apply_cut(smaller, records.from_data(Cut, json.loads(json.dumps(records.to_data(cut)))))
    return smaller, cut


def test_families_are_the_same_head_of_each_part() -> None:
    assert families(12, 2, 3) == [(0, 1, 2, 6, 7, 8), (3, 4, 5, 9, 10, 11)]
    assert families(6, 1, 2) == [(0, 1), (2, 3), (4, 5)] and families(6, 3) == [(0, 2, 4), (1, 3, 5)]


@pytest.mark.parametrize("place", range(4))
def test_network_without_a_head_is_the_one_that_masks_its_answer(place: int) -> None:
    """Exactly the head that is named is gone: its columns of the layer behind are zero, and nothing else changes."""
    made = network(Heads())
    smaller, _ = without(made, place)
    assert [smaller.backbone.get_submodule(name).in_features for name in ("first.proj", "third.dense")] == [18, 18]
    with torch.no_grad():
        for name in ("first.proj", "second.proj", "third.dense"):
            made.backbone.get_submodule(name).weight[:, 6 * place : 6 * place + 6] = 0.0  # type: ignore[index]
    torch.testing.assert_close(smaller(images()), made(images()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("attention", "counts"),
    [
        (Attending(), {"num_heads": 3, "attn_dim": 18}),
        (Attending(is_fused=False), {"num_heads": 3, "attn_dim": 18}),
        (Separate(), {"num_attention_heads": 3, "all_head_size": 18}),
        (HeadsFirst(), {"n_head": 3}),
    ],
    ids=["fused", "spelt out", "separate", "heads first"],
)
def test_attributes_that_count_heads_follow(attention: nn.Module, counts: dict[str, int]) -> None:
    made = network(Around(attention))
    (group,) = of_heads(made)
    cut = channel_pruning.plan_cut(made, {group.root: families(group.n_channels, group.quantum, group.run)[1]})
    changed = {a.name: a.value for a in cut.attributes if a.module == "backbone.attention"}
    assert changed == counts
    before = made(images())
    channel_pruning.apply_cut(made, cut)
    assert made.graph is not None and made(images()).shape == before.shape
    torch.testing.assert_close(made(images()), made.backbone(images()))  # its own code answers as the captured graph


@pytest.mark.parametrize("attention", [FromShape, Shared], ids=lambda each: each.__name__)
def test_heads_stay_where_the_code_counts_otherwise(attention: Any) -> None:
    made = network(Around(attention()))
    assert of_heads(made) == []
    left = channel_groups.left_out(made)
    assert any("'attention" in why and "its heads stay" in why for why in left.values()), left


def test_widths_of_values_go_where_heads_cannot() -> None:
    made = network(Around(Shared()))
    roots = {group.root: group.quantum for group in channel_groups.groups(made)}
    assert roots["attention.blocks.0.v"] == 4
    cut = channel_pruning.plan_cut(made, {"attention.blocks.0.v": (0, 6, 12, 18)})
    channel_pruning.apply_cut(made, cut)
    assert made(images()).shape == (8, 5)


def test_last_head_stays_and_units_are_whole_heads() -> None:
    made = network(Heads())
    (first, *_) = of_heads(made)
    assert first.unit(1) == 6 and first.unit(4) == 12 and first.most(1) == 18
    chosen = channel_choice.choose([first], {first.root: 24}, 23, 1, "global")
    assert len(chosen[first.root]) == 18


@pytest.mark.parametrize("name", ["magnitude", "l1", "fpgm", "taylor", "fisher", "mean-activation"])
def test_head_that_answers_nothing_goes_first(name: str) -> None:
    """A head whose columns of the layer behind are zero, whose values are small, is the least of all."""
    made = network(Around(Attending()))
    attention: Any = made.backbone.get_submodule("attention")
    with torch.no_grad():
        attention.proj.weight[:, 12:18] = 0.0
        for layer, start in ((attention.qkv, 12), (attention.qkv, 36), (attention.qkv, 60), (attention.gate, 12)):
            layer.weight[start : start + 6] *= 1e-3
            layer.bias[start : start + 6] = -20.0 if layer is attention.gate else 0.0
    known = channel_importance.evidence(made, images(), torch.zeros(8, dtype=torch.long), ACCURACY.loss, 0)
    (group,) = of_heads(made)
    (ranked,) = channel_importance.ranked([group], name, known) if name != "magnitude" else (group,)
    assert set(ranked.order[:6]) == set(range(12, 18))


def test_columns_behind_are_shared_by_queries_keys_and_values() -> None:
    (group,) = of_heads(network(Around(HeadsFirst())))
    (reader,) = (each for each in group.members if each.role == READER)
    assert (group.root, reader.layer, group.run) == ("attention.to_qkv", "attention.out", 24)
    assert reader.indices == tuple(8 * head + column for head in range(4) for column in [*range(8)] * 3)
    made = network(Around(HeadsFirst()))
    assert channel_importance.covered([group], "fisher", made) == [group]
    assert channel_importance.covered([group], "lasso", made) == []
