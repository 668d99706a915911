"""Task: building, checking and scoring."""

import pytest
import torch

from nacdeploy import models, profile, task
from nacdeploy.base.errors import UsageError

PAIR = """
from torch import nn

class Pair(nn.Linear):
    def __init__(self):
        super().__init__(256, 10)

    def forward(self, x):
        y = super().forward(x.flatten(1))
        return {"logits": y, "hidden": x}
"""


def _profile(**keys):
    return profile.from_mapping({"name": "test", "width": 4, "images": {"n_train": 50}, **keys})


@pytest.fixture(scope="module")
def digits():
    return task.make("resnet8", "digits", _profile())


def test_make_takes_width_and_shapes_from_profile_and_data(digits):
    assert (digits.spec.width, digits.spec.channels, digits.spec.input_size) == (4, 1, (16, 16))
    assert (digits.spec.n_classes, len(digits.data.train)) == (10, 50)


def test_build_is_in_eval_mode_and_decided_by_its_seed(digits):
    first, second, other = digits.build(1), digits.build(1), digits.build(2)
    assert not first.training
    assert torch.equal(first.classifier.weight, second.classifier.weight)
    assert not torch.equal(first.classifier.weight, other.classifier.weight)


def test_build_leaves_the_global_generator_alone(digits):
    before = torch.get_rng_state()
    digits.build(1)
    assert torch.equal(torch.get_rng_state(), before)


def test_example_input_is_the_first_training_image_normalised(digits):
    example = digits.example_input()
    assert (example.shape, example.dtype) == ((1, 1, 16, 16), torch.float32)
    assert torch.equal(example[0], digits.data.normalize(digits.data.train.images)[0])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("nn.Sequential(nn.Flatten(), nn.Linear(256, 3))", r"returns shape \(1, 3\); needed: \(1, 10\)"),
        ("nn.Sequential(nn.Conv2d(1, 10, 3))", r"returns shape \(1, 10, 14, 14\)"),
        ("nn.Linear(3, 10)", r"on an image of shape \(1, 1, 16, 16\) fails: RuntimeError"),
    ],
)
def test_make_fails_when_the_model_does_not_fit_the_data(tmp_path, body, message):
    path = tmp_path / "net.py"
    path.write_text(f"{PAIR}\ndef make():\n    return {body}\n")
    models.name_by_user(name := f"{path}:make")
    with pytest.raises(UsageError, match=message):
        task.make(name, "digits", _profile(width=None))


def test_first_of_several_outputs_counts(tmp_path):
    path = tmp_path / "net.py"
    path.write_text(f"{PAIR}\ndef make():\n    return Pair()\n")
    models.name_by_user(name := f"{path}:make")
    assert task.make(name, "digits", _profile(width=None)).spec.n_classes == 10
