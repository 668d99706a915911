"""benchmarks/exits.py runs from training to its table, and goes on where it was stopped."""

from pathlib import Path

import pytest

from benchmarks import exits
from nacdeploy.base import records


def test_smoke_run_leaves_its_table_and_does_nothing_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exits.main(["--smoke", "--no-static", "--folder", str(tmp_path)])
    table = records.read_json(tmp_path / "table.json")
    assert table["form"] == "segments" and len(table["alone"]) == len(table["shares"]) == 3
    assert sum(table["shares"]) == pytest.approx(1)
    row = table["rows"]["1"]
    ways = [share * way for share, way in zip(table["shares"], row["ways_ms"], strict=True)]
    assert row["expected_ms"] == pytest.approx(sum(ways)) and row["QF"]["mean_ms"] > 0
    first, stamps = capsys.readouterr().out, {each: each.stat().st_mtime_ns for each in tmp_path.rglob("*.onnx")}
    exits.main(["--smoke", "--no-static", "--folder", str(tmp_path)])
    assert capsys.readouterr().out == first
    assert {each: each.stat().st_mtime_ns for each in tmp_path.rglob("*.onnx")} == stamps
