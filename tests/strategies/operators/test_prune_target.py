"""prune.multiple = "target" is the target's own number, and P says what rounding to it took."""

import pytest
from conftest import follow, make_profile

from nacdeploy.base.errors import UsageError
from nacdeploy.strategies.chain import Link
from nacdeploy.strategies.operators.prune.operator import Prune
from nacdeploy.strategies.state import CompressionState
from nacdeploy.strategies.steps import letters
from nacdeploy.task import Task


@pytest.mark.parametrize(("target", "multiple"), [("ort", 8), ("onnx", 8), ("trt", 32), ("torch-trt", 32)])
def test_target_multiple_is_the_targets(target: str, multiple: int) -> None:
    from_profile = Prune.configure(make_profile(target=target, prune={"multiple": "target"}), {})
    from_chain = Prune.configure(make_profile(target=target), {"multiple": "target"})
    assert from_profile.multiple == from_chain.multiple == multiple
    assert from_profile.table.multiple == multiple


@pytest.mark.parametrize("wrong", [0, "eight"])
def test_multiple_that_is_neither_number_nor_target_is_refused(wrong: object) -> None:
    with pytest.raises(UsageError, match="multiple"):
        make_profile(prune={"multiple": wrong})


def test_explanation_says_what_rounding_took(baseline: CompressionState, task: Task) -> None:
    profile = make_profile(prune={"ratio": 0.1, "multiple": "target"})
    state = follow(baseline, "P", task, profile)
    decision = state.steps[-1].decision
    text = letters.make(Link("P"), profile).explain(decision)
    took = f"took {decision.taken} of {decision.asked:g} channels asked, {decision.carried:g} carried"
    assert f"rounding to units of 8 {took}" in text
    assert decision.taken % 8 == 0
