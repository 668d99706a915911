"""nacdeploy report: of a finished search, of one under way, of a transfer; opened in a browser."""

import json
from pathlib import Path

import pytest
from browser import check_reading, read_at_widths
from command_line import run, succeed


@pytest.fixture
def searched(home: Path) -> Path:
    succeed("search", "--out", "runs/s")
    return Path("runs/s")


def test_search_leaves_its_report(searched: Path) -> None:
    text = (searched / "report.html").read_text()
    assert [f'id="{name}"' in text for name in ("front", "chain", "tree", "layers")] == [True] * 4
    chain = json.loads((searched / "result.json").read_text())["chain"]
    assert f"<h1>{chain} on resnet8, digits</h1>" in text
    kinds = [json.loads(line) for line in (searched / "tracking.jsonl").read_text().splitlines()]
    assert {row["name"] for row in kinds if row["kind"] == "media"} == {"front", "chain", "tree", "layers", "report"}


def test_report_is_made_again_to_the_same_bytes(searched: Path) -> None:
    succeed("report", searched, "--out", "again.html")
    assert Path("again.html").read_bytes() == (searched / "report.html").read_bytes()


def test_report_of_a_search_under_way_says_how_far_it_is(searched: Path) -> None:
    for name in ("result.json", "report.html"):
        (searched / name).unlink()
    journal = searched / "journal.jsonl"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:3]) + b'{"chain": "to')
    assert "runs/s/report.html" in succeed("report", searched).out
    text = (searched / "report.html").read_text()
    assert "under way" in text
    assert "1 of 4 chains evaluated" in text


def test_report_of_a_transfer_shows_layers(home: Path) -> None:
    succeed("transfer", "--strategy", "PQ", "--out", "runs/t")
    text = (home / "runs/t/report.html").read_text()
    assert 'id="layers"' in text
    assert 'id="tree"' not in text


def test_report_of_something_else_is_refused(home: Path) -> None:
    Path("empty").mkdir()
    outcome = run("report", "empty")
    assert outcome.code == 2
    assert "holds neither a search nor a result" in outcome.err


@pytest.mark.slow
def test_page_of_the_whole_job_is_read_in_chromium_on_a_phone_and_on_a_desk(searched: Path, tmp_path: Path) -> None:
    succeed("export", "--from", searched, "--out", "shipped")
    succeed("bench", "shipped", "--out", "bench.json")
    succeed("report", searched, "--artifact", "shipped", "--bench", "bench.json", "--explain")
    for found in read_at_widths((searched / "report.html").resolve(), tmp_path):
        check_reading(found)
