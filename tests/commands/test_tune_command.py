"""`tune`: thresholds move in an artifact without an export, its hashes stay right, and what cannot be is said."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import change, lay_out, refused_line, run, succeed

import nacdeploy
from nacdeploy.exporters.artifacts import artifact
from nacdeploy.exporters.exits import deployed


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with artifacts of one network: in segments, in one file, whole, and one without exits."""
    folder = lay_out(tmp_path_factory.mktemp("tuned"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        change("exits", n_exits=2, max_drop=1.0)
        change("export", n_autotune_rounds=3)
        succeed("transfer", "--strategy", "QE", "--out", "network")
        for form in ("segments", "if", "whole"):
            text = (folder / "tiny.toml").read_text()
            Path("form.toml").write_text(text.replace('exits = "whole"', f'exits = "{form}"'))
            succeed("export", "--from", "network", "--profile", "form.toml", "--out", form)
        succeed("transfer", "--strategy", "Q", "--out", "plain-network")
        succeed("export", "--from", "plain-network", "--out", "plain")
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def manifest_of(folder: str) -> Any:
    return json.loads(Path(folder, "manifest.json").read_text())


def expected_drop(setting: dict[str, Any]) -> float:
    return max(setting["drop"], setting["drop"] if setting["held_out"] is None else setting["held_out"])


def taken(folder: str) -> list[int]:
    """Which exits answer some images, one by one."""
    opened, draw = deployed.load(Path(folder)), np.random.default_rng(0)
    return [int(opened.run(draw.normal(size=(1, 1, 8, 8)).astype(np.float32)).exits[0]) for _ in range(20)]


def test_without_a_bound_the_curve_is_shown_and_nothing_changes(here: Path) -> None:
    before = Path("segments/manifest.json").read_bytes()
    found = succeed("tune", "segments", "--json").json
    assert found["thresholds"] == found["before"] and found["expected"]["thresholds"] == found["thresholds"]
    times = [each["expected_ms"] for each in found["curve"]]
    drops = list(map(expected_drop, found["curve"]))
    assert times == sorted(times) and drops == sorted(drops, reverse=True)
    assert "expected ms" in succeed("tune", "segments").out
    assert Path("segments/manifest.json").read_bytes() == before


@pytest.mark.parametrize("form", ["segments", "if"])
def test_largest_drop_moves_thresholds_and_every_hash_stays_right(form: str, here: Path) -> None:
    curve = succeed("tune", form, "--thresholds", "never,never", "--json").json["curve"]
    bound = max(curve[0]["drop"], 0.0) + 1
    found = succeed("tune", form, "--max-drop", bound, "--json").json
    assert found["thresholds"] == curve[0]["thresholds"] != found["before"]
    assert manifest_of(form)["gate"]["exits"][0]["threshold"] == found["thresholds"][0]
    assert manifest_of(form)["cascade"]["expected_ms"] == curve[0]["expected_ms"]
    assert "as their hashes say" in succeed("verify", form).out
    names = {each.relative_to(form).as_posix() for each in Path(form).rglob("*") if each.is_file()}
    assert names == {"manifest.json", *manifest_of(form)["files"]}


def test_time_takes_the_best_thresholds_within_it(here: Path) -> None:
    curve = succeed("tune", "segments", "--json").json["curve"]
    found = succeed("tune", "segments", "--latency-ms", curve[-1]["expected_ms"] + 1, "--json").json
    assert found["expected"]["drop"] == min(map(expected_drop, curve))
    done = run("tune", "segments", "--latency-ms", "1e-9")
    assert done.code == 1 and "no thresholds are expected within 1e-09 ms: they reach from" in refused_line(done)


@pytest.mark.parametrize("form", ["segments", "if", "whole"])
def test_thresholds_of_ones_own_decide_who_leaves(form: str, here: Path) -> None:
    for thresholds, expected in (("0,0", 0), ("never,0", 1), ("never, never", 2)):
        found = nacdeploy.tune(form, thresholds=thresholds)
        assert found.expected is None
        assert set(taken(form)) == {expected}
        assert "nothing is known of them" in succeed("tune", form).out


def test_artifact_stays_ones_own_when_it_is_tuned(here: Path) -> None:
    succeed("tune", "segments", "--max-drop", "50")
    table = succeed("bench", "segments", "--json").json
    row = table["rows"][1]
    assert row["expected_ms"] > 0 and sum(row["exit_fractions"]) == pytest.approx(1)
    assert "over test images in shuffled order" in row["note"]


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("plain --max-drop 1", 2, "plain has no exits (chain 'Q'): E adds them"),
        ("segments --thresholds 0.5", 2, "2 exits take 2 thresholds, and 1 are given"),
        ("segments --thresholds 0.5,1.5", 2, "threshold '1.5' is none: a number from 0 to 1, or 'never'"),
        ("segments --thresholds 0.5,nan", 2, "threshold 'nan' is none"),
        ("segments --max-drop -1", 2, "--max-drop is -1"),
        ("segments --max-drop nan", 2, "--max-drop is nan"),
        ("segments --latency-ms 0", 2, "--latency-ms is 0"),
        ("segments --max-drop 1 --thresholds 0,0", 2, "give one of"),
        ("whole --max-drop 1", 2, "whole holds no curve of its exits"),
        ("nothing --max-drop 1", 2, "nothing is not an artifact"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(command: str, code: int, said: str, here: Path) -> None:
    before = {each: each.read_bytes() for each in here.rglob("*") if each.is_file()}
    done = run("tune", *command.split())
    assert (done.code, done.out) == (code, "")
    assert said in refused_line(done)
    assert {each: each.read_bytes() for each in here.rglob("*") if each.is_file()} == before


def test_curve_of_other_exits_is_refused(here: Path) -> None:
    path = Path("segments/exits.json")
    data = json.loads(path.read_text())
    data["settings"] = [{**each, "thresholds": [0.5]} for each in data["settings"]]
    path.write_text(json.dumps(data))
    whole = manifest_of("segments")
    whole["files"]["exits.json"] = nacdeploy.base.records.sha256_file(path)  # type: ignore[attr-defined]
    Path("segments/manifest.json").write_text(json.dumps(whole))
    assert "is not the curve of 2 exits" in refused_line(run("tune", "segments", "--max-drop", 1))


def test_export_says_what_is_expected_of_exits(here: Path) -> None:
    said = succeed("export", "--from", "network", "--profile", "form.toml", "--out", "again").out
    assert "no time saved in this form" in said  # the last form written is the whole graph
    Path("form.toml").write_text(Path("tiny.toml").read_text().replace('exits = "whole"', 'exits = "segments"'))
    said = succeed("export", "--from", "network", "--profile", "form.toml", "--out", "cut").out
    assert "exits in form 'segments' (ONNX Runtime): " in said and "below the network's own end" in said


def test_encode_restores_an_artifact_in_segments(here: Path) -> None:
    succeed("encode", "if", "--out", "small.nac")
    succeed("decode", "small.nac", "--out", "restored")
    files = {each.relative_to("if"): each.read_bytes() for each in Path("if").rglob("*") if each.is_file()}
    assert len(files) > 8
    assert files == {e.relative_to("restored"): e.read_bytes() for e in Path("restored").rglob("*") if e.is_file()}


def test_package_and_load_take_an_artifact_in_segments(here: Path) -> None:
    packaged = nacdeploy.package("segments", "a.tar")
    assert packaged.left_out == () and packaged.n_files == 1 + len(manifest_of("segments")["files"])
    opened = nacdeploy.load("segments")
    answered = opened(torch.zeros(3, 1, 8, 8))
    assert answered.outputs.shape == (3, 10) and answered.exits.tolist() == [answered.exits[0]] * 3
    assert artifact.load(Path("segments"))[0].cascade is not None
