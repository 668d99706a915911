"""A page of extremes in Chromium: many chains of many letters, long names without a space, layers deep in modules."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import check_reading, read_at_widths

from nacdeploy.reports.layers import LayerChange
from nacdeploy.reports.layers_panel import layers_panel
from nacdeploy.reports.page import Cells, Page, Section, Tile, Value, write_page
from nacdeploy.reports.search_panels import search_panels
from nacdeploy.results.search_section import search_section
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.search.journal import Evaluation, failed
from nacdeploy.strategies.search.objective import BudgetObjective, Figures
from nacdeploy.strategies.search.search_result import SearchResult, result_of

LETTERS = ("P(ratio=0.0625,importance=answers)", "F", "Q(min_snr_db=30)", "E", "S", "D")
LONG = "x" * 300


def rows(n: int) -> Iterator[Evaluation]:
    draw, chains = random.Random(0), {"": None}
    yield Evaluation("", "", Figures(0.9, 0.9, 1, 1, 1, 1, 1, 1.0, 1.0, 1.0))
    while len(chains) < n:
        chain = draw.choice([*chains][-40:]) + draw.choice(LETTERS)
        if chain in chains:
            continue
        chains[chain] = None
        length, speed = len(Chain.parse(chain)), draw.uniform(0.5, 3)
        ratio = 1.1**length * (16 if "Q" in chain else 1)
        if draw.random() < 0.1:
            yield failed(Chain.parse(chain), f"its signal is lost in {LONG}")
            continue
        found = Figures(0.9 - 0.01 * length * draw.random(), 0.9, ratio, ratio, ratio, ratio, ratio, speed)
        yield Evaluation(chain, chain, found, trained=chain.endswith("F"))


@pytest.fixture
def found() -> SearchResult:
    return result_of(tuple(rows(120)), BudgetObjective(3.0, "speed"))


@pytest.mark.slow
def test_page_of_extremes_keeps_within_its_width(tmp_path: Path, found: SearchResult) -> None:
    names = [f"backbone.encoder.layers.encoder_layer_{at}.self_attention.out_projection" for at in range(40)]
    layers = layers_panel([LayerChange(name, 10**8, 10**7, 8, "768-3072 to 768-1024 w8a8 2:4") for name in names])
    panels = [*search_panels(found, found.best), layers]
    table = Cells(LONG, (LONG, "b"), ((LONG, Value(LONG, 1.0)), ("a", Value("b", 2.0))), caption=LONG)
    sections = [
        search_section(found, found.best, LONG, None, panels),
        Section("long", LONG, LONG, ((LONG, LONG),), (), (table,)),
    ]
    page = write_page(tmp_path / "page.html", Page(LONG, LONG, sections, [Tile(LONG, LONG, LONG)] * 3))
    for read in read_at_widths(page, tmp_path):
        check_reading(read)
