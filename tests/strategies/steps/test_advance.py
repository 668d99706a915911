"""One letter applied to one state: what equals what, what is trained, and what is never lost."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import follow, make_profile

from nacdeploy.base.errors import DivergedError, RefusedError
from nacdeploy.network.network import content
from nacdeploy.profile import Profile
from nacdeploy.strategies.chain import Chain, Link
from nacdeploy.strategies.operators.prune.operator import Prune
from nacdeploy.strategies.state import CompressionState, Metrics
from nacdeploy.strategies.steps import letters
from nacdeploy.strategies.steps.advance import Trained, advance
from nacdeploy.task import Task


class Counting:
    """A memory that says what was made anew."""

    def __init__(self) -> None:
        self._trainings: dict[str, Trained] = {}
        self._metrics: dict[str, Metrics] = {}
        self.n_trainings = self.n_measurements = 0

    def training(self, key: str, make: Callable[[], Trained]) -> Trained:
        if key not in self._trainings:
            self.n_trainings += 1
            self._trainings[key] = make()
        return self._trainings[key]

    def metrics(self, key: str, make: Callable[[], Metrics]) -> Metrics:
        if key not in self._metrics:
            self.n_measurements += 1
            self._metrics[key] = make()
        return self._metrics[key]


def same_bits(a: CompressionState, b: CompressionState) -> bool:
    first, second = content(a.network), content(b.network)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("PQF", "QPF"),
        ("QEF", "QFE"),
        ("EFP", "FEP"),
        ("SQF", "QSF"),
        pytest.param("PPQF", "QPPF", marks=pytest.mark.slow),
        pytest.param("QEPF", "EPQF", marks=pytest.mark.slow),
    ],
)
def test_orders_that_lead_to_one_state_give_the_same_bits(
    one: str, other: str, baseline: CompressionState, task: Task, profile: Profile
) -> None:
    memory = Counting()
    first = follow(baseline, one, task, profile, memory=memory)
    n_trainings = memory.n_trainings
    second = follow(baseline, other, task, profile, memory=memory)
    assert same_bits(first, second)
    assert first.key == second.key
    assert first.metrics == second.metrics
    assert memory.n_trainings == n_trainings == one.count("F")


def test_equal_states_without_a_memory_give_the_same_bits(
    baseline: CompressionState, task: Task, profile: Profile
) -> None:
    assert same_bits(follow(baseline, "PQF", task, profile), follow(baseline, "QPF", task, profile))


def test_exits_between_two_finetunes_cost_no_training(baseline: CompressionState, task: Task, profile: Profile) -> None:
    memory = Counting()
    follow(baseline, "FF", task, profile, memory=memory)
    n_trainings = memory.n_trainings
    for word in ("FEF", "FFE", "EFF"):
        follow(baseline, word, task, profile, memory=memory)
    assert memory.n_trainings == n_trainings


def test_states_that_differ_have_different_keys(baseline: CompressionState, task: Task, profile: Profile) -> None:
    words = ("", "P", "PP", "Q", "QQ", "E", "EQ")
    keys = {follow(baseline, word, task, profile).key for word in words}
    assert len(keys) == len(words)


def test_seed_decides_the_training(baseline: CompressionState, task: Task) -> None:
    finetune = {"epochs": 3, "learning_rate": 0.03, "schedule": "constant"}
    a, b = (follow(baseline, "PPF", task, make_profile(seed=seed, finetune=finetune)) for seed in (0, 1))
    assert not same_bits(a, b)


def test_another_finetune_recipe_is_another_training(baseline: CompressionState, task: Task, profile: Profile) -> None:
    memory = Counting()
    for word in ("QF", "QF(epochs=1)", "QF(learning_rate=0.02)", "QF"):
        follow(baseline, word, task, profile, memory=memory)
    assert memory.n_trainings == 3


@pytest.mark.parametrize("word", ["", "Q", "E", "PQE"])
@pytest.mark.parametrize("learning_rate", [0.01, 1.5])
def test_finetune_never_lowers_validation_accuracy(
    word: str, learning_rate: float, baseline: CompressionState, task: Task, profile: Profile
) -> None:
    before = follow(baseline, word, task, profile)
    after = advance(before, Link("F", (("learning_rate", learning_rate),)), task, profile)
    assert after.metrics.score >= before.metrics.score
    assert after.chain.word == f"{word}F"


def test_finetune_recovers_what_pruning_lost(baseline: CompressionState, task: Task) -> None:
    profile = make_profile(finetune={"epochs": 4, "learning_rate": 0.03, "schedule": "constant"})
    pruned = follow(baseline, "PP", task, profile)
    tuned = advance(pruned, Link("F"), task, profile)
    assert tuned.metrics.score > pruned.metrics.score
    assert tuned.n_epochs == 4
    assert tuned.metrics.cost.macs == pruned.metrics.cost.macs


@pytest.mark.parametrize("word", ["F", "P", "E", "Q"])
def test_input_state_stays_bit_identical(word: str, baseline: CompressionState, task: Task, profile: Profile) -> None:
    before = {name: tensor.clone() for name, tensor in content(baseline.network).items()}
    after = follow(baseline, word, task, profile)
    assert all(torch.equal(before[name], tensor) for name, tensor in content(baseline.network).items())
    assert baseline.steps == ()
    shared = {id(tensor) for tensor in baseline.network.parameters()} & {id(t) for t in after.network.parameters()}
    assert word == "F" or not shared


def test_diverged_finetune_is_an_error_and_changes_nothing(
    baseline: CompressionState, task: Task, profile: Profile
) -> None:
    key = baseline.key
    with pytest.raises(DivergedError, match="learning_rate"):
        follow(baseline, "F(learning_rate=1e30)", task, profile)
    assert baseline.key == key


@pytest.mark.parametrize("word", ["P", "Q", "E", "F"])
def test_global_stream_is_left_alone(word: str, baseline: CompressionState, task: Task, profile: Profile) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    follow(baseline, word, task, profile)
    assert torch.equal(torch.rand(3), expected)


def test_global_stream_decides_nothing(baseline: CompressionState, task: Task, profile: Profile) -> None:
    torch.manual_seed(5)
    first = follow(baseline, "EF", task, profile)
    torch.manual_seed(6)
    assert same_bits(first, follow(baseline, "EF", task, profile))


def test_refusal_names_letter_place_and_reason(baseline: CompressionState, task: Task, profile: Profile) -> None:
    with pytest.raises(
        RefusedError, match=r"^Q \(Quantize\) is refused after 'QQ': the precision ladder ends at w4a8$"
    ):
        follow(baseline, "QQQ", task, profile)


def test_figures_are_recounted_against_the_baseline(baseline: CompressionState, task: Task, profile: Profile) -> None:
    state = follow(baseline, "PQ", task, profile)
    assert state.baseline == baseline.metrics
    assert state.drop == pytest.approx(100 * (baseline.metrics.score - state.metrics.score))


def test_known_state_is_not_measured_again(baseline: CompressionState, task: Task, profile: Profile) -> None:
    memory = Counting()
    for _ in range(2):
        follow(baseline, "P(ratio=0.6)QF", task, profile, memory=memory)
    assert memory.n_measurements == 3


def test_finetune_reports_its_epochs(baseline: CompressionState, task: Task, profile: Profile) -> None:
    seen: list[tuple[int, int]] = []
    follow(baseline, "F", task, profile, report=lambda epoch, n_epochs, accuracy: seen.append((epoch, n_epochs)))
    assert seen[0] == (1, profile.finetune.epochs)


class Keys:
    """A memory that keeps only the keys it is asked for."""

    def __init__(self) -> None:
        self.trainings: list[str] = []
        self.measurements: list[str] = []

    def training(self, key: str, make: Callable[[], Trained]) -> Trained:
        self.trainings.append(key)
        return make()

    def metrics(self, key: str, make: Callable[[], Metrics]) -> Metrics:
        self.measurements.append(key)
        return make()


def keys_of(state: CompressionState, task: Task, profile: Profile) -> Keys:
    keys = Keys()
    follow(state, "F", task, profile, memory=keys)
    return keys


def changed_data(**values: object) -> Callable[[Task], Task]:
    return lambda task: replace(task, data=replace(task.data, **values))


def changed_model(**values: object) -> Callable[[Task], Task]:
    return lambda task: replace(task, spec=replace(task.spec, **values))


@pytest.mark.parametrize(
    ("change", "is_measured_anew"),
    [
        (changed_data(mean=(0.4,)), True),
        (changed_data(std=(0.4,)), True),
        (changed_data(augment="shift"), True),
        (changed_data(split_seed=5), True),
        (changed_data(name="renamed"), False),
        (changed_model(source_sha256="a" * 64), True),
        (changed_model(name="other"), True),
    ],
)
def test_task_that_differs_has_keys_of_its_own(
    change: Callable[[Task], Task], is_measured_anew: bool, baseline: CompressionState, task: Task, profile: Profile
) -> None:
    first, second = keys_of(baseline, task, profile), keys_of(baseline, change(task), profile)
    assert (first.trainings != second.trainings) == is_measured_anew
    assert (first.measurements[-1:] != second.measurements[-1:]) == is_measured_anew


def test_file_of_a_user_has_the_same_keys_wherever_it_lies(
    baseline: CompressionState, task: Task, profile: Profile
) -> None:
    places = [changed_model(name=f"{place}/net.py:make", source_sha256="a" * 64)(task) for place in ("here", "there")]
    assert keys_of(baseline, places[0], profile).trainings == keys_of(baseline, places[1], profile).trainings


@pytest.mark.parametrize(
    ("tables", "is_trained_anew"),
    [
        ({"settle": {"n_images": 100}}, True),
        ({"quantize": {"calibration": "mse"}}, True),
        ({"seed": 3}, True),
        ({"exits": {"max_drop": 1.0}}, False),
        ({"prune": {"ratio": 0.3}}, False),
        ({"search": {"budget": 3}}, False),
    ],
    ids=str,
)
def test_settings_that_a_training_depends_on_are_in_its_key(
    tables: dict[str, Any], is_trained_anew: bool, baseline: CompressionState, task: Task, profile: Profile
) -> None:
    first, second = keys_of(baseline, task, profile), keys_of(baseline, task, make_profile(**tables))
    assert (first.trainings != second.trainings) == is_trained_anew


VERSIONS = (
    "steps.advance.training.VERSION",
    "steps.advance.SETTLE_VERSION",
    "operators.finetune.operator.Finetune.version",
)


@pytest.mark.parametrize("version", VERSIONS)
def test_other_version_of_the_code_is_another_training(
    version: str, baseline: CompressionState, task: Task, profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = keys_of(baseline, task, profile)
    monkeypatch.setattr(f"nacdeploy.strategies.{version}", 99)
    assert keys_of(baseline, task, profile).trainings != before.trainings


def test_other_version_of_measuring_is_another_measurement(
    baseline: CompressionState, task: Task, profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = keys_of(baseline, task, profile)
    monkeypatch.setattr("nacdeploy.strategies.steps.advance.MEASURE_VERSION", 99)
    after = keys_of(baseline, task, profile)
    assert after.measurements != before.measurements
    assert after.trainings == before.trainings


def test_step_that_loses_the_score_which_its_letter_keeps_is_undone_and_replays_so(
    baseline: CompressionState, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The letter is P, held to its score: the mechanism knows no letter by name."""
    link, profile = Chain.parse("P(ratio=0.9)").links[0], make_profile()
    assert follow(baseline, "P(ratio=0.9)", task, profile).metrics.score < baseline.metrics.score
    monkeypatch.setattr(Prune, "keeps", "score", raising=False)
    monkeypatch.setattr(Prune, "undone", lambda self, decision: replace(decision, taken=0), raising=False)
    state = advance(baseline, link, task, profile)
    assert state.metrics.score == baseline.metrics.score
    assert same_bits(state, baseline)
    replayed = letters.make(link, profile).perform(baseline.network, state.steps[-1].decision)
    assert content(replayed).keys() == content(state.network).keys()
