"""The page of a report: whole, escaped, and without anything from elsewhere."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from nacdeploy.base.errors import NacdeployError
from nacdeploy.reports.page import Cells, Page, Section, Tile, Value, write_page
from nacdeploy.reports.search_panels import search_panels
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.search.journal import Evaluation, failed
from nacdeploy.strategies.search.objective import BudgetObjective, Figures
from nacdeploy.strategies.search.search_result import SearchResult, result_of

HOSTILE = """<img src=x onerror=alert(1)>"'</script><script>alert(2)</script>&amp;"""


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
    rows = tuple((e.chain, Value("1.2x", 1.2)) for e in found.evaluations)
    table = Cells("Chains", ("chain", "BitOps"), rows, folded=True, marked=frozenset({1}))
    search = Section("search", "Search", "lead", (("name", "value"),), search_panels(found, found.best), (table,))
    return Page(title, "lead", [search, Section("rest", "Rest")], [Tile("accuracy", "90 %")])


class Elements(HTMLParser):
    """The elements of a page with their attributes, and those that were not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))
        if tag not in ("meta", "link", "img", "path", "circle"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        if tag in ("path", "circle"):
            return
        assert self.open.pop() == tag


def test_page_holds_its_pictures_and_asks_nothing_of_the_network(tmp_path: Path, found: SearchResult) -> None:
    text = write_page(tmp_path / "report.html", page(found)).read_text()
    elements = Elements(text)
    assert not elements.open
    assert sum(tag == "svg" and given.get("class") == "chart" for tag, given in elements.found) == 4  # two of the chain
    links = [given[name] for _, given in elements.found for name in ("src", "href") if name in given]
    assert all(link is not None and link.startswith(("data:", "#")) for link in links)
    names = {given["id"] for _, given in elements.found if "id" in given}
    assert {link[1:] for link in links if link is not None and link.startswith("#")} <= names
    assert 'name="viewport"' in text


def test_page_lets_its_own_script_run_alone(tmp_path: Path, found: SearchResult) -> None:
    text = write_page(tmp_path / "report.html", page(found)).read_text()
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy.startswith("default-src 'none'") and f"script-src 'sha256-{digest}'" in policy


def test_marks_say_their_values_without_a_script(tmp_path: Path, found: SearchResult) -> None:
    text = write_page(tmp_path / "report.html", page(found)).read_text()
    tips = [given["data-tip"] for _, given in Elements(text).found if "data-tip" in given]
    assert any(tip is not None and tip.startswith("PF\naccuracy: 90.00 % (0.00 points lost)") for tip in tips)
    assert "<title>PF\naccuracy: 90.00 % (0.00 points lost)" in text


def test_cells_say_what_they_are_sorted_by(tmp_path: Path, found: SearchResult) -> None:
    text = write_page(tmp_path / "report.html", page(found)).read_text()
    assert '<table class="sortable">' in text
    assert '<td data-value="1.2">1.2x</td>' in text
    assert '<tr class="marked"><td class="words">P</td>' in text


def test_texts_are_escaped(tmp_path: Path, found: SearchResult) -> None:
    text = write_page(tmp_path / "report.html", page(found, "<b>&")).read_text()
    assert "<title>&lt;b&gt;&amp;</title>" in text


def test_hostile_names_are_texts_everywhere(tmp_path: Path) -> None:
    rows = (evaluation("", 0.9, 1.0), evaluation("P", 0.89, 1.2), failed(Chain.parse("PF"), HOSTILE))
    panels = search_panels(result_of(rows, BudgetObjective(1.0, "bitops")), rows[1])
    table = Cells(HOSTILE, (HOSTILE,), ((HOSTILE,), (Value(HOSTILE, 1.0),)), caption=HOSTILE)
    section = Section("s", HOSTILE, HOSTILE, ((HOSTILE, HOSTILE),), panels, (table,))
    written = write_page(
        tmp_path / "report.html", Page(HOSTILE, HOSTILE, [section, section], [Tile(HOSTILE, HOSTILE, HOSTILE)])
    )
    found = Elements(written.read_text()).found
    assert sum(tag == "script" for tag, _ in found) == 1
    assert not any(tag == "img" or any(name.startswith("on") for name in given) for tag, given in found)
    assert any(given.get("aria-label") == HOSTILE for _, given in found)


def test_empty_columns_are_left_out() -> None:
    table = Cells("t", ("a", "b", "c"), (("x", Value(""), ""), ("", Value(""), "y"))).filled
    assert table.columns == ("a", "c")
    assert table.rows == (("x", ""), ("", "y"))


def test_same_run_gives_the_same_page(tmp_path: Path, found: SearchResult) -> None:
    one, other = (write_page(tmp_path / name, page(found)).read_bytes() for name in ("a.html", "b.html"))
    assert one == other


def test_search_without_an_answer_has_no_chain_panel(found: SearchResult) -> None:
    assert [panel.name for panel in search_panels(found, None)] == ["front", "tree"]
    assert [panel.name for panel in search_panels(found, found.best)] == ["front", "chain", "tree"]


def test_search_with_the_untouched_model_alone_is_drawn(tmp_path: Path) -> None:
    found = result_of((evaluation("", 0.9, 1.0),), BudgetObjective(1.0, "bitops"))
    panels = search_panels(found, None)
    assert all(panel.data_uri() for panel in panels)
    page = Page("t", "", [Section("s", "s", panels=panels)])
    assert write_page(tmp_path / "report.html", page).read_text().count('class="chart"') == 2


def test_page_is_written_whole_or_not_at_all(tmp_path: Path, found: SearchResult) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NacdeployError, match="choose another --out"):
        write_page(tmp_path / "file" / "report.html", page(found))
