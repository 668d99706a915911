"""The folder of results: which measurements may be used again."""

from pathlib import Path
from typing import Any

import pytest
from conftest import make_profile

from nacdeploy.exporters import targets
from nacdeploy.sessions.runs import Runs

KEY = "a state's key"


def place(target: str = "ort", key: str = KEY, **tables: Any) -> Path:
    return Runs(Path("runs")).measurements(key, make_profile(**tables), targets.parse(target))


@pytest.mark.parametrize(
    "tables",
    [
        {"export": {"opset": 21}},
        {"export": {"n_autotune_rounds": 5}},
        {"bench": {"threads": 2}},
        {"bench": {"batch_sizes": (4,)}},
        {"quantize": {"grid": "ort-8bit"}},
        {"target": "trt"},
        {"key": "another"},
    ],
)
def test_what_changes_times_is_measured_apart(tables: dict[str, Any]) -> None:
    assert place(**tables) != place()


@pytest.mark.parametrize("tables", [{"export": {"guard": True, "n_parity": 7}}, {"name": "other"}, {"seed": 3}])
def test_what_changes_no_time_uses_the_same_measurements(tables: dict[str, Any]) -> None:
    assert place(**tables) == place()
