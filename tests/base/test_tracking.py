"""Tracking: the JSON-lines record is always there, W&B writes under its directory and never ends a run."""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

from nacdeploy.base.errors import NacdeployError
from nacdeploy.base.tracking import Item, JsonLinesTracker, Sinks, Trackers, open_tracker, wandb_mode


def lines(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "tracking.jsonl").read_text(encoding="utf-8").splitlines()]


def broken_wandb(monkeypatch: pytest.MonkeyPatch, **members: Any) -> None:
    """A stand-in for the client, so that its failures can be had without its network."""
    module = ModuleType("wandb")
    for name, member in {"Settings": dict, **members}.items():
        setattr(module, name, member)
    monkeypatch.setitem(sys.modules, "wandb", module)


def test_row_is_on_disk_before_close(tmp_path: Path) -> None:
    tracker = open_tracker(tmp_path, Sinks(), project="p", config={"seed": 1}, say=pytest.fail)
    tracker.row("evaluation", {"chain": "QP", "accuracy": 0.5})
    assert lines(tmp_path) == [
        {"kind": "config", "project": "p", "config": {"seed": 1}},
        {"kind": "evaluation", "chain": "QP", "accuracy": 0.5},
    ]


def test_record_holds_tables_artifacts_and_what_json_lacks(tmp_path: Path) -> None:
    tracker = JsonLinesTracker(tmp_path / "tracking.jsonl")
    tracker.table("strategies", ["chain", "accuracy"], [["QP", 0.9], ["P", float("nan")]])
    parent = Item("dataset", "digits")
    tracker.artifact(Item("artifact", "m", tmp_path / "model", {"n": {1: float("inf")}}, ("QP",), (parent,)))
    tracker.close()
    table, artifact = lines(tmp_path)
    assert table["rows"] == [["QP", 0.9], ["P", "nan"]]
    assert artifact["metadata"] == {"n": {"1": "inf"}}
    assert artifact["parents"] == [{"type": "dataset", "name": "digits", "path": None}]
    assert (artifact["type"], artifact["aliases"]) == ("artifact", ["QP"])


def test_record_starts_a_new_line_after_a_killed_run(tmp_path: Path) -> None:
    path = tmp_path / "tracking.jsonl"
    path.write_text('{"kind": "a"}\n{"kind": "ha')
    JsonLinesTracker(path).row("b", {})
    assert path.read_text().splitlines()[-1] == '{"kind": "b"}'


def test_open_tracker_is_one_line_when_the_directory_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NacdeployError, match="cannot write"):
        open_tracker(tmp_path / "file" / "run", Sinks(), project="p", config={}, say=pytest.fail)


def test_trackers_hand_everything_to_each_member(tmp_path: Path) -> None:
    both = Trackers(tuple(JsonLinesTracker(tmp_path / name / "tracking.jsonl") for name in "ab"))
    both.row("x", {"y": 1})
    both.close()
    assert lines(tmp_path / "a") == lines(tmp_path / "b") == [{"kind": "x", "y": 1}]


@pytest.mark.parametrize(
    ("environment", "mode"),
    [
        ({}, "offline"),
        ({"WANDB_API_KEY": "k"}, "online"),
        ({"WANDB_API_KEY": "k", "WANDB_MODE": "offline"}, "offline"),
        ({"WANDB_API_KEY": "k", "WANDB_MODE": "disabled"}, "disabled"),
        ({"WANDB_MODE": "disabled"}, "disabled"),
    ],
)
def test_wandb_mode_needs_a_key_and_respects_the_environment(
    tmp_path: Path, environment: Mapping[str, str], mode: str
) -> None:
    assert wandb_mode({"HOME": str(tmp_path), **environment}) == mode


def test_wandb_mode_finds_a_netrc_entry_of_its_own_host(tmp_path: Path) -> None:
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine example.org login u password p\n")
    netrc.chmod(0o600)
    assert wandb_mode({"HOME": str(tmp_path)}) == "offline"
    netrc.write_text("machine api.wandb.ai login user password k\n")
    assert wandb_mode({"HOME": str(tmp_path)}) == "online"
    assert wandb_mode({"HOME": str(tmp_path), "WANDB_BASE_URL": "https://wandb.example.org"}) == "offline"


