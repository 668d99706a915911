"""`report --artifact`: one page of a run and of what was exported from it, timed and explained."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import change, lay_out, refused_line, run, succeed
from tests.report_pages import Section, sections_of

RUN = "runs/transfer-QE-1"
RECORDS = ("--bench", "bench.json", "--explained", "explained.json")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a chain with exits was exported in segments, timed and explained; no test changes it."""
    folder = lay_out(tmp_path_factory.mktemp("shipped"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        change("export", exits="segments")
        succeed("transfer", "--strategy", "QE")
        succeed("export", "--out", "artifact")
        succeed("bench", "artifact", "--out", "bench.json")
        succeed("explain", "artifact", "--rounds", 3, "--out", "explained.json")
    return folder


@pytest.fixture
def job(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder, as the current one."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def told(*options: object) -> dict[str, Section]:
    succeed("report", RUN, "--artifact", "artifact", *options, "--out", "page.html")
    return sections_of(Path("page.html"))


def record(name: str) -> Any:
    return json.loads(Path(name).read_text())


def test_page_tells_the_whole_job_in_order(job: Path) -> None:
    assert [*told(*RECORDS)] == ["", "result", "chain", "export", "measured", "exits", "layers"]


def test_measured_times_stand_beside_analytic_figures(job: Path) -> None:
    page = told(*RECORDS)
    base, own = page["measured"].first
    cost, table = record("artifact/manifest.json")["metrics"]["cost"], record("bench.json")
    row = next(each for each in table["rows"] if each["artifact"] == "artifact")
    assert (own["p50 ms"], own["mean ms"]) == (row["latency"]["p50_ms"], row["latency"]["mean_ms"])
    assert own["speed (95 %)"] == row["speed"]["value"]
    assert (own["million MACs"], own["million BitOps"]) == (cost["expected_macs"], cost["expected_bitops"])
    figures = record(f"{RUN}/result.json")["figures"]
    assert base["million BitOps"] == pytest.approx(cost["expected_bitops"] * figures["bitops_ratio"])
    assert table["machine"] in page["measured"].text and table["runtime"] in page["measured"].text
    tip = next(tip for tip in page["measured"].tips if tip.startswith("artifact (QE)"))
    assert f"p50 {row['latency']['p50_ms']:.4g} ms" in tip and "1 thread(s)" in tip


def test_exits_are_told_as_expected_and_as_measured(job: Path) -> None:
    exits = told(*RECORDS)["exits"]
    cascade = record("artifact/manifest.json")["cascade"]
    row = next(each for each in record("bench.json")["rows"] if each["expected_ms"] is not None)
    assert exits.fact("expected at batch 1, on validation") == f"{cascade['expected_ms']:.4g} ms"
    assert exits.fact("expected at batch 1, on test") == f"{row['expected_ms']:.4g} ms"
    measured = exits.fact("measured mean, test images in shuffled order")
    assert measured.startswith(f"{row['latency']['mean_ms']:.4g} ms (")
    assert [way["of test images %"] for way in exits.first] == row["exit_fractions"]
    assert [way["of validation images %"] for way in exits.first] == cascade["fractions"]
    assert [way["ms by this way"] for way in exits.first] == cascade["ways_ms"]
    for setting in record("artifact/exits.json")["settings"]:
        assert any(f"{setting['expected_ms']:.4g} ms expected" in tip for tip in exits.tips)
    assert any(tip.startswith("one graph") and f"{cascade['whole_ms']:.4g} ms" in tip for tip in exits.tips)


def test_layers_are_told_as_explained(job: Path) -> None:
    layers = told(*RECORDS)["layers"]
    rows = {row["layer"]: row for row in record("explained.json")["rows"]}
    assert {row["layer"] for row in layers.first} == {*rows, "(between layers)"}
    for row in layers.first[:-1]:
        theirs = rows[str(row["layer"])]
        assert row["µs"] == theirs["facts"]["time_ms"] and row["float µs"] == theirs["facts"]["twin_ms"]
        assert row["asked"] == (theirs["asked"] or "-") and row["why"] == theirs["reason"]["text"]


def test_layers_are_told_as_lowered_where_nothing_was_explained(job: Path) -> None:
    page = told()
    held = {row["layer"]: row["held"] for row in record("artifact/lowering.json")}
    assert {row["layer"]: row["held"] for row in page["layers"].first} == held
    cascade = record("artifact/manifest.json")["cascade"]
    assert page["measured"].fact("all outputs in one graph, at export").startswith(f"{cascade['whole_ms']:.4g} ms")
    assert "--bench" in page["measured"].text and not page["measured"].tables


def test_layers_are_explained_at_once_if_asked(job: Path) -> None:
    assert "µs" in told("--explain")["layers"].first[0]


def test_artifact_with_exits_in_one_graph_says_that_they_save_nothing(job: Path) -> None:
    change("export", exits="whole")
    succeed("export", "--from", RUN, "--out", "whole")
    found = succeed("report", RUN, "--artifact", "whole", "--out", "page.html", "--json")
    assert json.loads(found.out) == {"report": "page.html"}
    exits = sections_of(Path("page.html"))["exits"]
    assert "no time is saved" in exits.text
    assert len(exits.first) == 2


def refused(*options: object) -> str:
    line = refused_line(run("report", RUN, "--artifact", "artifact", *options, "--out", "page.html"))
    assert not Path("page.html").exists()
    return line


def test_records_about_another_artifact_are_refused(job: Path) -> None:
    succeed("export", "--from", RUN, "--target", "onnx", "--out", "other")
    succeed("bench", "other", "--out", "bench.json")
    succeed("explain", "other", "--rounds", 3, "--out", "explained.json")
    line = refused(*RECORDS[:2])
    assert "bench.json has no row of artifact as it is now" in line and "nacdeploy bench artifact --out" in line
    assert "explained.json is about other (QE for onnx), not about artifact as it is now" in refused(*RECORDS[2:])


def test_times_of_other_thresholds_are_refused(job: Path) -> None:
    succeed("tune", "artifact", "--thresholds", "never")
    assert "as it is now" in refused(*RECORDS[:2])


def test_artifact_that_was_moved_keeps_its_records(job: Path) -> None:
    Path("artifact").rename("elsewhere")
    succeed("report", RUN, "--artifact", "elsewhere", *RECORDS, "--out", "page.html")
    assert sections_of(Path("page.html"))["measured"].first[1]["mean ms"]


@pytest.mark.parametrize(("key", "value"), [("chain", "PQ"), ("target", "onnx"), ("model_bytes", 1), ("artifact", "b")])
def test_records_of_older_versions_are_known_by_their_facts(job: Path, key: str, value: Any) -> None:
    table, explained = record("bench.json"), record("explained.json")
    for row in table["rows"]:
        del row["identity"]
    del explained["model_sha256"]
    Path("bench.json").write_text(json.dumps(table))
    Path("explained.json").write_text(json.dumps(explained))
    assert told(*RECORDS)["layers"].first
    Path("page.html").unlink()
    for row in table["rows"]:
        row[key] = value
    Path("bench.json").write_text(json.dumps(table))
    assert "bench.json has no row" in refused(*RECORDS[:2])
    if key in explained:
        Path("explained.json").write_text(json.dumps({**explained, key: value}))
        assert "explained.json is about" in refused(*RECORDS[2:])


def test_records_without_an_artifact_are_refused(job: Path) -> None:
    assert "--artifact" in refused_line(run("report", RUN, *RECORDS))
    assert "give one of them" in refused_line(run("report", RUN, "--artifact", "artifact", "--explain", *RECORDS[2:]))
    assert "not an artifact" in refused_line(run("report", RUN, "--artifact", "runs", "--explain"))


@pytest.mark.parametrize("text", ["[]", "{", '{"rows": []}', '{"baseline": 1}'])
def test_record_that_is_none_is_refused(job: Path, text: str) -> None:
    Path("bench.json").write_text(text)
    assert "bench.json" in refused_line(run("report", RUN, "--artifact", "artifact", *RECORDS[:2]))


def test_hostile_texts_of_records_are_texts(job: Path) -> None:
    hostile = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    table = record("bench.json")
    for row in table["rows"]:
        row["note"] = row["runtime"] = hostile
    explained = {**record("explained.json"), "machine": hostile, "notes": [hostile]}
    Path("bench.json").write_text(json.dumps({**table, "machine": hostile}))
    Path("explained.json").write_text(json.dumps(explained))
    page = told(*RECORDS)
    assert hostile in page["measured"].text and hostile in page["layers"].text
    text = Path("page.html").read_text()
    assert text.count("<script>") == 1 and "<img" not in text
