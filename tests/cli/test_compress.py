"""nacdeploy compress: experiments by nacdeploy itself and by scripts, from the file to what they leave."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from command_line import lay_out, run, succeed

EXAMPLES = Path(__file__).parents[2] / "examples"
AUTO = {"proposer": "random", "n_samples": 3, "target": "max", "random_seed": 1}
SHARE = {"range": [0.1, 0.6], "type": "float"}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return lay_out(tmp_path)


def write(compressor: str, *entries: dict[str, Any], name: str = "e", **more: Any) -> Path:
    table = {"framework": "torch", "compressor": compressor, "config_list": list(entries)}
    path = Path(f"{name}.json")
    path.write_text(json.dumps({"name": name, "resource": "cpu", "compression": table, **more}))
    return path


def script(text: str, name: str = "train.py") -> str:
    """A script that this user has named, as `--script` does."""
    Path(name).write_text("from nacdeploy.experiments import load_config, report_result\n" + text)
    succeed("trust", name)
    return name


def test_one_time_compression_leaves_a_result_like_any_other() -> None:
    file = write("l1_filter", {"sparsity": 0.5, "op_types": ["Conv2d"]}, engine=1)
    done = succeed("compress", file, "--json")
    assert "ignored: engine" in done.err
    assert done.json["result"]["chain"] == "PF"
    assert done.json["jobs"][0]["status"] == "done"
    assert "best 0" in succeed("show", done.json["folder"]).out
    assert "chain 'PF'" in succeed("show", done.json["best_folder"]).out
    succeed("export", "--from", done.json["folder"], "--target", "ort")


def test_automatic_compression_keeps_the_best_on_validation_and_repeats() -> None:
    file = write("level", {"sparsity": SHARE, "op_names": ["stages.1.0.conv1", "stages.2.0.conv1"]}, **AUTO)
    first, second = (succeed("compress", file, "--automatic", "--json").json for _ in range(2))
    values = [row["value"] for row in first["jobs"]]
    assert len(values) == 3
    assert first["best_value"] == max(values)
    assert first["jobs"][0]["proposal"].keys() == {"0.sparsity", "1.sparsity"}
    assert [row["proposal"] for row in first["jobs"]] == [row["proposal"] for row in second["jobs"]]
    assert values == [row["value"] for row in second["jobs"]]
    models = [p.parent.name for p in Path(first["folder"]).glob("jobs/*/model")]
    assert models == [f"{first['best_job']:04d}"]


def test_metric_may_be_a_ratio_and_the_target_its_least() -> None:
    more = {**AUTO, "metric": "bytes_ratio", "target": "min"}
    done = succeed("compress", write("level", {"sparsity": SHARE}, **more), "--automatic", "--json").json
    shares = {row["number"]: row["proposal"]["0.sparsity"] for row in done["jobs"]}
    assert done["best_job"] == min(shares, key=lambda n: shares[n])


def test_early_stop_ends_a_compression_that_falls_behind() -> None:
    share = {"sparsity": {"range": [0.1, 0.97], "type": "choice"}, "op_types": ["default"]}
    stop = {"early_stop": {"aup_policy": "median"}}
    file = write("level", share, proposer="sequence", n_samples=5, resource_args=stop)
    done = succeed("compress", file, "--automatic", "--json").json
    assert [row["status"] for row in done["jobs"]] == ["done", "stopped"]
    assert len(done["jobs"][1]["intermediates"]) == 1


def test_setting_of_the_whole_run_may_be_searched_over() -> None:
    entry = {"final_sparsity": 0.5, "op_types": ["default"]}
    file = write("agp", entry, **{**AUTO, "n_samples": 2})
    data = json.loads(file.read_text())
    data["compression"]["end_epoch"] = {"range": [1, 2], "type": "int"}
    file.write_text(json.dumps({**data, "proposer": "grid"}))
    done = succeed("compress", file, "--automatic", "--json").json
    assert [row["settings"] for row in done["jobs"]] == [{"end_epoch": 1}, {"end_epoch": 2}]


@pytest.mark.parametrize(
    ("more", "arguments", "said"),
    [
        ({}, ["--automatic"], "--automatic searches over ranges"),
        ({"entry": {"sparsity": SHARE}}, [], "0.sparsity is a range"),
        ({"entry": {"sparsity": SHARE}, "proposer": "grid"}, ["--automatic"], "needs 'interval' or 'n'"),
        ({"proposer": "magic"}, [], "unknown proposer 'magic'; known:"),
        ({"entry": {"sparsity": 0.5, "op_names": ["stem.00"]}}, [], "did you mean 'stem.0'"),
        ({"entry": {"sparsity": 0.5, "op_names": ["classifier"]}}, [], "'classifier' cannot be cut"),
        ({"script": "nowhere.py"}, [], "script nowhere.py does not exist"),
        ({}, ["--script", "train.py"], "e.json names no script: leave --script train.py away"),
        ({}, ["--resume", "x"], "leave EXPERIMENT.json away"),
    ],
)
def test_bad_input_is_one_line_and_trains_nothing(more: dict[str, Any], arguments: list[str], said: str) -> None:
    entry = more.pop("entry", {"sparsity": 0.5})
    outcome = run("compress", write("l1", entry, **more), *arguments)
    assert outcome.code == 2
    assert said in outcome.err
    assert "error:" in outcome.err.splitlines()[-1]
    assert not Path("runs/baselines").exists()


def test_script_is_handed_its_configuration_and_its_last_result_counts() -> None:
    text = "c = load_config()\nprint('seen', c['config_list'])\nreport_result(0.1)\nreport_result(0.5)\n"
    file = write("l1", {"sparsity": 0.5, "op_names": ["a"]}, script=script(text))
    done = succeed("compress", file, "--json").json
    job = Path(done["folder"]) / "jobs" / "0000"
    assert (done["best_value"], done["jobs"][0]["intermediates"]) == (0.5, [0.1, 0.5])
    assert "seen [{'op_names': ['a'], 'sparsity': 0.5}]" in (job / "stdout.log").read_text()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "train.py ended without a result: call"),
        ("raise RuntimeError('no luck')", "train.py ended with exit code 1: RuntimeError: no luck"),
        ("report_result(float('inf'))", "one finite number"),
    ],
)
def test_script_that_fails_is_one_clear_line(text: str, said: str) -> None:
    outcome = run("compress", write("l1", {"sparsity": 0.5}, script=script(text)))
    assert outcome.code == 1
    assert said in outcome.err.splitlines()[-1]
    assert "--resume" in outcome.err


def test_failed_experiment_goes_on_where_it_stopped() -> None:
    text = """
