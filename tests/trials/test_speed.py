"""Speed in searches and transfers: on a target that is here, from a table of layers, and on one that is not here."""

import json
from pathlib import Path

import pytest
import torch
from command_line import change, run, succeed

NOTE = "note: speed is measured in ONNX Runtime on the CPU, which may rank otherwise than the target: there is no SM86"


def set_target(target: str) -> None:
    path = Path("tiny.toml")
    path.write_text(path.read_text().replace('target = "ort"', f'target = "{target}"'))


@pytest.fixture
def no_gpu(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    change("search", figure="speed", alphabet="Q", budget=1)
    set_target("trt")


@pytest.mark.usefixtures("no_gpu")
def test_search_on_latency_refuses_a_target_that_is_not_here() -> None:
    done = run("search", "--out", "fast")
    assert done.code == 1
    assert "on target 'trt', and there is no SM86 here: search where it is, set target = 'ort'" in done.err
    assert len(done.err.splitlines()) == 1
    assert not Path("fast").exists()


@pytest.mark.usefixtures("no_gpu")
def test_transfer_measures_speed_in_onnx_runtime_and_says_so() -> None:
    done = succeed("transfer", "--strategy", "Q", "--out", "moved", "--json")
    assert done.err.count(NOTE) == 1
    assert done.json["figures"]["speed_ratio"] > 0
    assert json.loads(Path("moved/result.json").read_text())["figures"] == done.json["figures"]


@pytest.mark.parametrize(
    ("target", "latency", "expected"),
    [
        ("torch-trt", "measured", "does not time target 'torch-trt': set target = 'trt'"),
        ("openvino", "table", "times layers in ONNX Runtime, not for target 'openvino'"),
    ],
)
def test_search_on_latency_says_what_is_never_timed(target: str, latency: str, expected: str, home: Path) -> None:
    change("search", objective="latency", latency=latency)
    set_target(target)
    done = run("search")
    assert (done.code, expected in done.err) == (2, True), done.err


def test_search_on_latency_answers_with_a_measured_front(home: Path) -> None:
    change("search", alphabet="FPQ", budget=4, n_latency_rounds=3)
    result = succeed("search", "--objective", "latency", "--out", "fast", "--json").json
    rows = [json.loads(line) for line in Path("fast/journal.jsonl").read_text().splitlines()[1:]]
    assert all(row["figures"]["speed_low"] > 0 for row in rows)
    chains = [member["chain"] for member in result["front"]]
    assert result["chain"] in chains
    latency = result["latency"]
    assert (latency["source"], latency["n_rounds_search"], latency["n_rounds_final"]) == ("measured", 3, 3)
    assert latency["setting"]["target"] == "ort"
    assert latency["n_timed_final"] >= len(chains)
    admissible = [m["figures"] for m in result["front"] if m["figures"]["accuracy"] > 0]
    assert result["figures"]["speed_high"] >= max(f["speed_low"] for f in admissible)


@pytest.mark.slow
def test_trained_networks_are_timed_once_with_their_untrained_twin(home: Path) -> None:
    change("search", alphabet="FQ", budget=3, objective="latency", n_latency_rounds=3)
    change("search.rules", finetune_due=0.0)
    change("quantize", ladder=["w8a8"])
    result = succeed("search", "--out", "fast", "--json").json
    rows = [json.loads(line) for line in Path("fast/journal.jsonl").read_text().splitlines()[1:]]
    n_structures = len({"Q" in row["chain"] for row in rows})
    assert result["latency"]["n_timed_search"] == n_structures < len(rows)


@pytest.mark.slow
def test_no_chain_under_latency_names_the_nearest_its_drop_and_its_speed(home: Path) -> None:
    change("prune", ratio=0.9)
    change("search", alphabet="P", objective="latency", n_latency_rounds=3)
    done = run("search", "--max-drop", 0, "--budget", 1)
    assert done.code == 1
    assert "the nearest, 'P', loses" in done.err
    assert "x the baseline's speed" in done.err


def test_table_of_layers_states_its_error_and_is_refused_elsewhere_while_the_answer_is_measured(home: Path) -> None:
    change("search", alphabet="PQ", budget=2, objective="latency", latency="table", n_latency_rounds=3)
    done = succeed("search", "--out", "estimated", "--json")
    error, path = done.json["latency"]["table"], Path("estimated/layers.json")
    assert error["n_networks"] >= 2
    assert 0 <= error["median_error"] <= error["worst_error"]
    assert f"{100 * error['worst_error']:.0f} % at worst" in done.err
    assert done.json["figures"]["speed_low"] is not None
    rows = [json.loads(line) for line in Path("estimated/journal.jsonl").read_text().splitlines()[1:]]
    assert all(row["figures"]["speed_ratio"] > 0 and row["figures"]["speed_low"] is None for row in rows)
    table = json.loads(path.read_text())
    table["setting"]["machine"] = "an abacus"
    path.write_text(json.dumps(table))
    change("search", latency_table=str(path))
    refused = run("search", "--out", "elsewhere")
    assert refused.code == 2
    assert "was measured elsewhere: machine was 'an abacus'" in refused.err
    assert "leave search.latency_table away" in refused.err


def test_times_of_another_machine_are_refused_by_a_resumed_run(home: Path) -> None:
    change("search", alphabet="Q", budget=1, objective="latency", n_latency_rounds=3)
    succeed("search", "--out", "fast")
    path = Path("fast/speeds.json")
    path.write_text(path.read_text().replace('"threads": 1', '"threads": 4'))
    done = run("search", "--resume", "fast")
    assert done.code == 2
    assert "speeds.json was measured elsewhere: threads was '4' and is '1'" in done.err
