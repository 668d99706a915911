"""A task without classes and with the other direction, through the commands: the digits as numbers, by mean absolute
error."""

import csv
import json
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from command_line import TINY, change, lay_out, refused_line, rows, run, succeed

CHANGED = {"max_drop = 30.0": "max_drop = 0.5", "epochs = 3": "epochs = 15", 'alphabet = "FPQ"': 'alphabet = "FPEQ"'}
REGRESSION = 'metric = "mae"\n' + reduce(lambda text, change: text.replace(*change), CHANGED.items(), TINY)


def read(path: str | Path) -> Any:
    return json.loads(Path(path).read_text())


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(lay_out(tmp_path, REGRESSION))
    return tmp_path


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a search that is done, and what it printed."""
    folder = lay_out(tmp_path_factory.mktemp("numbers"), REGRESSION)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        done = succeed("search", "--out", "runs/found")
        (folder / "printed.txt").write_text(done.out + done.err)
    return folder


@pytest.fixture
def found(searched: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(searched)
    return searched / "runs" / "found"


def test_search_finds_a_chain_within_a_budget_in_the_unit_of_the_numbers(found: Path) -> None:
    result = read(found / "result.json")
    figures = result["figures"]
    assert figures["metric"] == result["scores"]["metric"] == "mae"
    assert "accuracy" not in json.dumps(result)
    assert figures["mae"] - figures["baseline_mae"] <= 0.5
    assert figures["mae"] < figures["chance_mae"], "it knows more than the median"
    assert all(
        row["drop_mae"] == pytest.approx(row["figures"]["mae"] - figures["baseline_mae"]) for row in result["front"]
    )
    printed = Path("printed.txt").read_text()
    assert "MAE loss" in printed and "MAE on validation" in printed and "Acc" not in printed


def test_search_never_tries_an_exit_and_says_why(found: Path) -> None:
    assert all("no confidence" in row["refused"]["E"] and "E" not in row["chain"] for row in rows(found))
    line = refused_line(run("transfer", "--strategy", "E"))
    assert "a number has no confidence by which an exit could answer early" in line


def test_strategy_of_a_search_transfers_exports_and_is_timed(found: Path) -> None:
    transferred = succeed("transfer", "--strategy", "PQF", "--out", "runs/followed", "--json").json
    record = read("runs/followed/checkpoint/checkpoint.json")
    assert (record["schema"], record["metrics"]["metric"]) == (2, "mae")
    exported = succeed("export", "--from", "runs/followed", "--target", "ort", "--out", "artifact")
    assert "agreement within a tenth of the spread" in exported.out
    manifest = read("artifact/manifest.json")
    assert (manifest["schema"], manifest["class_names"], manifest["outputs"][0]["shape"]) == (2, [], ["batch", 1])
    timed = succeed("bench", "artifact", "--json").json
    baseline, deployed = timed["rows"]
    assert deployed["mae"] == pytest.approx(transferred["scores"]["compressed"], abs=0.05)
    assert baseline["mae"] == pytest.approx(transferred["scores"]["baseline"], abs=1e-4)
    assert "MAE" in succeed("bench", "artifact").out


def test_report_and_show_speak_of_the_metric(found: Path) -> None:
    page = Path(succeed("report", found, "--out", "page.html").out and "page.html").read_text()
    assert "mean absolute error" in page and "accuracy" not in page.lower()
    shown = succeed("show", found).out
    assert "test mean absolute error" in shown and "accuracy" not in shown


def test_search_goes_on_and_is_forked_with_another_budget(found: Path) -> None:
    before = rows(found)
    succeed("search", "--resume", found, "--budget", "5")
    assert rows(found)[: len(before)] == before
    forked = succeed("search", "--resume", found, "--fork", "--max-drop", "0.25", "--out", "runs/strict")
    assert "search.max_drop was 0.5 and is 0.25; its 6 rows hold" in forked.err


def test_search_without_an_answer_says_how_far_the_nearest_is_in_its_unit(here: Path) -> None:
    change("search", alphabet="P", budget=1, max_drop=0)
    change("prune", ratio=0.5)
    line = refused_line(run("search"))
    assert "NO CHAIN MEETS THE MEAN ABSOLUTE ERROR BUDGET of 0 MAE: the nearest, 'P', loses" in line


def test_analysis_names_its_columns_by_the_metric(here: Path) -> None:
    succeed("analyze", "--techniques", "prune", "--ratios", "0.5", "--out", "looked")
    table = list(csv.DictReader(Path("looked/sensitivity.csv").read_text().splitlines()))
    assert all(float(row["mae"]) > 0 and row["metric"] == "mae" for row in table if not row["refused"])
    assert {"drop_mae"} <= set(table[0])
