"""Proposals in flight: several at once, no state twice, and the same walk where the window is one."""

from collections import deque
from pathlib import Path

import pytest
from search_landscapes import Landscape, run, table

from nacdeploy.profile.tables.search import SearchTable
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.search import objective
from nacdeploy.strategies.search.observation import Observation, observed
from nacdeploy.strategies.search.searchers import SEARCHERS, make_searcher


def walk(asked: SearchTable, window: int, n: int, landscape: Landscape | None = None) -> tuple[list[str], int]:
    """The first `n` proposals of a search with a window, observed in the order of proposing; the most in flight."""
    landscape = landscape or Landscape()
    searcher, goal = make_searcher(asked.searcher, asked, 0), objective.make(asked)
    flight, proposed, most = deque([Chain()]), [""], 0
    while flight:
        chain = flight.popleft()
        seen: Observation = observed(chain, landscape(chain), goal, asked.rules, asked.alphabet)
        searcher.observe(seen)
        while len(flight) < window and len(proposed) <= n:
            if (following := searcher.propose()) is None:
                break
            flight.append(following)
            proposed.append(following.word)
            most = max(most, len(flight))
    return proposed[1:], most


@pytest.mark.parametrize("name", ["beam", "random", "surrogate"])
@pytest.mark.parametrize("window", [2, 4, 7])
def test_searcher_fills_a_window(name: str, window: int) -> None:
    words, most = walk(table(searcher=name, alphabet="FPEQ"), window, 60)
    assert most >= min(window, 4) and len(words) == 60


@pytest.mark.parametrize("name", ["beam", "surrogate"])
@pytest.mark.parametrize("window", [2, 4, 7])
def test_no_proposal_is_made_twice(name: str, window: int) -> None:
    words, _ = walk(table(searcher=name, alphabet="FPEQ"), window, 50)
    assert len(set(words)) == len(words)


@pytest.mark.parametrize("name", ["beam", "random", "surrogate"])
def test_commuting_steps_are_not_in_flight_together_once_that_is_known(name: str) -> None:
    asked = table(searcher=name, alphabet="PQ")
    searcher, goal, landscape = make_searcher(name, asked, 0), objective.make(asked), Landscape()
    for word in ("", "P", "Q", "PQ", "QP", "PP"):
        searcher.observe(observed(Chain.parse(word), landscape(Chain.parse(word)), goal, asked.rules, "PQ"))
    flight = [chain.word for chain in (searcher.propose() for _ in range(12)) if chain]
    states = [landscape(Chain.parse(word)).state_key for word in flight]
    assert len(set(states)) == len(states) > 0


def test_dqn_waits_for_its_observation() -> None:
    asked = table(searcher="dqn")
    searcher, goal = make_searcher("dqn", asked, 0), objective.make(asked)
    searcher.observe(observed(Chain(), Landscape()(Chain()), goal, asked.rules, asked.alphabet))
    first = searcher.propose()
    assert first is not None and searcher.propose() is None
    searcher.observe(observed(first, Landscape()(first), goal, asked.rules, asked.alphabet))
    assert searcher.propose() is not None


@pytest.mark.parametrize("name", sorted(SEARCHERS))
def test_window_of_one_walks_as_the_engine_does(name: str, tmp_path: Path) -> None:
    asked = table(searcher=name, budget=15)
    result = run(tmp_path / "journal", Landscape(), asked)
    words, _ = walk(asked, 1, 200 if name in ("dqn", "random") else 15)
    assert list(dict.fromkeys(words))[:15] == [row.chain for row in result.evaluations[1:]]


@pytest.mark.parametrize("name", sorted(SEARCHERS))
def test_searcher_in_flight_survives_failures(name: str) -> None:
    asked = table(searcher=name, alphabet="FPQ")
    searcher, goal = make_searcher(name, asked, 0), objective.make(asked)
    searcher.observe(observed(Chain(), Landscape()(Chain()), goal, asked.rules, asked.alphabet))
    flight = [chain for chain in (searcher.propose() for _ in range(3)) if chain]
    for chain in flight:
        searcher.observe(Observation(chain, None, float("-inf"), False, (), f"failed:{chain}"))
    following = searcher.propose()
    assert following is None or name in ("random", "dqn")
