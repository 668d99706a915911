"""Ranges moved tensor by tensor, by what they do to the answers."""

import torch
from small_networks import images, network, quantized
from torch import Tensor, nn

from nacdeploy.network.network import Network
from nacdeploy.strategies.range_search import Alone, Harms, by_answers


class Gated(nn.Module):
    """Most of what its first convolution writes is far below zero, where a SiLU tells no value from another."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.second(nn.functional.silu(self.first(x) - 40))).mean((2, 3)))


def made() -> Network:
    found = network(Gated(), "ort")
    with torch.no_grad():
        found.backbone.first.weight.mul_(12)  # type: ignore[operator, union-attr]
    return quantized(found, integers_between=True)


def ranges(found: Network) -> dict[str, tuple[float, float]]:
    return {key: (float(each.low), float(each.high)) for key, each in found.quantizers.items()}  # type: ignore[arg-type]


def test_ends_that_no_answer_depends_on_are_moved_in() -> None:
    found = made()
    before = ranges(found)
    after = by_answers(found, [images(4), images(4, seed=2)], before)
    assert after["first"][0] > before["first"][0] / 1.5
    assert ranges(found) == {key: tuple(map(float, torch.tensor(each))) for key, each in after.items()}


def test_no_range_harms_other_images_more_than_before() -> None:
    found = made()
    before, others = ranges(found), images(4, seed=2)
    after = by_answers(found, [images(4), others], before)
    harms = Harms(found, others)
    changed = [key for key in after if after[key] != before[key]]
    assert changed
    assert all(harms.of(key, *after[key]) < harms.of(key, *before[key]) for key in changed)


def test_only_what_follows_a_tensor_runs_again_and_answers_alike() -> None:
    found, x = made(), images(4)
    key, given = next(iter(ranges(found).items()))
    harms = Harms(found, x)
    with torch.no_grad():
        wanted, whole = found.run(x, Alone(found)), found.run(x, Alone(found, lambda each, use: each == key))
    ratio = float((whole - wanted).double().square().sum() / wanted.double().square().sum())
    assert harms.of(key, *given) == ratio
