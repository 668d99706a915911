"""search --target-ms and --speedup, by a table of another machine with made-up times."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import made_up_times
import pytest
from command_line import change, run, succeed
from conftest import make_profile

from nacdeploy.commands.search import _say_late
from nacdeploy.exporters.targets.ort.probe_models import Layer
from nacdeploy.strategies.steps import checkpoint
from nacdeploy.trials.speed import Speed

MORE = ("--latency-table", "phone.json", "--json")


@pytest.fixture
def phone(home: Path) -> dict[str, float]:
    return times_of_a_phone()


def times_of_a_phone() -> dict[str, float]:
    """The times of the FP32 baseline on the phone, and of the smallest network in integers; the table lies here."""
    change("search", alphabet="FPQ", budget=5)
    (folder,) = [path for path in Path("runs/baselines").iterdir() if (path / checkpoint.RECORD).is_file()]
    state, record = checkpoint.load(folder)
    table = made_up_times.write(Path("phone.json"), state.network, record.settings(), 2)
    times = {kind: [row.p50_ms for row in table.networks if row.precision == kind] for kind in ("float32", "int8")}
    return {"baseline": max(times["float32"]), "least": min(times["int8"]), "int8": max(times["int8"])}


def rows(folder: str) -> list[Any]:
    return [json.loads(line) for line in Path(folder, "journal.jsonl").read_text().splitlines()[1:]]


def test_answer_is_within_the_time(phone: dict[str, float]) -> None:
    target_ms = 0.8 * phone["int8"]
    result = succeed("search", "--target-ms", target_ms, "--out", "fast", *MORE).json
    assert {"P", "Q"} <= set(result["chain"])
    assert result["figures"]["speed_ratio"] >= phone["baseline"] / target_ms
    assert result["figures"]["speed_ratio"] <= 1.1 * phone["baseline"] / target_ms
    decided = json.loads(Path("fast/checkpoint/checkpoint.json").read_text())["steps"]
    (timed,) = [step["decision"]["timed"] for step in decided if "timed" in step["decision"]]
    assert (timed["precision"], timed["measured_ms"]) == ("int8", None)


def test_time_is_one_in_float_where_integers_are_slower(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = made_up_times.layer_ms

    def slow_integers(layer: Layer) -> float:
        return fast(layer) * (1 if layer.precision == "float" else 8)

    monkeypatch.setattr(made_up_times, "layer_ms", slow_integers)
    phone = times_of_a_phone()
    assert phone["int8"] > phone["baseline"]
    done = succeed("search", "--speedup", 3.0, "--out", "fast", *MORE)
    assert "integers are no faster here" in done.err
    assert "Q" not in done.json["chain"] and done.json["figures"]["speed_ratio"] >= 3.0
    decided = json.loads(Path("fast/checkpoint/checkpoint.json").read_text())["steps"]
    assert {step["decision"]["timed"]["precision"] for step in decided if "timed" in step["decision"]} == {"float32"}


def test_precision_that_is_named_stays_where_no_q_comes(phone: dict[str, float]) -> None:
    change("search", alphabet="FP")
    change("prune", runs_as="int8")
    succeed("search", "--speedup", 2.0, "--budget", 2, "--out", "fast", *MORE)
    assert json.loads(Path("fast/run.json").read_text())["profile"]["prune"]["runs_as"] == "int8"


def test_answer_is_the_best_within_the_time(phone: dict[str, float]) -> None:
    result = succeed("search", "--speedup", 2.0, "--budget", 8, "--out", "fast", *MORE).json
    within = [row["figures"] for row in rows("fast") if row["figures"] and row["figures"]["speed_ratio"] >= 2.0]
    assert result["figures"]["accuracy"] == max(each["accuracy"] for each in within)
    assert min(each["accuracy"] for each in within) <= result["figures"]["accuracy"]


def test_stopped_search_goes_on_with_its_time(phone: dict[str, float]) -> None:
    succeed("search", "--speedup", 3.0, "--budget", 3, "--out", "fast", *MORE)
    before = rows("fast")
    result = succeed("search", "--resume", "fast", "--budget", 5, "--json").json
    assert rows("fast")[: len(before)] == before
    assert len(rows("fast")) > len(before)
    assert result["figures"]["speed_ratio"] >= 3.0


@pytest.mark.parametrize(("ratio", "is_late"), [(1.9, True), (2.0, False)])
def test_member_above_the_time_is_picked_with_a_word(ratio: float, is_late: bool) -> None:
    said: list[str] = []
    final: Any = SimpleNamespace(speed=Speed(ratio, None, None, 4.0 / ratio, 4.0, 31))
    progress: Any = SimpleNamespace(say=said.append)
    assert _say_late(final, make_profile(search={"speedup": 2.0}), progress) == is_late
    assert said == (["ABOVE THE TIME: this member takes 2.105 ms, and 2 ms were asked for"] if is_late else [])


@pytest.mark.parametrize(
    "wanted", [("--target-ms", 1e-5), ("--target-ms", 1e5), ("--speedup", 1e4), ("--speedup", 0.5)]
)
def test_time_out_of_reach_names_the_range(wanted: tuple[str, float], phone: dict[str, float]) -> None:
    done = run("search", *wanted, *MORE)
    assert done.code == 2
    last = done.err.splitlines()[-1]
    assert "is out of reach: the FP32 baseline takes" in last
    assert f"{phone['baseline']:.4g} ms, and the fastest network" in last


@pytest.mark.parametrize("both", [("--target-ms", 1, "--speedup", 2), ("--target-ms", 1, "--objective", "pareto")])
def test_two_budgets_are_refused(both: tuple[object, ...], home: Path) -> None:
    done = run("search", *both)
    assert (done.code, "give one of them" in done.err) == (2, True)


def test_table_that_is_not_there_is_said_before_any_work(home: Path) -> None:
    done = run("search", "--speedup", 2, "--latency-table", "none.json")
    assert (done.code, "none.json" in done.err, len(done.err.splitlines())) == (2, True, 1)


def test_search_ends_by_the_clock(home: Path) -> None:
    done = run("search", "--max-drop", 100, "--max-hours", 1e-7, "--budget", 9, "--out", "short")
    assert (done.code, "--resume short --max-hours H goes on with the run" in done.err) == (1, True)
    assert [row["chain"] for row in rows("short")] == [""]
    assert succeed("search", "--resume", "short", "--max-hours", 10, "--budget", 2, "--json").json["n_evaluations"] == 2
