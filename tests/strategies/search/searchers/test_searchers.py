"""The laws of every searcher, and what the beam and the surrogate must reach within the demo's budget."""

import math
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search_landscapes import Landscape, run, table

from nacdeploy.profile.tables.search import SearchTable
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.search.objective import Figures
from nacdeploy.strategies.search.observation import Observation
from nacdeploy.strategies.search.rules import legal_letters
from nacdeploy.strategies.search.search_result import SearchResult
from nacdeploy.strategies.search.searchers import SEARCHERS, make_searcher

landscapes = st.builds(
    Landscape,
    convexity=st.floats(1.0, 3.0),
    damage_points=st.floats(0.0, 5.0),
    left_by_f=st.floats(0.0, 1.0),
    fails=st.sets(st.sampled_from(["Q", "P", "PQ", "PPF", "QPPF", "E"])).map(lambda words: tuple(sorted(words))),
)
tables = st.builds(
    lambda alphabet, objective, due, budget, width: table(
        alphabet=alphabet, objective=objective, budget=budget, beam_width=width, rules={"finetune_due": due}
    ),
    alphabet=st.sampled_from(["FPQ", "FPEQ", "PQ", "QF", "F"]),
    objective=st.sampled_from(["nac", "budget"]),
    due=st.sampled_from([0.0, 0.5, 10.0]),
    budget=st.integers(1, 40),
    width=st.integers(1, 3),
)


def search(landscape: Landscape, asked: SearchTable, seed: int = 0) -> SearchResult:
    with TemporaryDirectory() as folder:
        return run(Path(folder) / "journal", landscape, asked, seed=seed)


@pytest.mark.parametrize("name", sorted(SEARCHERS))
@settings(max_examples=40, deadline=None)
@given(landscape=landscapes, asked=tables)
def test_searcher_stays_within_the_letters_and_the_budget(name: str, landscape: Landscape, asked: SearchTable) -> None:
    result = search(landscape, asked.model_copy(update={"searcher": name}))
    rows = {row.chain: row for row in result.evaluations}
    assert len(landscape.calls) == len(rows) == len(set(landscape.calls)) <= asked.budget + 1
    for word in filter(None, rows):
        parent = rows[word[:-1]]
        assert parent.figures is not None
        chain = Chain.parse(word[:-1])
        assert word[-1] in legal_letters(chain, parent.figures, asked.rules, asked.alphabet, parent.refused)


@pytest.mark.parametrize("name", sorted(SEARCHERS))
@settings(max_examples=15, deadline=None)
@given(asked=tables, seed=st.integers(0, 5))
def test_equal_seeds_give_equal_walks(name: str, asked: SearchTable, seed: int) -> None:
    asked = asked.model_copy(update={"searcher": name})
    assert search(Landscape(), asked, seed) == search(Landscape(), asked, seed)


def test_other_seeds_give_other_random_walks() -> None:
    asked = table(searcher="random")
    walks = {tuple(row.chain for row in search(Landscape(), asked, seed).evaluations) for seed in range(5)}
    assert len(walks) > 1


def every_legal_chain(asked: SearchTable) -> set[str]:
    landscape, found, todo = Landscape(), set(), [Chain()]
    while todo:
        chain = todo.pop()
        found.add(chain.word)
        row = landscape(chain)
        assert row.figures is not None
        letters = legal_letters(chain, row.figures, asked.rules, asked.alphabet, row.refused)
        todo += [Chain.parse(chain.word + letter) for letter in letters]
    return found


@pytest.mark.parametrize("name", ["beam", "surrogate"])
def test_searcher_goes_on_until_every_state_was_reached(name: str) -> None:
    asked = table(searcher=name, budget=5000, rules={"finetune_due": 0.5, "forced_factor": 4.0, "max_length": 6})
    result = search(Landscape(), asked)
    reached = {row.state_key for row in result.evaluations}
    assert reached == {Landscape()(Chain.parse(word)).state_key for word in every_legal_chain(asked)}


@pytest.mark.parametrize("name", ["beam", "surrogate"])
def test_searcher_never_walks_on_two_chains_of_one_state(name: str) -> None:
    result = search(Landscape(), table(searcher=name, budget=60))
    expanded = {row.chain[:-1]: row for row in result.evaluations if row.chain}
    keys = {row.chain: row.state_key for row in result.evaluations}
    assert len({keys[chain] for chain in expanded}) == len(expanded)


@pytest.mark.parametrize("forced_factor", [1.5, 4.0, 20.0])
@pytest.mark.parametrize("damage_points", [0.2, 0.35])
@pytest.mark.parametrize("name", ["beam", "surrogate"])
def test_searcher_reaches_six_fold_within_the_demo_budget(
    name: str, forced_factor: float, damage_points: float
) -> None:
    rules = {"finetune_due": 0.5, "forced_factor": forced_factor}
    result = search(Landscape(damage_points=damage_points), table(searcher=name, rules=rules))
    assert result.best is not None and result.best.figures is not None
    assert result.best.figures.bitops_ratio >= 6.0
    assert result.best.figures.drop_points <= 1.0 + 1e-9


@pytest.mark.parametrize("name", ["beam", "surrogate"])
@pytest.mark.parametrize("convexity", [1.3, 1.7, 2.2])
def test_searcher_is_no_worse_than_the_median_random_search(name: str, convexity: float) -> None:
    def reached(searcher: str, seed: int) -> float:
        best = search(Landscape(convexity=convexity), table(searcher=searcher), seed).best
        return best.figures.bitops_ratio if best and best.figures else 1.0

    assert reached(name, 0) >= median(reached("random", seed) for seed in range(11))


@pytest.mark.parametrize("name", sorted(SEARCHERS))
def test_searcher_ends_when_nothing_is_legal(name: str) -> None:
    searcher = make_searcher(name, table(), 0)
    searcher.observe(Observation(Chain(), Figures(0.9, 0.9, 1, 1, 1, 1, 1), 1.0, True, (), "s0"))
    assert searcher.propose() is None


@pytest.mark.parametrize("name", sorted(SEARCHERS))
def test_searcher_survives_a_landscape_where_everything_fails(name: str) -> None:
    landscape = Landscape(fails=("P", "Q"))
    result = search(landscape, table(searcher=name))
    assert sorted(landscape.calls) == ["", "P", "Q"]
    assert result.best is None and result.nearest is None and result.front == ()


@pytest.mark.parametrize("name", ["beam", "surrogate"])
def test_searcher_takes_negative_scores(name: str, tmp_path: Path) -> None:
    asked = table(searcher=name, objective="nac", alphabet="FP", max_drop=5.0)
    result = search(Landscape(damage_points=2.0), asked)
    assert len(result.evaluations) > 5
    assert all(row.figures is not None and math.isfinite(row.figures.score) for row in result.evaluations)
