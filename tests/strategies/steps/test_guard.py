"""A letter that destroys a network says so, and what nobody foresaw is one line."""

import copy
from pathlib import Path

import pytest
from conftest import follow, make_profile

from nacdeploy.base.errors import RefusedError, UnexpectedError
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.operators.prune.operator import Prune
from nacdeploy.strategies.operators.quantize.operator import Quantize
from nacdeploy.strategies.state import CompressionState
from nacdeploy.strategies.steps import guard, letters
from nacdeploy.task import Task

(Q,) = Chain.parse("Q").links


def test_rounding_that_loses_the_signal_names_the_first_layer(baseline: CompressionState, task: Task) -> None:
    state = follow(baseline, "Q", task, make_profile())
    broken = copy.deepcopy(state.network)
    key = next(iter(broken.plan.inputs["stages_1_0_conv1"].values()))
    broken.quantizers[key].set_range(0.0, 1e-6)  # type: ignore[operator]
    operator = letters.make(Q, make_profile())
    guard.check(operator, baseline.network, state.network, task)
    with pytest.raises(RefusedError, match=r"Q \(Quantize\) destroys the network: .* is 'stages\.1\.0\."):
        guard.check(operator, baseline.network, broken, task)


def test_network_that_answers_with_no_numbers_is_refused(baseline: CompressionState, task: Task) -> None:
    broken = copy.deepcopy(baseline.network)
    broken.backbone.stem[0].weight.data.fill_(float("nan"))  # type: ignore[index, operator, union-attr]
    with pytest.raises(RefusedError, match="not finite"):
        guard.check(letters.make(Q, make_profile()), baseline.network, broken, task)


def test_letter_that_keeps_the_network_s_end_is_held_to_it(
    baseline: CompressionState, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    pruned = follow(baseline, "P", task, make_profile())
    operator = letters.make(pruned.steps[-1].link, make_profile())
    guard.check(operator, baseline.network, pruned.network, task)
    monkeypatch.setattr(Prune, "keeps", "end", raising=False)
    with pytest.raises(RefusedError, match=r"P \(Prune\) changes what the network's own end answers"):
        guard.check(operator, baseline.network, pruned.network, task)


def test_exception_inside_a_letter_is_one_line_and_a_file(
    baseline: CompressionState, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise KeyError("what nobody foresaw")

    monkeypatch.setattr(Quantize, "decide", fail)
    with pytest.raises(UnexpectedError) as caught:
        follow(baseline, "Q", task, make_profile())
    text = str(caught.value)
    assert text.startswith("unexpected: Q (Quantize) fails at the start on model 'resnet8'")
    assert "\n" not in text
    file = Path(text.rpartition(" ")[2])
    assert "def fail" in file.read_text() or "KeyError" in file.read_text()
    file.unlink()


def test_exception_while_a_letter_is_asked_masks_it(
    baseline: CompressionState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Quantize, "refusal", lambda self, state: 1 / 0)
    operator = letters.make(Q, make_profile())
    assert str(letters.why_masked(operator, baseline)).startswith("unexpected: Q (Quantize) fails")
    with pytest.raises(UnexpectedError):
        letters.refusal(operator, baseline)
