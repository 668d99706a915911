"""Accuracy: what classification is scored, trained and compared by."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nacdeploy.metrics import ACCURACY, is_surely_better
from nacdeploy.metrics.accuracy import interval_of_counts


def test_loss_is_the_cross_entropy() -> None:
    outputs, labels = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([1, 0])
    expected = -(torch.log_softmax(outputs, 1)[[0, 1], labels]).mean()
    assert torch.isclose(ACCURACY.loss(outputs, labels), expected)


def test_score_is_the_share_of_largest_outputs_at_their_label() -> None:
    outputs = torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.0, 1.0]])
    assert ACCURACY.score(outputs, torch.tensor([1, 1, 1])) == 2 / 3


def test_a_few_more_right_answers_are_luck() -> None:
    def answers(n_right: int) -> torch.Tensor:
        return (torch.arange(100) < n_right).double()

    assert not is_surely_better(ACCURACY, answers(50), answers(50))
    assert not is_surely_better(ACCURACY, answers(51), answers(50))  # its error is one image
    assert is_surely_better(ACCURACY, answers(55), answers(50))
    assert not is_surely_better(ACCURACY, answers(55), 1 - answers(50))  # 50 gained... and 45 lost: within ten


def test_interval_is_exact_when_all_images_were_counted() -> None:
    found = interval_of_counts(30, 10, 1000, 1000, 0.99)
    assert found.low == found.value == found.high == pytest.approx(2.0)


def test_interval_does_not_vanish_where_no_image_differs() -> None:
    found = interval_of_counts(0, 0, 300, 10_000, 0.99)
    assert found.low < 0 < found.high
    assert found.half_width == pytest.approx(100 * (1 - 0.005 ** (1 / 300)) * np.sqrt(9700 / 9999), rel=1e-6)


@given(st.integers(1, 500), st.data())
def test_interval_holds_its_value_and_narrows_with_confidence(n_images: int, data: st.DataObject) -> None:
    n_lost = data.draw(st.integers(0, n_images))
    n_won = data.draw(st.integers(0, n_images - n_lost))
    wide, narrow = (interval_of_counts(n_lost, n_won, n_images, 1000, c) for c in (0.999, 0.9))
    assert wide.low <= narrow.low <= narrow.value <= narrow.high <= wide.high


@pytest.mark.parametrize(("share_lost", "share_won"), [(0.002, 0.001), (0.02, 0.015), (0.2, 0.01), (0.5, 0.0)])
def test_interval_covers_the_drop_of_the_whole_split(share_lost: float, share_won: float) -> None:
    generator, n_total = np.random.default_rng(0), 4000
    lost, won = int(share_lost * n_total), int(share_won * n_total)
    outcomes = np.concatenate([np.ones(lost), -np.ones(won), np.zeros(n_total - lost - won)])
    true, covered = 100 * outcomes.mean(), 0
    for _ in range(400):
        part = generator.permutation(outcomes)[:600]
        found = interval_of_counts(int((part > 0).sum()), int((part < 0).sum()), 600, n_total, 0.99)
        covered += found.low <= true <= found.high
    assert covered / 400 >= 0.985
