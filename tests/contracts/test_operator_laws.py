"""Laws 1 to 8 of docs/architecture.md, over every operator."""

import copy
from dataclasses import dataclass

import pytest
import torch
from conftest import follow, make_profile

from nacdeploy.network.network import Network
from nacdeploy.profile import Profile
from nacdeploy.strategies import operators
from nacdeploy.strategies.chain import Chain, Link
from nacdeploy.strategies.state import CompressionState
from nacdeploy.strategies.steps import letters
from nacdeploy.task import Task
from nacdeploy.testing import operators as laws


@dataclass(frozen=True)
class Row:
    """What is tried of one operator: after which words, what its figure does, and where it is refused."""

    letter: str
    figure: laws.Figure
    after: tuple[str, ...]
    refused_after: str | None


ROWS = (
    Row("F", laws.only_score_moves, ("", "QP", "EP"), None),
    Row("P", laws.macs_fall, ("", "QE", "PE"), "P(ratio=0.99)"),
    Row("E", laws.exits_are_charged, ("", "PQ"), "E(n_exits=9)"),
    Row("Q", laws.bitops_fall, ("", "PE", "Q"), "QQ"),
    Row("S", laws.memory_falls, ("", "QP", "EQ"), "S"),
    Row("C", laws.memory_falls, ("", "QE", "S"), "C"),
    Row("D", laws.macs_fall, ("", "QPE", "D"), "DDDDD"),
)
# The letters with other settings than the profile's, which keep the same laws.
SETTINGS = (
    ("P(importance=l1)", laws.macs_fall),
    ("P(importance=fpgm,scope=uniform)", laws.macs_fall),
    ("P(importance=slim)", laws.macs_fall),
    ("P(importance=apoz,reconstruct=true)", laws.macs_fall),
    ("P(importance=taylor)", laws.macs_fall),
    ("P(importance=answers,reconstruct=true)", laws.macs_fall),
    ("P(importance=greedy)", laws.macs_fall),
    ("P(importance=lasso,reconstruct=true)", laws.macs_fall),
    ("Q(weights=dorefa)", laws.bitops_fall),
    ("Q(weights=binary)", laws.bitops_fall),
    ("S(pattern=kernel,importance=l2,rounding=ceil)", laws.memory_falls),
    ("D(method=cp3)", laws.macs_fall),
    ("D(method=cp4,layers_per_step=2)", laws.macs_fall),
    ("D(rate=2)", laws.macs_fall),
    ("D(weaken=1,min_rank=2)", laws.macs_fall),
)
TRIED = [(row.letter, word, row.figure) for row in ROWS for word in row.after]
TRIED += [(text, "PE", figure) for text, figure in SETTINGS]
NAMES = [f"{word or 'start'}-{text}" for text, word, _ in TRIED]
FIGURES = [(*Chain.parse(text), word, figure) for text, word, figure in TRIED]
CASES = [(link, word) for link, word, _ in FIGURES]
LINKS = [Link(row.letter) for row in ROWS]


@pytest.fixture(scope="session")
def quick() -> Profile:
    """Laws about structure need no training of more than an epoch."""
    return make_profile(
        finetune={"epochs": 1}, exits={"recipe": {"epochs": 1}}, decompose={"rank": "ratio", "multiple": 1}
    )


@pytest.fixture(scope="session")
def states(baseline: CompressionState, task: Task, quick: Profile) -> dict[str, CompressionState]:
    return {word: follow(baseline, word, task, quick) for word in {word for row in ROWS for word in row.after}}


def test_every_operator_has_a_row() -> None:
    assert {row.letter for row in ROWS} == {operator.letter for operator in operators.OPERATORS}


@pytest.mark.parametrize(
    "law",
    [
        laws.check_perform_is_deterministic,
        laws.check_replay_gives_the_same_shapes,
        laws.check_decision_survives_json,
        laws.check_advance_leaves_its_input,
        laws.check_output_shape_is_kept,
    ],
    ids=["1-deterministic", "2-replay", "3-json", "4-input-untouched", "6-output-shape"],
)
@pytest.mark.parametrize(("link", "word"), CASES, ids=NAMES)
def test_operator_keeps_law(
    law: object, link: Link, word: str, states: dict[str, CompressionState], task: Task, quick: Profile
) -> None:
    assert law(link, states[word], task, quick) is None  # type: ignore[operator]


@pytest.mark.parametrize(("link", "word", "figure"), FIGURES, ids=NAMES)
def test_operator_moves_its_own_figure(
    link: Link, word: str, figure: laws.Figure, states: dict[str, CompressionState], task: Task, quick: Profile
) -> None:
    assert laws.check_figure_moves(link, states[word], task, quick, figure) is None


@pytest.mark.parametrize("row", [row for row in ROWS if row.refused_after], ids=lambda row: row.letter)
def test_operator_changes_nothing_when_refused(
    row: Row, baseline: CompressionState, task: Task, quick: Profile
) -> None:
    state = follow(baseline, str(row.refused_after), task, quick)
    assert laws.check_refused_step_changes_nothing(Link(row.letter), state, task, quick)


def test_finetune_is_never_refused(states: dict[str, CompressionState], quick: Profile) -> None:
    finetune = letters.make(Link("F"), quick)
    assert [finetune.refusal(state) for state in states.values()] == [None] * len(states)


@pytest.mark.parametrize("first", LINKS, ids=str)
@pytest.mark.parametrize("second", LINKS, ids=str)
def test_pair_of_letters_works(
    first: Link, second: Link, baseline: CompressionState, task: Task, quick: Profile
) -> None:
    state, reason = laws.check_pair_works_or_refuses(first, second, baseline, task, quick)
    refused_on_this_network = {"EE": "exit places are taken", "SS": "sparse by 2:4 already"}
    refused_on_this_network |= {f"C{letter}": "the weights are shared" for letter in "PEQSDC"}
    word = f"{first}{second}"
    assert (state.chain.word == word and reason is None) or refused_on_this_network.get(word, "-") in str(reason)


def test_broken_law_is_named(
    baseline: CompressionState, task: Task, quick: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(letters.kind("P"), "perform", lambda self, network, decision: noisy(network))
    with pytest.raises(laws.BrokenLawError, match="P: perform twice"):
        laws.check_perform_is_deterministic(Link("P"), baseline, task, quick)


def noisy(network: Network) -> Network:
    changed = copy.deepcopy(network)
    with torch.no_grad():
        next(changed.parameters()).add_(torch.rand(()))
    return changed


@pytest.mark.slow
def test_chain_of_all_letters_in_any_order_answers(baseline: CompressionState, task: Task, quick: Profile) -> None:
    words = ("QPEPF", "EPQP", "PEQQP", "SPEQF", "QPSEP", "QPDF", "DFPQF", "DPFEQF")
    states = [follow(baseline, word, task, quick) for word in words]
    assert [state.chain for state in states] == [Chain.parse(word) for word in words]
    assert all(state.metrics.score > 0.1 for state in states)
