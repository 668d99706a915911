"""The cascade: whose answer counts, in which order, and what each segment is given."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nacdeploy.cascades.cascade import NEVER, Cascade, gated
from nacdeploy.cascades.confidence import RULES

DRAW = np.random.default_rng(0)
WEIGHTS = [DRAW.normal(0, 3, (6, 4)).astype(np.float32) for _ in range(3)]


def segments(seen: list[int]) -> list[Callable[[Any], list[NDArray[Any]]]]:
    """Three segments that turn their input around, and note how many samples they were given."""

    def first(x: NDArray[Any]) -> list[NDArray[Any]]:
        seen.append(len(x))
        return [x @ WEIGHTS[0], np.roll(x, 1, axis=1)]

    def second(x: NDArray[Any]) -> list[NDArray[Any]]:
        seen.append(len(x))
        return [x @ WEIGHTS[1], np.roll(x, 1, axis=1)]

    def last(x: NDArray[Any]) -> list[NDArray[Any]]:
        seen.append(len(x))
        return [x @ WEIGHTS[2]]

    return [first, second, last]


def images(n: int) -> NDArray[Any]:
    return np.random.default_rng(n).normal(size=(n, 6)).astype(np.float32)


@pytest.mark.parametrize("thresholds", [(0.9, 0.9), (0.5, NEVER), (NEVER, 0.7), (NEVER, NEVER), (0.0, 0.5), (0.99, 0)])
@pytest.mark.parametrize("rule", ["softmax", "entropy", "margin", "labels"])
@pytest.mark.parametrize("n", [1, 2, 33])
def test_compacted_batches_answer_as_the_gate_over_all_outputs(
    thresholds: tuple[float, float], rule: str, n: int
) -> None:
    cascade = Cascade(segments([]), thresholds, RULES[rule])
    found, expected = cascade.run(images(n)), gated(cascade.every(images(n)), thresholds, RULES[rule])
    assert found.exits.tolist() == expected.exits.tolist()
    np.testing.assert_allclose(found.outputs, expected.outputs, rtol=1e-6)


def test_samples_keep_their_order_where_some_leave_at_each_exit() -> None:
    cascade = Cascade(segments([]), (0.95, 0.9), RULES["softmax"])
    answered = cascade.run(images(64))
    assert len(set(answered.exits.tolist())) == 3
    for place in range(64):
        alone = cascade.run(images(64)[place : place + 1])
        assert alone.exits[0] == answered.exits[place]
        np.testing.assert_allclose(alone.outputs[0], answered.outputs[place], rtol=1e-5)


def test_only_the_samples_that_go_on_are_computed() -> None:
    seen: list[int] = []
    exits = Cascade(segments(seen), (0.95, 0.9), RULES["softmax"]).run(images(64)).exits
    assert seen == [64, int((exits > 0).sum()), int((exits > 1).sum())]


def test_a_batch_that_goes_on_whole_is_not_copied() -> None:
    given: list[NDArray[Any]] = []
    first, second, last = segments([])

    def noting(x: NDArray[Any]) -> list[NDArray[Any]]:
        outputs, carried = first(x)
        given.append(carried)
        return [outputs, carried]

    def checked(x: NDArray[Any]) -> list[NDArray[Any]]:
        assert x is given[0]
        return second(x)

    answered = Cascade([noting, checked, last], (NEVER, NEVER), RULES["softmax"]).run(images(5))
    assert answered.exits.tolist() == [2] * 5


def test_outputs_that_are_no_numbers_go_on_to_the_end() -> None:
    broken = [lambda x: [np.full((len(x), 4), np.nan, np.float32), x], lambda x: [x @ WEIGHTS[2]]]
    assert Cascade(broken, (0.0,), RULES["softmax"]).run(images(3)).exits.tolist() == [1, 1, 1]


def test_thresholds_of_another_number_are_refused() -> None:
    with pytest.raises(ValueError, match="3 segments need 2 thresholds, not 1"):
        Cascade(segments([]), (0.5,), RULES["softmax"])


@pytest.mark.parametrize("rule", RULES)
def test_confidence_is_from_0_to_1_and_grows_with_the_outputs(rule: str) -> None:
    outputs = np.random.default_rng(1).normal(size=(200, 5)).astype(np.float32)
    low, high = RULES[rule](outputs), RULES[rule](4 * outputs)
    assert low.shape == (200,)
    assert ((low >= -1e-6) & (high <= 1 + 1e-6)).all()
    assert (high >= low - 1e-6).all()


def test_confidences_are_what_their_names_say() -> None:
    outputs = np.array([[1.0, 3.0, 2.0]])
    shares = np.exp(outputs[0]) / np.exp(outputs[0]).sum()
    assert RULES["softmax"](outputs)[0] == pytest.approx(shares.max())
    assert RULES["margin"](outputs)[0] == pytest.approx(shares[1] - shares[2])
    assert RULES["entropy"](outputs)[0] == pytest.approx(1 + (shares * np.log(shares)).sum() / np.log(3))
    assert RULES["labels"](outputs)[0] == pytest.approx(2 / (1 + np.exp(-1.0)) - 1)
