"""Search: who proposes chains, by which rules, and the journal that survives a kill."""

from collections.abc import Callable

from nacdeploy.errors import unknown
from nacdeploy.profile import SearchTable
from nacdeploy.strategies import objective
from nacdeploy.strategies.objective import NacWeights
from nacdeploy.strategies.search.beam import BeamSearcher
from nacdeploy.strategies.search.dqn import DqnSearcher
from nacdeploy.strategies.search.engine import Searcher
from nacdeploy.strategies.search.random_search import RandomSearcher
from nacdeploy.strategies.search.surrogate import SurrogateSearcher


def _beam(table: SearchTable, seed: int) -> Searcher:
    return BeamSearcher(table.beam_width, objective.make(table), table.max_drop)


def _dqn(table: SearchTable, seed: int) -> Searcher:
    return DqnSearcher(table.alphabet, table.dqn, NacWeights(accuracy=table.nac_accuracy_weight), seed)


def _random(table: SearchTable, seed: int) -> Searcher:
    return RandomSearcher(seed, table.rules)


def _surrogate(table: SearchTable, seed: int) -> Searcher:
    return SurrogateSearcher(table.alphabet, objective.make(table), table.max_drop)


SEARCHERS: dict[str, Callable[[SearchTable, int], Searcher]] = {
    "beam": _beam,
    "dqn": _dqn,
    "random": _random,
    "surrogate": _surrogate,
}


def make_searcher(name: str, table: SearchTable, seed: int) -> Searcher:
    """A new searcher; equal arguments give equal walks.

    Raises:
        UsageError: there is no searcher of that name.
    """
    if name not in SEARCHERS:
        raise unknown("searcher", name, SEARCHERS)
    return SEARCHERS[name](table, seed)
