"""A strategy carried to a model, letter by letter."""

import pytest
from conftest import follow, make_profile

from nacdeploy.base.errors import RefusedError, UsageError
from nacdeploy.profile import Profile
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.state import CompressionState
from nacdeploy.strategies.steps import follow as transfer
from nacdeploy.strategies.steps import letters
from nacdeploy.strategies.strategy import resolve
from nacdeploy.task import Task


def transferred(
    word: str, baseline: CompressionState, task: Task, profile: Profile, skip_refused: bool = False
) -> tuple[transfer.Transferred, list[str]]:
    """The end of a transfer, and the chains that were reached on the way."""
    seen: list[str] = []
    end = transfer.follow(
        Chain.parse(word),
        baseline,
        task,
        profile,
        skip_refused=skip_refused,
        after=lambda state: seen.append(str(state.chain)),
    )
    return end, seen


def test_qppf_transfers_letter_by_letter(baseline: CompressionState, task: Task, profile: Profile) -> None:
    end, seen = transferred("QPPF", baseline, task, profile)
    assert seen == ["Q", "QP", "QPP", "QPPF"]
    assert end.skipped == ()
    assert end.state.metrics.cost.bitops < baseline.metrics.cost.bitops / 16
    assert end.state.key == follow(baseline, "QPPF", task, profile).key


def test_parameters_are_kept_in_the_chain(baseline: CompressionState, task: Task, profile: Profile) -> None:
    end, _ = transferred("Q(bits=w4a8)P(ratio=0.2)", baseline, task, profile)
    assert str(end.state.chain) == "Q(bits=w4a8)P(ratio=0.2)"
    assert str(end.state.network.rule.precision) == "w4a8"  # type: ignore[union-attr]


def test_refused_letter_stops_with_position_and_reason(
    baseline: CompressionState, task: Task, profile: Profile
) -> None:
    with pytest.raises(RefusedError, match=r"ladder ends at w4a8 \(position 4 of 'QPQQF'; --skip-refused") as refusal:
        transferred("QPQQF", baseline, task, profile)
    assert "\n" not in str(refusal.value)


def test_skipped_letters_are_reported_and_the_rest_runs(
    baseline: CompressionState, task: Task, profile: Profile
) -> None:
    end, seen = transferred("QQQF", baseline, task, profile, skip_refused=True)
    assert str(end.state.chain) == "QQF"
    assert seen == ["Q", "QQ", "QQF"]
    ((position, link, reason),) = [(r.position, r.link, r.reason) for r in end.skipped]
    assert (position, link) == (3, "Q")
    assert "ladder ends" in reason


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("QPXF", "unknown operator 'X' at position 3 of 'QPXF'; known: F P E Q"),
        ("QP(ration=0.1)", r"unknown parameter 'ration' of P; did you mean 'ratio'.*position 2"),
        ("QP(ratio=2)", r"P\(ratio=2\).*position 2"),
        ("PQ(bits=w9)", "position 2"),
        ("PQ(bits=8)", "position 2"),
    ],
)
def test_wrong_chain_is_refused_with_the_position(word: str, said: str, profile: Profile) -> None:
    with pytest.raises(UsageError, match=said):
        letters.check(Chain.parse(word), profile)


def test_letters_decide_anew_on_another_model(baseline: CompressionState, task: Task, profile: Profile) -> None:
    from nacdeploy import task as tasks
    from nacdeploy.strategies.baseline import initial_state, plain_network

    wider = make_profile(width=12)
    other = tasks.make("resnet8", "digits", wider)
    start = initial_state(plain_network(other, wider), other)
    ours, theirs = (
        transferred("P", b, t, p)[0].state for b, t, p in ((baseline, task, profile), (start, other, wider))
    )
    assert ours.steps[0].decision.asked * 1.5 == pytest.approx(theirs.steps[0].decision.asked)


def test_post_finetune_appends_a_step(baseline: CompressionState, task: Task, profile: Profile) -> None:
    state = follow(baseline, "P", task, profile)
    longer = transfer.post_finetune(state, 3, task, profile)
    assert longer.chain.word == "PF"
    assert 1 <= longer.n_epochs <= 3
    assert longer.metrics.score >= state.metrics.score


@pytest.mark.parametrize("text", ["QPPF", "q p p f"])
def test_word_resolves(text: str) -> None:
    assert str(resolve(text).chain) == "QPPF"


@pytest.mark.parametrize(
    ("text", "said"), [("", "empty"), ("Q-P", "cannot read '-'"), ("nothing.json", "does not exist")]
)
def test_what_is_no_strategy_is_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        resolve(text)
