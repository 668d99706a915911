"""Ratios by layer: any layer of a group names it, whole units go, and a table that cannot hold is refused by name."""

import pytest
import torch

from nacdeploy.base.errors import UsageError
from nacdeploy.surgery.channels.channel_choice import (
    PRODUCER,
    READER,
    Group,
    Member,
    choose_each,
    ordered,
    ratio_by_root,
)

LAYERS = {"stem": 8, "conv1": 16, "conv2": 8, "fc": 5, "narrow": 1}
SHARED = tuple(Member(layer, PRODUCER, tuple(range(8))) for layer in ("stem", "conv2"))
FOUND = (
    Group("conv2", tuple(range(8)), (0.5,) * 8, 0, members=(*SHARED, Member("conv1", READER, tuple(range(8))))),
    Group("conv1", tuple(range(16)), (0.5,) * 16, 0, members=(Member("conv1", PRODUCER, tuple(range(16))),)),
)


def test_any_layer_of_a_group_names_it() -> None:
    assert ratio_by_root(FOUND, {"stem": 0.5, "conv1": 0.25}, LAYERS) == {"conv2": 0.5, "conv1": 0.25}
    assert ratio_by_root(FOUND, {"stem": 0.5, "conv2": 0.5}, LAYERS) == {"conv2": 0.5}


def test_layer_with_one_channel_left_has_nothing_to_give() -> None:
    assert ratio_by_root(FOUND, {"narrow": 0.5, "stem": 0.25}, LAYERS) == {"conv2": 0.25}


@pytest.mark.parametrize(
    ("ratios", "said"),
    [
        (
            {"stem": 0.5, "conv2": 0.25},
            r"'stem' \(0.5\) and 'conv2' \(0.25\) share their channels: give them one ratio",
        ),
        ({"cnv1": 0.5}, "no layer is named 'cnv1'; did you mean 'conv1'"),
        ({"fc": 0.5}, "the outputs of 'fc' cannot be cut"),
    ],
)
def test_table_that_cannot_hold_is_refused_in_one_line(ratios: dict[str, float], said: str) -> None:
    with pytest.raises(UsageError, match=said) as refusal:
        ratio_by_root(FOUND, ratios, LAYERS)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("asked", "multiple", "expected"),
    [
        ({"conv2": 4.0, "conv1": 4.0}, 1, {"conv2": (0, 1, 2, 3), "conv1": (0, 1, 2, 3)}),
        ({"conv1": 7.9}, 4, {"conv1": (0, 1, 2, 3)}),
        ({"conv1": 8 - 1e-12}, 8, {"conv1": tuple(range(8))}),
        ({"conv2": 7.99, "conv1": 15.99}, 1, {"conv2": tuple(range(7)), "conv1": tuple(range(15))}),
        ({"conv2": 7.99, "conv1": 15.99}, 8, {"conv1": tuple(range(8))}),
        ({}, 1, {}),
    ],
)
def test_each_group_gives_its_own_whole_units_but_the_last(
    asked: dict[str, float], multiple: int, expected: dict[str, tuple[int, ...]]
) -> None:
    assert choose_each(FOUND, asked, multiple) == expected


def test_dead_channels_lead_whatever_their_score() -> None:
    group = Group("conv1", (3, 0, 1, 2), (0.0, 1.0, 2.0, 3.0), 1)
    assert ordered(group, torch.tensor([2.0, 0.5, 0.5, 9.0])).order == (3, 1, 2, 0)
