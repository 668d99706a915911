"""E: places by measured time, and heads that the network's own end teaches."""

from collections.abc import Mapping
from dataclasses import replace

import made_up_times
import pytest
import torch
from conftest import follow, make_profile

from nacdeploy.base.errors import RefusedError
from nacdeploy.data import ImageSet
from nacdeploy.network.attachments.exit_places import Place
from nacdeploy.network.network import Network
from nacdeploy.strategies.operators.add_exits import by_time, head_size
from nacdeploy.strategies.state import CompressionState
from nacdeploy.task import Task
from nacdeploy.task.clock import Grid, Sizes

PLACES = [Place(name, name) for name in "abcd"]


@pytest.mark.parametrize(
    ("times", "total", "expected"),
    [
        ((1.0, 2.0, 3.0, 4.0), 6.0, "cadb"),  # evenly: the middle, then those of the halves
        ((1.0, 2.0, 6.0, 9.0), 12.0, "cbda"),
        ((8.0, 9.0, 10.0, 11.0), 12.0, "acbd"),  # nearly all before the first place
    ],
)
def test_middle_of_the_time_comes_first_and_then_those_of_its_halves(
    times: tuple[float, ...], total: float, expected: str
) -> None:
    before = {**dict(zip("abcd", times, strict=True)), "": total}
    assert "".join(place.name for place in by_time.middles_first(PLACES, before)) == expected


def test_times_grow_along_the_network(baseline: CompressionState, task: Task) -> None:
    profile = make_profile(exits={"n_exits": 9})
    heads = follow(baseline, "E", task, profile).network.heads
    places = [Place(head.place, node) for node, head in heads.items()]
    before = by_time.times_before(places, baseline.network, made_up_times.Phone())
    times = [before[place.node] for place in places]
    assert 0 < times[0] < times[-1] < before[""] and times == sorted(times)


class Early(made_up_times.Phone):
    """A clock to which nearly all time lies in front of the first exit place."""

    def layers_ms(self, network: Network, sizes: Mapping[str, Sizes]) -> Mapping[str, Grid]:
        return {name: ((10.0 if name.startswith("stages.0") else 0.1,),) for name in sizes}


def test_exits_of_measured_order_stand_where_the_time_is(baseline: CompressionState, task: Task) -> None:
    profile = make_profile(exits={"n_exits": 1, "order": "measured"})
    (by_clock,) = follow(baseline, "E", replace(task, clock=Early()), profile).network.heads.values()
    (by_blocks,) = follow(baseline, "E", task, make_profile(exits={"n_exits": 1})).network.heads.values()
    assert (by_clock.place, by_blocks.place) == ("stages.0.0", "stages.1.0")


def test_measured_order_is_refused_without_a_clock(baseline: CompressionState, task: Task) -> None:
    with pytest.raises(RefusedError, match=r"exits\.order = 'measured' needs a clock"):
        follow(baseline, "E", replace(task, clock=None), make_profile(exits={"order": "measured"}))


@pytest.mark.parametrize(("is_placed", "expected"), [(True, 2), (False, 1)])
def test_grid_is_the_coarsest_that_tells_classes_apart(is_placed: bool, expected: int, task: Task) -> None:
    """Classes are told by the corner that is bright, or by the brightness of everything."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (400,), generator=draw)
    x = 0.1 * torch.randn(400, 3, 8, 8, generator=draw)
    for index, label in enumerate(labels.tolist()):
        top, left = 4 * (label // 2), 4 * (label % 2)
        x[index, :, top : top + 4, left : left + 4] += 1.0 if is_placed else 0.0
        x[index, label % 3] += 0.0 if is_placed else 1.0 + label // 3
    found = head_size._coarsest(x[:200], x[200:], labels[:200], labels[200:], task)
    assert found == expected


def test_grid_of_a_network_is_found_before_its_heads_are_trained(baseline: CompressionState, task: Task) -> None:
    state = follow(baseline, "E", task, make_profile(exits={"grid": "auto"}))
    (step,) = state.steps
    assert step.decision.grid in head_size.GRIDS
    assert follow(baseline, "E", task, make_profile(exits={"grid": "auto"})).key == state.key
    assert str(follow(baseline, "E(grid=auto)", task, make_profile()).chain) == "E(grid=auto)"


@pytest.mark.parametrize("word", ["E", "EF"])
def test_own_end_teaches_heads_without_labels(word: str, baseline: CompressionState, task: Task) -> None:
    """With weight 1 other labels of the training images make no other heads."""
    wrong = ImageSet(task.data.train.images, (task.data.train.labels + 3) % 10)
    blind = replace(task, data=replace(task.data, train=wrong))
    blind.data.__dict__["fingerprint"] = task.data.fingerprint
    profile = make_profile(exits={"distill": 1.0}, finetune={"epochs": 0})
    seen, unseen = (follow(baseline, word, each, profile).network.heads for each in (task, blind))
    plain = follow(baseline, word, task, make_profile(finetune={"epochs": 0})).network.heads
    for node, head in seen.items():
        assert torch.equal(head.linear.weight, unseen[node].linear.weight)
        assert not torch.equal(head.linear.weight, plain[node].linear.weight)
        assert head.linear.weight.abs().sum() > 0
