"""The laws of a metric, as functions that raise if a law is broken; for the metrics of other packages too.

Each takes a metric, the metric's labels of some images, and outputs `(N, K)` of a network for these images that is
neither perfect nor worse than chance.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from nacdeploy.cascades.confidence import RULES
from nacdeploy.metrics import Metric, distilled, drop, gate_of, is_better, is_surely_better, lowered
from nacdeploy.testing.operators import require


def check_score_is_better_than_chance_and_within_bounds(metric: Metric, outputs: Tensor, labels: Tensor) -> None:
    """Law 1: scores lie within the bounds, and `is_near_chance` tells a network that learned from one that did not."""
    score, chance = metric.score(outputs, labels), metric.chance(labels)
    low, high = metric.bounds
    require(low <= min(score, chance) <= max(score, chance) <= high, f"{metric.name}: a score is out of its bounds")
    require(is_better(metric, score, chance), f"{metric.name}: chance, {chance}, is better than {score}")
    require(metric.is_near_chance(chance, chance, len(labels)), f"{metric.name}: chance is not near itself")
    require(not metric.is_near_chance(score, chance, 10**9), f"{metric.name}: {score} counts as chance, {chance}")


def check_order_of_images_does_not_count(metric: Metric, outputs: Tensor, labels: Tensor) -> None:
    """Law 2: score and values do not depend on the order of images, and each image has a finite value."""
    values, backwards = metric.values(outputs, labels), metric.values(outputs.flip(0), labels.flip(0))
    require(values.shape == (len(labels),) and values.dtype == torch.float64, f"{metric.name}: values are {values}")
    require(bool(values.isfinite().all()), f"{metric.name}: a value is no finite number")
    require(torch.equal(values.flip(0), backwards), f"{metric.name}: values change with the order of images")
    scores = metric.score(outputs, labels), metric.score(outputs.flip(0), labels.flip(0))
    require(math.isclose(*scores, rel_tol=1e-9), f"{metric.name}: the score changes with the order of images")


def check_training_on_the_loss_improves_the_score(metric: Metric, outputs: Tensor, labels: Tensor) -> None:
    """Law 3: outputs that follow the gradient of the loss are surely better, and less of the loss."""
    better = outputs.clone()
    for _ in range(200):
        better.requires_grad_(True)
        (gradient,) = torch.autograd.grad(metric.loss(better, labels), better)
        better = (better - 0.1 * gradient * outputs.std() / gradient.std().clamp(min=1e-12)).detach()
    losses = float(metric.loss(better, labels)), float(metric.loss(outputs, labels))
    require(losses[0] < losses[1], f"{metric.name}: the loss does not fall along its gradient")
    scores = metric.score(better, labels), metric.score(outputs, labels)
    require(is_better(metric, *scores), f"{metric.name}: {scores[0]} after training, {scores[1]} before")
    values = metric.values(better, labels), metric.values(outputs, labels)
    require(is_surely_better(metric, *values), f"{metric.name}: values get no better where the score does")
    require(not is_surely_better(metric, *reversed(values)), f"{metric.name}: better both ways round")


def check_three_scales_agree(metric: Metric, outputs: Tensor, labels: Tensor) -> None:
    """Law 4: score, drop and quality say the same: a drop of one point costs a hundredth of the quality."""
    score, chance = metric.score(outputs, labels), metric.chance(labels)
    point, quality = metric.point(chance), metric.quality(score, chance)
    worse = lowered(metric, score, point)
    require(point > 0 and is_better(metric, score, worse), f"{metric.name}: a point is {point}")
    require(math.isclose(drop(metric, score, worse), point, rel_tol=1e-6), f"{metric.name}: a drop is not taken back")
    lost = quality - metric.quality(worse, chance)
    require(math.isclose(lost, 0.01, rel_tol=1e-6), f"{metric.name}: a point costs {lost} of the quality")
    again = metric.of_quality(quality, chance)
    require(math.isclose(again, score, rel_tol=1e-9), f"{metric.name}: {score} comes back from quality as {again}")


def check_interval_holds_the_whole(metric: Metric, outputs: Tensor, labels: Tensor) -> None:
    """Law 5: the interval of a part holds the drop of the whole, and is that drop when all images were counted."""
    generator = torch.Generator().manual_seed(0)
    noisy = outputs + 0.3 * outputs.std() * torch.randn(outputs.shape, generator=generator)
    before, now = metric.values(outputs, labels), metric.values(noisy, labels)
    whole = metric.drop_interval(before, now, len(now), 0.99)
    require(whole.low == whole.value == whole.high, f"{metric.name}: in doubt when all images were counted")
    n_part, held = len(now) // 2, 0
    for _ in range(100):
        part = torch.randperm(len(now), generator=generator)[:n_part]
        found = metric.drop_interval(before[part], now[part], len(now), 0.99)
        require(found.low <= found.value <= found.high, f"{metric.name}: {found} does not hold its value")
        held += found.low <= whole.value <= found.high
    require(held >= 95, f"{metric.name}: {held} of 100 intervals at 99 % hold the drop of the whole")


def check_equal_runs_agree(metric: Metric, outputs: Tensor, labels: Tensor) -> None:
    """Law 6: a run agrees with itself, another one does not, and noise forgives answers and never takes one."""
    other = outputs.roll(1, 0)
    strict, forgiving = metric.agrees(outputs, other), metric.agrees(outputs, other, float((outputs - other).std()))
    require(bool(metric.agrees(outputs, outputs.clone()).all()), f"{metric.name}: a run does not agree with itself")
    require(bool(metric.agrees(outputs, outputs.clone(), 0.0).all()), f"{metric.name}: no noise parts equal runs")
    require(not strict.all(), f"{metric.name}: the answers for other images agree")
    require(bool((forgiving | ~strict).all()), f"{metric.name}: answers that agree part under noise")


def check_confidence_or_a_reason(metric: Metric, outputs: Tensor, labels: Tensor) -> None:
    """Law 7: exits have a confidence from 0 to 1 to go by, which is the rule that is named for gates without torch, or
    a reason why there are none."""
    if metric.no_exits:
        return
    sure = metric.confidence(outputs)
    require(sure.shape == (len(outputs),), f"{metric.name}: confidence has the shape {tuple(sure.shape)}")
    require(bool(((sure >= 0) & (sure <= 1)).all()), f"{metric.name}: confidence is not from 0 to 1")
    if name := gate_of(metric):
        found = torch.from_numpy(RULES[name](outputs.numpy())).to(sure.dtype)
        require(bool(torch.allclose(found, sure, atol=1e-5)), f"{metric.name}: confidence is not the rule '{name}'")


def check_distillation_leads_to_the_teacher(metric: Metric, outputs: Tensor, labels: Tensor) -> None:
    """Law 8: no outputs have less of the distillation loss than the teacher's own answers, and its gradient leads
    there."""
    answers = outputs.roll(1, 0)
    learned, own = outputs.clone(), float(distilled(metric, answers, answers, 2.0))
    for _ in range(200):
        learned.requires_grad_(True)
        (gradient,) = torch.autograd.grad(distilled(metric, learned, answers, 2.0), learned)
        learned = (learned - 0.02 * outputs.std() * gradient / gradient.std().clamp(min=1e-12)).detach()
    losses = [float(distilled(metric, x, answers, 2.0)) for x in (learned, outputs)]
    require(
        own <= losses[0] < losses[1], f"{metric.name}: distillation goes from {losses[1]} to {losses[0]}, not {own}"
    )
    agree = [float(metric.agrees(answers, x).double().mean()) for x in (learned, outputs)]
    require(agree[0] > agree[1], f"{metric.name}: distillation does not lead to the teacher's answers")


LAWS: tuple[Callable[[Metric, Tensor, Tensor], None], ...] = (
    check_score_is_better_than_chance_and_within_bounds,
    check_order_of_images_does_not_count,
    check_training_on_the_loss_improves_the_score,
    check_three_scales_agree,
    check_interval_holds_the_whole,
    check_equal_runs_agree,
    check_confidence_or_a_reason,
    check_distillation_leads_to_the_teacher,
)