from pathlib import Path
number = load_config()["job_id"]
with Path("calls").open("a") as file:
    file.write(f"{number} ")
assert number != 1 or Path("mended").exists(), "broken"
report_result(number)
"""
    file = write("l1", {"sparsity": SHARE}, script=script(text), **AUTO)
    broken = run("compress", file, "--automatic")
    assert broken.code == 1
    assert "job 1 failed: train.py ended with exit code 1: AssertionError: broken" in broken.err
    Path("mended").touch()
    done = succeed("compress", "--resume", "runs/compress-e-1", "--json").json
    assert [row["value"] for row in done["jobs"]] == [0.0, 1.0, 2.0]
    assert Path("calls").read_text().split() == ["0", "1", "1", "2"]


def test_job_failure_tries_again_and_forgives() -> None:
    text = """
from pathlib import Path
number = load_config()["job_id"]
tries = Path(f"tries-{number}")
tries.write_text(tries.read_text() + "x" if tries.exists() else "x")
assert number == 2 or (number == 1 and len(tries.read_text()) == 2), "broken"
report_result(-number)
"""
    more = {**AUTO, "job_failure": {"job_retries": 1, "ignore_fail": True}, "n_parallel": 3}
    done = succeed("compress", write("l1", {"sparsity": SHARE}, script=script(text), **more), "--automatic", "--json")
    rows = done.json["jobs"]
    assert [row["status"] for row in rows] == ["failed", "done", "done"]
    assert [row["n_tries"] for row in rows] == [2, 2, 1]
    assert done.json["best_job"] == 1


def test_early_stop_ends_a_script_that_falls_behind() -> None:
    text = """
import time
number = load_config()["job_id"]
report_result(1.0 - number)
time.sleep(0.0 if number == 0 else 60.0)
"""
    stop = {"early_stop": {"aup_policy": "bandit", "bandit_factor": 0.1}}
    file = write("l1", {"sparsity": SHARE}, script=script(text), **{**AUTO, "n_samples": 2}, resource_args=stop)
    done = succeed("compress", file, "--automatic", "--json").json
    assert [row["status"] for row in done["jobs"]] == ["done", "stopped"]


@pytest.mark.slow
def test_example_script_keeps_the_best_model_without_a_second_run() -> None:
    shutil.copytree(EXAMPLES, "examples")
    named = ("--script", "examples/compress_digits.py")
    done = succeed("compress", "examples/digits_automatic.json", "--automatic", *named, "--json").json
    assert len(done["jobs"]) == 4
    assert done["best_value"] > 0.85
    best = Path(done["best_folder"])
    assert (best / "model_compressed.pth").is_file()
    assert (best / "model_mask.pth").is_file()
    assert "best" in succeed("show", done["folder"]).out


def test_script_result_is_a_checkpoint_where_its_model_is_named() -> None:
    shutil.copytree(EXAMPLES, "examples")
    done = succeed("compress", "examples/digits.json", "--model", "examples/compress_digits.py:network", "--json").json
    assert done["result"]["chain"] == "P"
    assert done["result"]["figures"]["accuracy"] > 0.85
    assert "removed" in succeed("show", done["best_folder"]).out
