"""MLflow beside the record: a local store by the real client, and every failure one line."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from nacdeploy.base.tracking import Item, Sinks, open_tracker

mlflow = pytest.importorskip("mlflow")


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_ALLOW_FILE_STORE"):
        monkeypatch.delenv(name, raising=False)


def client(store: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return mlflow.MlflowClient(tracking_uri=str(store), registry_uri=str(store))


def test_rows_tables_pages_and_items_are_in_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    (tmp_path / "report.html").write_text("<!doctype html>")
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "record.json").write_text("{}")
    config = {"seed": 1, "train": {"epochs": 3}, "long": "x" * 1000}
    tracker = open_tracker(tmp_path / "run", Sinks(mlflow=True, store=tmp_path / "s"), **told(config, said))
    tracker.row("evaluation", {"chain": "Q", "figures": {"accuracy": 0.5}, "is_best": True})
    tracker.row("evaluation", {"chain": "QP", "figures": {"accuracy": 0.75}, "none": None})
    tracker.table("strategies", ["chain", "drop"], [["Q", 0.1], ["QP", float("nan")]])
    tracker.media("report", tmp_path / "report.html")
    parent = Item("dataset", "digits", metadata={"fingerprint": "f00d"})
    tracker.artifact(Item("checkpoint", "net (wide)", tmp_path / "checkpoint", parents=(parent,)))
    tracker.close()
    assert len(said) == 1 and said[0].startswith("MLflow: ")
    store = client(tmp_path / "s", monkeypatch)
    (run,) = store.search_runs([store.get_experiment_by_name("p").experiment_id])
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    assert run.data.params["train.epochs"] == "3"
    history = store.get_metric_history(run.info.run_id, "evaluation/figures.accuracy")
    assert [(each.step, each.value) for each in history] == [(0, 0.5), (1, 0.75)]
    assert run.data.tags["evaluation/chain"] == "QP" and run.data.tags["parent.dataset"] == "digits"
    kept = Path(run.info.artifact_uri)
    assert json.loads((kept / "strategies.json").read_text())["data"] == [["Q", 0.1], ["QP", "nan"]]
    assert (kept / "report.html").is_file() and (kept / "net-wide" / "record.json").is_file()


def told(config: dict[str, Any], said: list[str]) -> dict[str, Any]:
    return {"project": "p", "config": config, "say": said.append}


def test_a_second_run_joins_the_experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "ab":
        open_tracker(tmp_path / name, Sinks(mlflow=True, store=tmp_path / "s"), **told({}, [])).close()
    store = client(tmp_path / "s", monkeypatch)
    runs = store.search_runs([store.get_experiment_by_name("p").experiment_id])
    assert sorted(run.info.run_name for run in runs) == ["a", "b"]


@pytest.mark.parametrize("uri", ["ftp://nowhere", "http://127.0.0.1:9", "file"])
def test_a_store_that_fails_is_one_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    said: list[str] = []
    tracker = open_tracker(tmp_path / "run", Sinks(mlflow=True), **told({}, said))
    tracker.row("a", {"x": 1})
    tracker.artifact(Item("checkpoint", "m", tmp_path / "file"))
    tracker.close()
    assert len(said) == 1 and said[0].startswith("warning: MLflow could not start (") and "\n" not in said[0]
    record = (tmp_path / "run" / "tracking.jsonl").read_text().splitlines()
    assert [json.loads(line)["kind"] for line in record] == ["config", "a", "artifact"]


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    said: list[str] = []
    open_tracker(tmp_path / "run", Sinks(mlflow=True), **told({}, said)).close()
    assert "pip install 'nacdeploy[mlflow]'" in said[0]
