"""A search goes on where it was stopped, repeats itself, and says loudly when it finds nothing."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from command_line import change, rows, run, succeed

from nacdeploy.trials import evaluator, speed

SCRIPT = str(Path(sys.executable).with_name("nacdeploy"))
DEADLINE_S = 120


def outcome(folder: Path) -> dict[str, Any]:
    result = json.loads((folder / "result.json").read_text())
    return {key: result[key] for key in ("chain", "figures", "scores", "n_epochs")}


def killed_after(n_lines: int, folder: Path) -> None:
    """Search into `folder` and kill the process once its journal has `n_lines` lines."""
    process = subprocess.Popen([SCRIPT, "search", "--out", folder], stderr=subprocess.DEVNULL)
    journal, end = folder / "journal.jsonl", time.monotonic() + DEADLINE_S
    while not journal.is_file() or journal.read_bytes().count(b"\n") < n_lines:
        assert process.poll() is None, "the search ended before it could be killed"
        assert time.monotonic() < end
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_killed_search_goes_on_to_the_same_end_and_repeats_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed = Path("runs/killed")
    killed_after(3, killed)
    assert not (killed / "result.json").exists()
    n_kept, n_run = len(rows(killed)), 0
    evaluate = evaluator.Evaluator.__call__

    def counted(self: evaluator.Evaluator, chain: Any) -> Any:
        nonlocal n_run
        n_run += 1
        return evaluate(self, chain)

    monkeypatch.setattr(evaluator.Evaluator, "__call__", counted)
    succeed("search", "--resume", killed)
    chains = [row["chain"] for row in rows(killed)]
    assert len(chains) == len(set(chains)) == n_kept + n_run
    assert rows(killed) == rows(Path("runs/search-1"))
    assert outcome(killed) == outcome(Path("runs/search-1"))


def test_same_seed_finds_the_same_chain_and_accuracies(home: Path) -> None:
    succeed("search")
    assert rows(Path("runs/search-2")) == rows(Path("runs/search-1"))
    assert outcome(Path("runs/search-2")) == outcome(Path("runs/search-1"))


def test_resumed_search_may_get_a_larger_budget(home: Path) -> None:
    before = rows(Path("runs/search-1"))
    result = succeed("search", "--resume", "runs/search-1", "--budget", 5, "--json").json
    assert result["n_evaluations"] == 5
    assert rows(Path("runs/search-1"))[: len(before)] == before


def test_resumed_search_keeps_its_own_settings_whatever_the_settings_file_says_now(home: Path) -> None:
    Path("nacdeploy.toml").write_text('max_drop = 3.0\nbudget = 9\nwandb = false\nmodel = "resnet20"\n')
    result = succeed("search", "--resume", "runs/search-1", "--json").json
    assert (result["n_evaluations"], result["model"]) == (4, "resnet8")


def test_refused_resume_leaves_the_run_resumable(home: Path) -> None:
    refused = run("search", "--resume", "runs/search-1", "--max-drop", 3)
    assert refused.code == 2
    assert "search.max_drop was 30.0 and is 3.0" in refused.err
    succeed("search", "--resume", "runs/search-1")


@pytest.mark.parametrize("damage", ["torn last line", "lost", "lost cache"])
def test_damaged_run_is_mended_by_resuming(damage: str, home: Path) -> None:
    run_folder = Path("runs/search-1")
    journal, before = run_folder / "journal.jsonl", rows(run_folder)
    if damage == "torn last line":
        journal.write_bytes(journal.read_bytes()[:-30])
    elif damage == "lost":
        journal.write_bytes(b"")
    else:
        for path in (run_folder / "cache").iterdir():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    succeed("search", "--resume", run_folder)
    kept = [{**row, "trained": None} for row in rows(run_folder)]
    assert kept == [{**row, "trained": None} for row in before]


@pytest.mark.parametrize("figure", ["macs", "bytes"])
def test_budget_ranks_by_the_figure_asked_for(figure: str, home: Path) -> None:
    change("search", figure=figure, budget=2)
    result = succeed("search", "--json").json
    figures = [row["figures"] for row in rows(Path(result["folder"]))[1:]]
    assert result["figures"][f"{figure}_ratio"] == max(f[f"{figure}_ratio"] for f in figures)


def test_nac_objective_finds_a_chain(home: Path) -> None:
    change("search", objective="nac")
    assert succeed("search", "--json").json["chain"]


def test_speed_is_measured_once_and_reused_by_a_resumed_run(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change("search", figure="speed", alphabet="Q", budget=1, n_latency_rounds=3)
    done = succeed("search", "--out", "fast")
    assert "a fresh run may differ" in done.err
    speeds, before = Path("fast/speeds.json").read_text(), outcome(Path("fast"))
    assert before["figures"]["speed_low"] <= before["figures"]["speed_ratio"] <= before["figures"]["speed_high"]

    def again(*arguments: Any) -> float:
        raise AssertionError("a measurement that was kept is made again")

    monkeypatch.setattr(speed, "_timed", again)
    succeed("search", "--resume", "fast")
    assert Path("fast/speeds.json").read_text() == speeds
    assert outcome(Path("fast")) == before


def test_search_says_loudly_that_nothing_meets_the_budget(home: Path) -> None:
    change("prune", ratio=0.9)
    change("search", alphabet="P")
    done = run("search", "--max-drop", 0, "--out", "harsh")
    assert (done.code, done.out) == (1, "")
    assert "NO CHAIN MEETS THE ACCURACY BUDGET of 0 points: the nearest, 'P', loses" in done.err
    assert len(rows(Path("harsh"))) >= 2
    assert not Path("harsh/checkpoint").exists()


def test_changed_images_are_noticed_by_a_resumed_search(home: Path) -> None:
    succeed("train", "--out", "mine")
    succeed("search", "--checkpoint", "mine", "--out", "run", "--budget", 1)
    run_file = Path("run/run.json")
    content = json.loads(run_file.read_text())
    content["profile"]["images"]["n_validation"] = 90
    run_file.write_text(json.dumps(content))
    refused = run("search", "--resume", "run")
    assert refused.code == 2
    assert "data_sha256 was" in refused.err
