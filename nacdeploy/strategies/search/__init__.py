"""Search: who proposes chains, by which rules, and the journal that survives a kill."""

from collections.abc import Callable

from nacdeploy.errors import unknown
from nacdeploy.profile import SearchTable
from nacdeploy.strategies import objective
from nacdeploy.strategies.search.beam import BeamSearcher
from nacdeploy.strategies.search.engine import Searcher
from nacdeploy.strategies.search.random_search import RandomSearcher


def _beam(table: SearchTable, seed: int) -> Searcher:
    return BeamSearcher(table.beam_width, objective.make(table), table.max_drop)


def _random(table: SearchTable, seed: int) -> Searcher:
    return RandomSearcher(seed, table.rules)


SEARCHERS: dict[str, Callable[[SearchTable, int], Searcher]] = {"beam": _beam, "random": _random}


def make_searcher(name: str, table: SearchTable, seed: int) -> Searcher:
    """A new searcher; equal arguments give equal walks.

    Raises:
        UsageError: there is no searcher of that name.
    """
    if name not in SEARCHERS:
        raise unknown("searcher", name, SEARCHERS)
    return SEARCHERS[name](table, seed)
