"""Distillation: the blended loss, and the teacher's answers, once or batch by batch."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from nacdeploy.base.errors import UsageError
from nacdeploy.metrics import ACCURACY, distilled, named
from nacdeploy.metrics.distillation import squared_error
from nacdeploy.network.network import Network
from nacdeploy.strategies.state import CompressionState
from nacdeploy.task import Task, distillation
from nacdeploy.task.distillation import Distillation


def logits(seed: int, shape: tuple[int, ...] = (6, 4)) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_blended_loss_has_its_ends_at_labels_and_teacher() -> None:
    outputs, answers, labels = logits(0), logits(1), torch.tensor([0, 1, 2, 3, 0, 1])
    hard, soft = ACCURACY.loss(outputs, labels), ACCURACY.distilled(outputs, answers, 4.0)
    for weight in (0.25, 1.0):
        how = Distillation(weight, 4.0)
        blended = distillation.loss(ACCURACY, how)(outputs, (labels if weight < 1 else None, answers))
        assert torch.isclose(blended, (1 - weight) * hard + weight * soft)


def test_high_temperature_keeps_the_size_of_the_gradient() -> None:
    """In the limit T^2 KL is half the squared distance of centred logits over the number of classes (Hinton et al.)."""
    outputs, answers = logits(0), logits(1)
    centred = [x - x.mean(1, keepdim=True) for x in (outputs, answers)]
    expected = (centred[0] - centred[1]).square().mean(1).mean() / 2
    assert torch.isclose(ACCURACY.distilled(outputs, answers, 500.0), expected, rtol=0.02)


def test_squared_error_counts_every_tensor_of_a_tree_in_its_own_unit() -> None:
    answers = {"boxes": (logits(0, (5, 4)), torch.ones(5, dtype=torch.int64)), "scores": logits(1, (5,))}
    outputs = {"boxes": (answers["boxes"][0] + 0.1, torch.zeros(5, dtype=torch.int64)), "scores": answers["scores"]}
    scaled = [
        {"boxes": (tree["boxes"][0] * 1000, tree["boxes"][1]), "scores": tree["scores"]} for tree in (outputs, answers)
    ]
    assert squared_error(answers, answers) == 0
    assert squared_error(outputs, answers) > 0
    assert torch.isclose(squared_error(*scaled), squared_error(outputs, answers), rtol=1e-3)


@pytest.mark.parametrize("outputs", [logits(0, (6, 3)), (logits(0),), torch.zeros(6, dtype=torch.int64)])
def test_outputs_of_another_form_are_refused(outputs: Tensor | tuple[Tensor]) -> None:
    same = outputs if isinstance(outputs, Tensor) and not outputs.is_floating_point() else logits(1)
    with pytest.raises(UsageError, match="distillation needs"):
        squared_error(outputs, same)


class Foreign:
    """A metric of a package that knows nothing of distillation."""

    name = "foreign"


def test_metric_without_a_loss_of_its_own_takes_the_squared_error() -> None:
    outputs, answers = logits(0), logits(1)
    assert distilled(Foreign(), outputs, answers, 4.0) == squared_error(outputs, answers)  # type: ignore[arg-type]


def test_numbers_distil_in_their_own_unit() -> None:
    outputs, answers, mae = logits(0, (6, 1)), logits(1, (6, 1)), named("mae")
    assert torch.isclose(distilled(mae, 10 * outputs, 10 * answers, 4.0), 10 * distilled(mae, outputs, answers, 4.0))


@pytest.mark.parametrize("answers", [torch.ones(1, 1), torch.zeros(3, 1), torch.full((2, 2), 2.0)])
@pytest.mark.parametrize("metric", ["mae", "foreign"])
def test_answers_without_any_spread_give_a_loss(metric: str, answers: Tensor) -> None:
    chosen = Foreign() if metric == "foreign" else named(metric)
    outputs = answers + 0.1
    assert 0 < float(distilled(chosen, outputs, answers, 4.0)) < 1e6  # type: ignore[arg-type]


class Counting(nn.Module):
    """A network that counts the images it answers."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network, self.n_images = network, 0

    def forward(self, x: Tensor) -> Tensor:
        self.n_images += len(x)
        return self.network(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize(("augment", "n_times"), [("none", 1), ("shift", 2)])
def test_teacher_answers_the_images_as_the_student_sees_them(
    augment: str, n_times: int, task: Task, baseline: CompressionState
) -> None:
    teacher = Counting(baseline.network).eval()
    seen = replace(task, data=replace(task.data, augment=augment))
    batches = distillation.batches(seen, teacher, Distillation(0.5, 4.0), 50, seed=0)  # type: ignore[arg-type]
    for inputs, (labels, answers) in [*batches(1), *batches(2)]:
        with torch.no_grad():
            assert torch.allclose(baseline.network(inputs), answers, atol=1e-4)
        assert len(labels) == len(answers) == len(inputs)
    assert teacher.n_images in (n_times * len(task.data.train), n_times * len(task.data.train) + 1)


def test_answers_that_are_large_are_not_kept(
    task: Task, baseline: CompressionState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distillation, "KEPT_BYTES", 100)
    teacher = Counting(baseline.network).eval()
    batches = distillation.batches(task, teacher, Distillation(1.0, 4.0), 50, seed=0)  # type: ignore[arg-type]
    assert teacher.n_images == 1
    inputs, (labels, answers) = next(iter(batches(1)))
    assert labels is None
    assert answers.shape == (len(inputs), 10)
