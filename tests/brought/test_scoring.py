"""Scoring: the metric and the loss that a task has without naming them."""

from typing import Any

import pytest
import torch
from conftest import make_profile
from torch import Tensor, nn
from torch.nn import functional

import nacdeploy
from nacdeploy.base import live
from nacdeploy.base.errors import UsageError
from nacdeploy.metrics import ACCURACY
from nacdeploy.task import own

X, Y = torch.rand(12, 1, 4, 4), torch.arange(12) % 3


class Answering(nn.Module):
    """A classifier in the manner of Hugging Face: a loss where labels are given, and logits by their name."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16, 3)

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> dict[str, Any]:
        logits = self.head(pixel_values.flatten(1))
        return {"loss": None if labels is None else functional.cross_entropy(logits, labels), "logits": logits}


def rows(start: int) -> list[dict[str, Tensor]]:
    return [{"pixel_values": X[start : start + 4], "labels": Y[start : start + 4]}]


@pytest.mark.parametrize("loss", [None, lambda answer, labels: functional.cross_entropy(answer.logits, labels)])
def test_logits_in_a_dictionary_are_classes_without_a_metric(loss: Any) -> None:
    given = nacdeploy.Task(Answering(), train=rows(0), validation=rows(4), test=rows(8), loss=loss)
    task = own.opened(live.register(given), make_profile())
    assert task.metric.name == ACCURACY.name and torch.equal(task.data.validation.labels, Y[4:8])
    outputs = torch.rand(4, 3)
    assert torch.equal(task.metric.loss(outputs, Y[:4]), functional.cross_entropy(outputs, Y[:4]))


def test_labels_beside_other_keys_are_refused_with_the_keys() -> None:
    more = [[{**batch, "path": ["a", "b", "c", "d"]} for batch in rows(start)] for start in (0, 4)]
    given = nacdeploy.Task(Answering(), train=more[0], validation=more[1])
    with pytest.raises(UsageError, match=r"these hold labels, path: if one is the classes, Task\(unpack=\) returns"):
        own.opened(live.register(given), make_profile())


def test_list_of_images_as_a_batch_is_refused_with_what_to_do() -> None:
    given = nacdeploy.Task(Answering(), train=rows(0), validation=[(list(X), Y)])
    with pytest.raises(UsageError, match=r"the batch has 12 inputs, it takes pixel_values, labels: stack samples in"):
        own.opened(live.register(given), make_profile())
