"""The order of exits, their heads, and the gate."""

import pytest
import torch
from torch import Tensor

from nacdeploy.metrics import ACCURACY
from nacdeploy.network.attachments.early_exit import ExitHead, breadth_first, take_exits


@pytest.mark.parametrize(
    ("places", "order"),
    [
        # NAC's init_place_layer and order for resnet18 and MobileNetV2, and plain ranges: golden/nac_exit_order.json.
        ([1, 3, 5, 7, 9, 11, 13, 15], [9, 5, 13, 3, 7, 11, 15, 1]),
        ([3, 7, 11, 15], [11, 7, 15, 3]),
        (list(range(5)), [2, 1, 4, 0, 3]),
        (list(range(13)), [6, 3, 10, 1, 5, 8, 12, 0, 2, 4, 7, 9, 11]),
        (
            [2, 5, 8, 11, 14, 17, 20, 23, 26, 29, 32, 35, 38, 41, 44, 47],
            [26, 14, 38, 8, 20, 32, 44, 5, 11, 17, 23, 29, 35, 41, 47, 2],
        ),
        ([], []),
        ([7], [7]),
    ],
)
def test_breadth_first_order_is_nacs(places: list[int], order: list[int]) -> None:
    assert breadth_first(places) == order


def logits_with_confidence(confidence: float, answer: int, n: int = 3) -> Tensor:
    rest = (1 - confidence) / (n - 1)
    return torch.tensor([confidence if i == answer else rest for i in range(n)]).log()[None]


def test_gate_takes_the_first_confident_exit() -> None:
    early = torch.cat([logits_with_confidence(c, 0) for c in (0.95, 0.6, 0.5)])
    later = torch.cat([logits_with_confidence(c, 1) for c in (0.99, 0.9, 0.5)])
    last = torch.cat([logits_with_confidence(0.4, 2)] * 3)
    answer, taken = take_exits((early, later, last), (0.9, 0.8), ACCURACY.confidence)
    assert taken.tolist() == [0, 1, 2]
    assert answer.argmax(1).tolist() == [0, 1, 2]
    assert torch.equal(answer[1], later[1])


@pytest.mark.parametrize(("threshold", "exit_taken"), [(0.5, 0), (0.9001, 1), (2.0, 1), (0.0, 0)])
def test_gate_opens_at_its_threshold(threshold: float, exit_taken: int) -> None:
    _, taken = take_exits(
        (logits_with_confidence(0.9, 0), logits_with_confidence(0.4, 1)), (threshold,), ACCURACY.confidence
    )
    assert taken.tolist() == [exit_taken]


def test_gate_does_not_write_into_its_inputs() -> None:
    early, last = logits_with_confidence(0.9, 0), logits_with_confidence(0.4, 1)
    kept = last.clone()
    take_exits((early, last), (0.5,), ACCURACY.confidence)
    assert torch.equal(last, kept)


def test_logits_that_are_no_numbers_never_leave_early() -> None:
    _, taken = take_exits(
        (torch.full((1, 3), float("nan")), logits_with_confidence(0.4, 1)), (0.1,), ACCURACY.confidence
    )
    assert taken.tolist() == [1]


@pytest.mark.parametrize(
    ("shape", "grid", "n_features"),
    [
        ((1, 16, 8, 8), 4, 16 * 16),
        ((1, 16, 8, 8), 1, 16),
        ((1, 16, 2, 2), 4, 64),
        ((1, 16, 1, 1), 4, 16),
        ((1, 17, 48), 4, 48),
    ],
)
def test_head_reads_a_coarse_grid_or_the_mean_token(shape: tuple[int, ...], grid: int, n_features: int) -> None:
    head = ExitHead("block", "node", shape, 10, grid)
    x = torch.randn(3, *shape[1:], generator=torch.Generator().manual_seed(0))
    assert head.reduced(x).shape == (3, n_features)
    assert head(x).shape == (3, 10)


def test_new_head_knows_nothing_and_its_gate_is_closed() -> None:
    head = ExitHead("block", "node", (1, 4, 4, 4), 10, 4)
    answers = head(torch.randn(5, 4, 4, 4))
    assert answers.abs().max() == 0
    assert take_exits((answers, answers), (float(head.threshold),), ACCURACY.confidence)[1].tolist() == [1] * 5
