"""Searches for a front: deterministic though the score depends on what was found, and not narrower."""

from pathlib import Path

import pytest
from search_landscapes import Landscape, run, table

from nacdeploy.strategies.search.engine import SearchResult
from nacdeploy.strategies.search.objective import make
from nacdeploy.strategies.search.pareto import hypervolume


def volume(found: SearchResult) -> float:
    """The hypervolume of the admissible front in accuracy, BitOps and bytes."""
    goal = make(table(objective="pareto", max_drop=2.0))
    points = [goal._point(e.figures) for e in found.front if e.figures and goal.admissible(e.figures)]  # type: ignore[attr-defined]
    return hypervolume(points)


@pytest.mark.parametrize("searcher", ["surrogate", "beam", "random"])
def test_search_for_a_front_walks_the_same_path_again_from_its_journal(searcher: str, tmp_path: Path) -> None:
    wanted, landscape = table(objective="pareto", searcher=searcher, budget=12, max_drop=2.0), Landscape()
    first = run(tmp_path / "j", landscape, wanted)
    n_calls = len(landscape.calls)
    assert run(tmp_path / "j", landscape, wanted) == first
    assert len(landscape.calls) == n_calls
    assert len(first.front) > 1


def test_killed_search_for_a_front_goes_on_to_the_same_end(tmp_path: Path) -> None:
    wanted = table(objective="pareto", budget=12, max_drop=2.0)
    whole = run(tmp_path / "whole", Landscape(), wanted)
    run(tmp_path / "cut", Landscape(), table(objective="pareto", budget=5, max_drop=2.0))
    assert run(tmp_path / "cut", Landscape(), wanted) == whole


def test_search_for_a_front_finds_one_as_wide_as_a_search_for_bitops(tmp_path: Path) -> None:
    several = run(tmp_path / "several", Landscape(), table(objective="pareto", budget=14, max_drop=2.0))
    one = run(tmp_path / "one", Landscape(), table(objective="budget", budget=14, max_drop=2.0))
    assert volume(several) >= 0.98 * volume(one)
