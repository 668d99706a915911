"""`transfer` tells what will come out before it trains, says how far that was off, and holds a budget with --adapt."""

import json
from pathlib import Path
from typing import Any

import made_up_times
import pytest
from command_line import files, refused_line, run, succeed

from nacdeploy.strategies.steps import checkpoint as checkpoints

TABLE = ("--latency-table", "phone.json")  # times that no clock decides


def read(path: str) -> Any:
    """The JSON in a file."""
    return json.loads(Path(path).read_text())


@pytest.fixture
def phone(home: Path) -> Path:
    """The finished folder with a table of times of its network."""
    folder = next(Path("runs/baselines").iterdir())
    state, record = checkpoints.load(folder)
    made_up_times.write(home / "phone.json", state.network, record.settings(), 2)
    return home


@pytest.mark.usefixtures("phone")
def test_transfer_tells_what_comes_out_and_how_far_that_was_off() -> None:
    done = succeed("transfer", "--strategy", "P(ratio=0.3)QF", "--forecast", "--out", "first", *TABLE)
    assert "forecast: size 0.0" in done.err
    assert "the forecast was off by +0.0 % in size, +0.0 % in BitOps, +0.0 % in time" in done.err
    result = read("first/result.json")
    told, found = result["forecast"], result["found"]
    assert [stage["link"] for stage in told["stages"]] == ["P(ratio=0.3)", "Q", "F"]
    assert told["size_bytes"]["value"] == found["size_bytes"]
    assert told["latency_ms"]["value"] == found["latency_ms"]
    assert told["drop_points"]["low"] < told["drop_points"]["value"] < told["drop_points"]["high"]
    assert "the forecast was off by" in Path("first/report.md").read_text()
    figures = read("first/strategy.json")["origin"]["figures"]
    lost = 100 * (figures["baseline_accuracy"] - figures["accuracy"])
    assert found["drop_points"] == pytest.approx(lost)
    again = succeed("transfer", "--strategy", "first", "--dry-run", "--forecast", "--json", *TABLE).json
    assert again["forecast"]["source_drop"] == pytest.approx(lost)
    assert [step["link"] for step in again["steps"]] == ["P(ratio=0.3)", "Q", "F"]


@pytest.mark.usefixtures("phone")
def test_adapt_changes_parameters_to_hold_a_time_and_applies_them() -> None:
    before = succeed("transfer", "--strategy", "PQ", "--dry-run", "--forecast", "--json", *TABLE).json
    budget = 0.8 * before["forecast"]["latency_ms"]["value"]
    done = succeed("transfer", "--strategy", "PQ", "--adapt", "--target-ms", budget, "--out", "adapted", *TABLE)
    assert "adapted: PQ -> P(ratio=0." in done.err
    result = read("adapted/result.json")
    assert result["chain"] == result["forecast"]["chain"] != "PQ"
    assert result["found"]["latency_ms"] <= budget


@pytest.mark.usefixtures("phone")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--target-ms", 0.5), "--target-ms is what --adapt holds by changing parameters: give --adapt too"),
        (("--adapt",), "--adapt holds a budget: give --max-drop, --target-ms or --speedup"),
        (("--adapt", "--target-ms", 1, "--speedup", 2), "give one of them"),
        (("--adapt", "--max-drop", 1, "--no-forecast"), "leave --no-forecast away"),
        (("--forecast", "--post-finetune", 1), "end it by an F in place of --post-finetune"),
        (("--adapt", "--target-ms", 1e-6, *TABLE), "1e-06 ms cannot be reached"),
    ],
)
def test_wishes_that_cannot_be_are_refused(arguments: tuple[object, ...], words: str) -> None:
    before = files()
    assert words in refused_line(run("transfer", "--strategy", "PQ", *arguments))
    assert files() == before


@pytest.mark.usefixtures("home")
def test_chain_without_a_share_is_not_adapted() -> None:
    line = refused_line(run("transfer", "--strategy", "QF", "--adapt", "--max-drop", 1))
    assert "'QF' has no letter with one" in line


@pytest.mark.usefixtures("home")
def test_budget_of_a_search_in_the_settings_file_asks_nothing_of_a_transfer() -> None:
    settings = Path("nacdeploy.toml")
    settings.write_text(settings.read_text() + "max_drop = 0.5\n")
    succeed("transfer", "--strategy", "P")


@pytest.mark.usefixtures("home")
def test_short_training_is_not_rehearsed_unless_asked() -> None:
    assert "forecast" not in succeed("transfer", "--strategy", "PF", "--out", "short").err
    assert read("short/result.json")["forecast"] is None
