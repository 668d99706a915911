"""The page of a report: whole, escaped, and without anything from elsewhere."""

import re
from pathlib import Path

import pytest

from nacdeploy.base.errors import NacdeployError
from nacdeploy.reports.figures import search_panels
from nacdeploy.reports.page import Cells, Page, write_page
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.search.journal import Evaluation, failed
from nacdeploy.strategies.search.objective import BudgetObjective, Figures
from nacdeploy.strategies.search.search_result import SearchResult, result_of


def evaluation(chain: str, accuracy: float, ratio: float, trained: bool = False) -> Evaluation:
    return Evaluation(chain, chain, Figures(accuracy, 0.9, ratio, ratio, ratio, ratio, ratio), trained=trained)


@pytest.fixture
def found() -> SearchResult:
    rows = (
        evaluation("", 0.9, 1.0),
        evaluation("P", 0.89, 1.2),
        evaluation("PF", 0.9, 1.2, trained=True),
        failed(Chain.parse("PFE"), "no place is left"),
    )
    return result_of(rows, BudgetObjective(1.0, "bitops"))


def page(found: SearchResult, title: str = "A report") -> Page:
    table = Cells("Chains", ("chain",), tuple((e.chain,) for e in found.evaluations), folded=True)
    return Page(title, "lead", Cells("Result", ("figure",), (("x",),)), search_panels(found, found.best), (table,))


def test_page_holds_its_pictures_and_asks_nothing_of_the_network(tmp_path: Path, found: SearchResult) -> None:
    text = write_page(tmp_path / "report.html", page(found)).read_text()
    assert len(re.findall(r'src="data:image/svg\+xml;base64,', text)) == 3
    links = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert all(link.startswith("data:") for link in links)
    assert "<script" not in text
    assert 'name="viewport"' in text


def test_texts_are_escaped(tmp_path: Path, found: SearchResult) -> None:
    text = write_page(tmp_path / "report.html", page(found, "<b>&")).read_text()
    assert "<title>&lt;b&gt;&amp;</title>" in text


def test_same_run_gives_the_same_page(tmp_path: Path, found: SearchResult) -> None:
    one, other = (write_page(tmp_path / name, page(found)).read_bytes() for name in ("a.html", "b.html"))
    assert one == other


def test_search_without_an_answer_has_no_chain_panel(found: SearchResult) -> None:
    assert [panel.name for panel in search_panels(found, None)] == ["front", "tree"]
    assert [panel.name for panel in search_panels(found, found.best)] == ["front", "chain", "tree"]


def test_search_with_the_untouched_model_alone_is_drawn() -> None:
    found = result_of((evaluation("", 0.9, 1.0),), BudgetObjective(1.0, "bitops"))
    assert all(panel.data_uri() for panel in search_panels(found, None))


def test_page_is_written_whole_or_not_at_all(tmp_path: Path, found: SearchResult) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NacdeployError, match="choose another --out"):
        write_page(tmp_path / "file" / "report.html", page(found))
