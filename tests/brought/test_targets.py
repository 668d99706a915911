"""Targets: taken apart sample by sample and put together in the same form."""

from typing import Any

import pytest
import torch

from nacdeploy.base.errors import UsageError
from nacdeploy.brought.targets import Targets, apart, digest, form_of

N = 3
BOXES = [{"boxes": torch.rand(i, 4), "labels": torch.arange(i)} for i in (2, 0, 1)]
FORMS: dict[str, Any] = {
    "classes": torch.arange(N),
    "rows": torch.rand(N, 2, 2),
    "boxes by sample": BOXES,
    "dictionary": {"mask": torch.rand(N, 4, 4), "names": ["a", "b", "c"]},
    "tuple": (torch.rand(N, 2), torch.arange(N)),
    "list of two columns": [torch.rand(N, 2), torch.arange(N)],
    "nothing": None,
}


def same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and digest(one) == digest(other)


@pytest.mark.parametrize("name", FORMS)
def test_targets_come_back_in_their_form(name: str) -> None:
    given = FORMS[name]
    form = form_of(given, N)
    targets = Targets(apart(given, form, N, "here"), form)
    assert len(targets) == N and same(targets.batch(), given)
    assert same(targets[torch.tensor([2, 0])][torch.tensor([1, 0])].batch(), targets[torch.tensor([0, 2])].batch())
    assert sum(len(part) for part in targets.tensor_split(2)) == N


def test_parts_hold_the_samples_that_were_asked_for() -> None:
    form = form_of(BOXES, N)
    picked = Targets(apart(BOXES, form, N, "here"), form)[torch.tensor([2])].batch()
    assert same(picked, [BOXES[2]])


def test_equal_contents_have_equal_digests() -> None:
    one = {"a": torch.ones(2), "b": [1, "x"]}
    assert digest(one) == digest({"a": torch.ones(2), "b": [1, "x"]})
    assert digest(one) != digest({"a": torch.ones(2), "b": [1, "y"]})
    assert digest(torch.ones(2)) != digest(torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize(
    ("given", "said"), [(torch.arange(2), "3 inputs and 2 targets"), ({"mask": torch.rand(N)}, "another form")]
)
def test_other_targets_than_the_first_batch_had_are_refused_with_their_place(given: Any, said: str) -> None:
    form = form_of(FORMS["classes" if isinstance(given, torch.Tensor) else "dictionary"], N)
    with pytest.raises(UsageError, match="validation: batch 2") as caught:
        apart(given, form, N, "validation: batch 2")
    assert said in str(caught.value)
