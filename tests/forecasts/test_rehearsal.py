"""A rehearsal beside the run itself, what a strategy file records of its run, and by how much a forecast missed."""

from dataclasses import replace
from itertools import count
from typing import Any

import pytest
import torch
from conftest import follow

from nacdeploy.base import records
from nacdeploy.base.errors import RefusedError
from nacdeploy.forecasts import rehearsal
from nacdeploy.forecasts.forecast import Forecast, Found, missed, source_of
from nacdeploy.forecasts.losses import Rehearsal
from nacdeploy.forecasts.ranges import Range, around
from nacdeploy.forecasts.rehearsal import Stage, in_small, rehearsed
from nacdeploy.metrics import ACCURACY, named
from nacdeploy.profile import Profile
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.state import CompressionState
from nacdeploy.task import Task
from nacdeploy.trials.evaluator import figures_of


def told(**changed: Any) -> Forecast:
    made = Forecast(
        "PF",
        around(100.0, 0.02),
        around(50.0, 0.0),
        None,
        Range(1.0, 0.2, 2.0),
        None,
        (Stage("PF", 3.0),),
        256,
        0.125,
        1.0,
    )
    return replace(made, **changed)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rehearsals with an eighth of the few images of the tests too."""
    monkeypatch.setattr(rehearsal, "N_LEAST", 2)


@pytest.mark.usefixtures("few")
def test_rehearsal_costs_what_the_run_costs_and_leaves_the_baseline_alone(
    baseline: CompressionState, task: Task, profile: Profile
) -> None:
    key = baseline.key
    seen = rehearsed(Chain.parse("P(ratio=0.3)QF"), baseline, task, profile)
    state = follow(baseline, "P(ratio=0.3)QF", task, profile)
    assert seen.state.metrics.cost == state.metrics.cost
    assert [stage.link for stage in seen.stages] == ["P(ratio=0.3)", "Q", "F"]
    assert seen.lost == seen.stages[-1].lost
    assert baseline.key == key


@pytest.mark.usefixtures("few")
def test_rehearsal_trains_on_an_eighth_and_leaves_validation_whole_if_it_is_small(task: Task) -> None:
    small = in_small(task).data
    assert len(small.train) == round(len(task.data.train) / 8)
    assert torch.equal(small.train.whole(), task.data.train.drawn(len(small.train), task.data.split_seed).whole())
    assert len(small.validation) == len(task.data.validation)


@pytest.mark.usefixtures("few")
def test_rehearsal_takes_an_eighth_of_a_loader_s_batches(task: Task) -> None:
    def epochs(batch_size: int, seed: int, epoch: int) -> Any:
        return ((torch.zeros(batch_size), n) for n in count())

    own = in_small(replace(task, data=replace(task.data, epochs=epochs))).data.epochs
    assert own is not None
    assert [n for _, n in own(50, 0, 1)] == [0]  # of 300 images an eighth, in batches of 50


def test_rehearsal_refuses_what_the_run_refuses(baseline: CompressionState, task: Task, profile: Profile) -> None:
    with pytest.raises(RefusedError, match="position 3"):
        rehearsed(Chain.parse("QQQ"), baseline, task, profile)


def test_source_is_read_from_what_a_strategy_records(baseline: CompressionState, profile: Profile) -> None:
    figures = replace(figures_of(baseline, profile), score=baseline.metrics.score - 0.02)
    origin = {"model": "resnet8", "figures": records.to_data(figures)}
    known = source_of(origin, ACCURACY)
    assert known is not None
    assert known.lost == pytest.approx(2.0)
    assert known.rehearsal is None
    whole = source_of({**origin, "forecast": records.to_data(told())}, ACCURACY)
    assert whole is not None
    assert whole.rehearsal == Rehearsal(3.0, 0.125)
    assert source_of(origin, named("mae")) is None


@pytest.mark.parametrize("origin", [{}, {"figures": None}, {"figures": {"accuracy": "high"}}, {"figures": {}}])
def test_strategy_without_figures_has_no_source(origin: dict[str, Any]) -> None:
    assert source_of(origin, ACCURACY) is None


def test_forecast_survives_json() -> None:
    whole = told(latency_ms=around(2.0, 0.1), source_drop=0.5)
    assert records.from_data(Forecast, records.to_data(whole)) == whole


def test_miss_is_told_figure_by_figure() -> None:
    line = missed(told(latency_ms=around(2.0, 0.1)), Found(103.0, 50.0, 2.1, 1.5))
    assert line == "+3.0 % in size, +0.0 % in BitOps, +5.0 % in time, +0.50 points of drop; size outside its limits"
    assert missed(told(), Found(100.0, 50.0, None, 1.0)).endswith("all within the limits")


def test_a_rehearsal_sees_every_class_of_a_training_split_that_is_sorted(task: Task) -> None:
    train = task.data.train
    by_class = train.subset(torch.argsort(train.labels, stable=True))
    small = in_small(replace(task, data=replace(task.data, train=by_class)))
    assert len(small.data.train) < len(train)
    assert set(small.data.train.labels.tolist()) == set(train.labels.tolist())