def test_disabled_wandb_is_said_and_not_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    said: list[str] = []
    open_tracker(tmp_path, Sinks(wandb=True), project="p", config={}, say=said.append).close()
    assert len(said) == 1 and "disabled by WANDB_MODE" in said[0]
    assert [path.name for path in tmp_path.iterdir()] == ["tracking.jsonl"]


def test_wandb_goes_offline_when_there_is_a_key_but_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    modes: list[str] = []

    class Run:
        def finish(self) -> None: ...

    def init(mode: str, **_: Any) -> Run:
        modes.append(mode)
        if mode == "online":
            raise TimeoutError("no route")
        return Run()

    broken_wandb(monkeypatch, init=init)
    said: list[str] = []
    open_tracker(tmp_path, Sinks(wandb=True), project="p", config={}, say=said.append).close()
    assert modes == ["online", "offline"]
    assert said[0] == "W&B: no connection (no route); going on offline"


def test_wandb_failure_is_one_warning_and_rows_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: Any) -> None:
        raise RuntimeError("service died\nwith a long trace")

    monkeypatch.setenv("WANDB_MODE", "offline")
    broken_wandb(monkeypatch, init=init)
    said: list[str] = []
    tracker = open_tracker(tmp_path, Sinks(wandb=True), project="p", config={}, say=said.append)
    tracker.row("a", {"x": 1})
    tracker.table("t", ["c"], [[1]])
    tracker.artifact(Item("artifact", "m", tmp_path))
    tracker.close()
    assert said == ["warning: W&B could not start (service died); going on with tracking.jsonl only"]
    assert [line["kind"] for line in lines(tmp_path)] == ["config", "a", "table", "artifact"]


def content_with(expected: Sequence[bytes], record: Path) -> bytes:
    """What the client's own process has written; it may be a moment later than `finish`."""
    end = time.monotonic() + 20
    while not all(text in record.read_bytes() for text in expected) and time.monotonic() < end:
        time.sleep(0.05)
    return record.read_bytes()


def picture(path: Path) -> Path:
    Image.new("RGB", (2, 2)).save(path)
    return path


def page(path: Path) -> Path:
    path.write_text("<!doctype html><title>report</title>")
    return path


def test_real_client_offline_keeps_to_its_directory_and_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    home, run, model, parent = (tmp_path / name for name in ("home", "run", "model", "parent"))
    for directory in (home, model, parent):
        directory.mkdir()
    (model / "manifest.json").write_text("{}")
    (parent / "weights.bin").write_bytes(b"w")
    monkeypatch.chdir(home)
    monkeypatch.setenv("HOME", str(home))
    for key in ("WANDB_MODE", "WANDB_API_KEY", "NETRC", "WANDB_CACHE_DIR"):
        monkeypatch.delenv(key, raising=False)
    said: list[str] = []
    tracker = open_tracker(
        run, Sinks(wandb=True), project="p", config={"width": 48.0, "path": tmp_path}, say=said.append
    )
    tracker.row("evaluation", {"chain": "QP", "accuracy": 0.98765, "nested": {"macs": 1}, "none": None})
    tracker.table("strategies", ["chain", "figure"], [["QP", 1], ["P", "none"], ["F", None]])
    tracker.media("front", picture(tmp_path / "front.png"))
    tracker.media("report", page(tmp_path / "report.html"))
    data = Item("dataset", "digits", metadata={"fingerprint": "f00d"})
    baseline = Item("checkpoint", "base", parent, parents=(data,))
    tracker.artifact(Item("artifact", "best model", model, {"accuracy": 0.98765}, ("QP",), (data, baseline)))
    tracker.close()
    (record,) = (run / "wandb").glob("offline-run-*/run-*.wandb")
    expected = (b"evaluation/accuracy", b"0.98765", b"best-model", b"manifest.json", b"f00d", b"QP", b"latest")
    content = content_with(expected, record)
    assert all(text in content for text in expected)
    assert str(parent).encode() in content and b"weights.bin" in content
    assert list((run / "wandb").glob("offline-run-*/files/media/table/strategies*.json"))
    assert list((run / "wandb").glob("offline-run-*/files/media/images/front*.png"))
    assert list((run / "wandb").glob("offline-run-*/files/media/html/report*.html"))
    assert [path for path in home.rglob("*") if path.is_file()] == []
    assert len(said) == 1 and said[0].startswith("W&B: offline; send it later with: wandb sync ")
    assert capfd.readouterr() == ("", "")
