"""F: what a training leaves behind beside its weights."""

from conftest import follow, make_profile

from nacdeploy.strategies.state import CompressionState
from nacdeploy.task import Task


def rounding(state: CompressionState) -> str:
    assert state.network.rule is not None
    return state.network.rule.weights


def test_weights_that_trained_behind_q_are_rounded_as_they_trained(baseline: CompressionState, task: Task) -> None:
    profile = make_profile(finetune={"epochs": 2, "learning_rate": 0.02})
    quantized = follow(baseline, "P(ratio=0.5)Q", task, profile)
    trained = follow(quantized, "F", task, profile)
    assert rounding(quantized) == "balanced"
    assert trained.metrics.score > quantized.metrics.score
    assert rounding(trained) == "symmetric"
    assert rounding(follow(trained, "Q", task, profile)) == "balanced"  # a new rung is a new rounding


def test_training_that_helps_nothing_leaves_the_rounding_too(baseline: CompressionState, task: Task) -> None:
    profile = make_profile(finetune={"epochs": 1, "learning_rate": 1e-9})
    quantized = follow(baseline, "Q", task, profile)
    trained = follow(quantized, "F", task, profile)
    assert trained.steps[-1].decision.weights in ("", "symmetric")
    assert (rounding(trained) == "balanced") == (trained.steps[-1].decision.weights == "")


def test_training_without_q_says_nothing_of_rounding(baseline: CompressionState, task: Task) -> None:
    assert follow(baseline, "F", task, make_profile()).steps[-1].decision.weights == ""
