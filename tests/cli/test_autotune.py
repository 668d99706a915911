"""`export --autotune`, `--guard` and `--no-guard`: what they leave, never how fast it is."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from command_line import change, run, succeed

from nacdeploy.exporters.artifacts import artifact
from nacdeploy.exporters.tune import Measurements

SCRIPT = str(Path(sys.executable).with_name("nacdeploy"))
EXPORT = ("export", "--profile", "tiny.toml", "--target", "ort")
DEADLINE_S = 120


@pytest.fixture(autouse=True)
def _few_rounds(home: Path) -> None:
    change("export", n_autotune_rounds=3)


def read(path: str) -> Any:
    return json.loads(Path(path).read_text())


def times() -> dict[str, Any]:
    """What was measured, of the one file of measurements."""
    found = list(Path("runs/autotune").glob("*.json"))
    assert len(found) <= 1
    return json.loads(found[0].read_text()) if found else {}


def test_autotune_writes_the_precision_of_every_layer_as_the_graph_holds_it() -> None:
    succeed(*EXPORT, "--autotune", "--out", "tuned")
    manifest, rows = artifact.load(Path("tuned"))
    precision = read("tuned/precision.json")
    assert {row.layer: "int8" if row.held == "int8" else "float" for row in rows} == precision["layers"]
    assert precision["target"] == "ort"
    assert precision["n_timed"] == len(times()) > 0
    assert any(note.startswith("precision by measured time") for note in manifest.notes)
    floats = [row for row in rows if row.held != "int8"]
    assert {(row.asked, row.reason) for row in floats} <= {("w8a8", "measured to be faster in float")}


def test_second_export_measures_nothing_again_and_a_changed_record_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    succeed(*EXPORT, "--autotune", "--out", "first")
    before = times()

    def again(*arguments: Any) -> None:
        raise AssertionError("what was measured is measured again")

    monkeypatch.setattr(Measurements, "keep", again)
    succeed(*EXPORT, "--autotune", "--out", "second")
    assert times() == before
    assert read("second/precision.json") == read("first/precision.json")
    Path("second/precision.json").write_text("{}")
    shown = run("show", "second")
    assert (shown.code, shown.out) == (1, "")
    assert "precision.json is damaged" in shown.err


@pytest.mark.parametrize(("option", "is_timed"), [("--guard", True), ("--no-guard", False)])
def test_option_beats_the_profile(option: str, is_timed: bool) -> None:
    change("export", guard=not is_timed)
    manifest = succeed(*EXPORT, option, "--out", "made", "--json").json
    assert Path("made/precision.json").is_file() is is_timed is ("precision.json" in manifest["files"])
    assert any("the FP32 network that it came from" in note for note in manifest["notes"]) is is_timed
    assert any("the same network in float" in n or "measured time" in n for n in manifest["notes"]) is is_timed
    assert bool(times()) is is_timed


def test_target_that_cannot_be_timed_here_is_left_as_it_is() -> None:
    manifest = succeed("export", "--target", "onnx", "--autotune", "--out", "made", "--json").json
    assert "precision.json" not in manifest["files"]
    assert times() == {}


def test_float_network_has_no_precisions_to_choose() -> None:
    baseline = next(Path("runs/baselines").iterdir())
    manifest = succeed(*EXPORT, "--autotune", "--from", baseline, "--out", "made", "--json").json
    assert "precision.json" not in manifest["files"]
    assert manifest["worst_step"] is None


def test_four_bits_threads_and_exits_are_tuned() -> None:
    change("bench", threads=2)
    succeed("transfer", "--strategy", "QQE", "--out", "mine")
    succeed(*EXPORT, "--autotune", "--from", "mine", "--out", "made")
    _, rows = artifact.load(Path("made"))
    assert {row.asked for row in rows} == {"w4a8"}
    assert {row.reason for row in rows} <= {"values fit 4 bits", "measured to be faster in float"}


@pytest.mark.slow
def test_killed_autotune_leaves_no_artifact_and_goes_on() -> None:
    change("export", n_autotune_rounds=30)
    process = subprocess.Popen([SCRIPT, *EXPORT, "--autotune", "--out", "made"], stderr=subprocess.DEVNULL)
    end = time.monotonic() + DEADLINE_S
    while len(times()) < 2:
        assert process.poll() is None, "the export ended before it could be killed"
        assert time.monotonic() < end
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = times()
    assert [path for path in Path().glob("*made*/**/*") if path.is_file()] == []
    succeed(*EXPORT, "--autotune", "--out", "made")
    assert kept.items() <= times().items()
    assert read("made/precision.json")["n_timed"] == len(times()) > len(kept)
