"""How files name a score."""

from dataclasses import dataclass

import pytest

from nacdeploy.base import records
from nacdeploy.base.errors import UsageError
from nacdeploy.base.scores import scored


@scored
@dataclass(frozen=True)
class Pair:
    score: float
    baseline_score: float
    drop: float = 0.0
    metric: str = "accuracy"


@dataclass(frozen=True)
class Table:
    first: Pair | None
    rows: tuple[Pair, ...] = ()


def test_accuracies_are_written_as_ever() -> None:
    assert records.to_data(Pair(0.5, 0.75, 25.0)) == {"accuracy": 0.5, "baseline_accuracy": 0.75, "drop_points": 25.0}


def test_another_score_has_the_name_of_its_metric() -> None:
    expected = {"mae": 0.5, "baseline_mae": 0.25, "drop_mae": 0.25, "metric": "mae"}
    assert records.to_data(Pair(0.5, 0.25, 0.25, "mae")) == expected


@pytest.mark.parametrize("metric", ["accuracy", "mae"])
def test_records_within_records_come_back(metric: str) -> None:
    table = Table(Pair(0.5, 0.25, metric=metric), (Pair(0.5, 0.125, 1.0, metric), Pair(1.0, 0.0, metric=metric)))
    assert records.from_data(Table, records.to_data(table)) == table


def test_score_of_another_metric_than_the_one_named_is_refused() -> None:
    with pytest.raises(UsageError, match="score"):
        records.from_data(Pair, {"mae": 0.5, "baseline_mae": 0.25})
