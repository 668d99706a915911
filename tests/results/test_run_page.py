"""The page of a run from its records alone: a dense answer, times taken in full, how times were taken, so far."""

import json
from pathlib import Path
from typing import Any

import pytest

from nacdeploy.latencies.setting import Setting
from nacdeploy.reports.page import write_page
from nacdeploy.results.result import FrontMember, Result
from nacdeploy.results.run_material import material
from nacdeploy.results.run_page import page_of
from nacdeploy.sessions.session import Scores
from nacdeploy.strategies.search import journal
from nacdeploy.strategies.search.journal import Evaluation
from nacdeploy.strategies.search.objective import Figures
from nacdeploy.trials.dense import Candidate
from nacdeploy.trials.final import LatencyReport
from tests.report_pages import Section, sections_of

SETTING = Setting("a machine of 2 cores", "ort", "ONNX Runtime 1.31", 1, 1)


def figures(accuracy: float, speed: float | None = None) -> Figures:
    low, high = (None, None) if speed is None else (speed - 0.1, speed + 0.1)
    return Figures(accuracy, 0.9, 16.0, 2.0, 4.0, 16.0, 4.0, speed, low, high)


def result(folder: Path, chain: str = "PQ", **more: Any) -> Result:
    return Result(
        kind="search",
        folder=str(folder),
        checkpoint=str(folder / "gone"),
        baseline_checkpoint=str(folder / "gone too"),
        model="resnet8",
        data="digits",
        profile="tiny",
        chain=chain,
        figures=more.pop("figures", figures(0.88, 1.5)),
        scores=Scores(0.9, 0.91, 3, 0.87, 100),
        n_epochs=3,
        seconds=1.0,
        **more,
    )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A search's folder: its settings, and a journal of three chains with the speeds that the search saw."""
    (tmp_path / "run.json").write_text(json.dumps({"profile": {"name": "tiny", "search": {"objective": "latency"}}}))
    rows = [Evaluation(chain, chain, figures(0.9 - 0.01 * at, 1.0 + at)) for at, chain in enumerate(("", "P", "PQ"))]
    journal.write(tmp_path / "journal.jsonl", {}, rows)
    return tmp_path


def told(folder: Path, found: Result | None) -> dict[str, Section]:
    return sections_of(write_page(folder / "page.html", page_of(material(folder, found))))


def test_front_and_answer_have_the_figures_of_the_end_and_others_those_of_the_search(run: Path) -> None:
    found = result(run, front=(FrontMember(1, "PQ", 2.0, figures(0.88, 1.5)),))
    search = told(run, found)["search"]
    assert [(row["chain"], row["measured speed (95 %)"]) for row in search.first] == [("PQ", 1.5)]
    assert {row["chain"]: row["measured speed (95 %)"] for row in search.tables[1]} == {
        "(untouched)": 1.0,
        "P": 2.0,
        "PQ": 1.5,
    }
    assert any("speed 1.50x (1.40-1.60)" in tip for tip in search.tips)
    assert not any("speed 3.00x" in tip for tip in search.tips)


def test_page_says_where_and_how_times_were_taken(run: Path) -> None:
    page = told(run, result(run, latency=LatencyReport("measured", SETTING, 5, 9, 25, 4, instead_of="PQE")))
    for name in ("result", "search"):
        assert page[name].fact("times") == "measured on a machine of 2 cores; ONNX Runtime 1.31, 1 thread(s), batch 1"
    assert page["search"].fact("networks timed") == "9 during the search, 4 at its end"
    assert page["search"].fact("static instead of exits") == "as fast as PQE"


def test_dense_answer_is_said_and_has_its_row(run: Path) -> None:
    dense = Candidate("dense resnet8 of width 4, Q", 0.89, 0.5, 9, True, is_dense=True)
    chain = Candidate("PQ", 0.88, 0.4, 9, False)
    page = told(run, result(run, "Q", candidates=(dense, chain)))
    assert "dense resnet8 of width 4, Q on digits" in page[""].text
    assert "better on validation than any chain within the time" in page[""].text
    within = page["within"]
    assert "The answer is a smaller dense network" in within.text
    assert [(row["network"], row["kind"], row["ms"]) for row in within.first] == [
        ("dense resnet8 of width 4, Q *", "dense", 0.5),
        ("PQ", "chain", 0.4),
    ]
    assert "dense resnet8 of width 4, Q\n89.00 %, 0.5 ms" in within.tips


def test_chain_that_is_the_answer_within_a_time_is_said(run: Path) -> None:
    page = told(run, result(run, candidates=(Candidate("PQ", 0.88, 0.4, 9, True),)))
    assert "The answer is a chain: PQ, 0.4 ms" in page["within"].text
    assert "within" not in told(run, result(run))


def test_first_figures_are_those_of_the_test_split(run: Path) -> None:
    head = told(run, result(run))[""]
    assert ("accuracy, test", "FP32: 90.00 %") in head.facts  # a tile's last words
    assert ("measured speed", "1.40 to 1.60 (95 %)") in head.facts
    assert "87.00 %" in head.text and "4.00 points" in head.text


def test_search_under_way_says_so(run: Path) -> None:
    page = told(run, None)
    assert [*page] == ["", "search", "chain"]
    assert "The best so far is P." in page[""].text
    assert "under way" in page[""].text and ("lost", "on validation") in page[""].facts
