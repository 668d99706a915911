"""Search: who proposes chains, by which rules, and the journal that survives a kill."""

from collections.abc import Callable

from nacdeploy.errors import unknown
from nacdeploy.profile import SearchTable
from nacdeploy.strategies import objective as objectives
from nacdeploy.strategies.objective import NacWeights, Objective
from nacdeploy.strategies.search.beam import BeamSearcher
from nacdeploy.strategies.search.dqn import DqnSearcher
from nacdeploy.strategies.search.engine import Searcher
from nacdeploy.strategies.search.random_search import RandomSearcher
from nacdeploy.strategies.search.surrogate import SurrogateSearcher


def _beam(table: SearchTable, seed: int, objective: Objective) -> Searcher:
    return BeamSearcher(table.beam_width, objective, table.max_drop)


def _dqn(table: SearchTable, seed: int, objective: Objective) -> Searcher:
    return DqnSearcher(table.alphabet, table.dqn, NacWeights(accuracy=table.nac_accuracy_weight), seed)


def _random(table: SearchTable, seed: int, objective: Objective) -> Searcher:
    return RandomSearcher(seed, table.rules)


def _surrogate(table: SearchTable, seed: int, objective: Objective) -> Searcher:
    return SurrogateSearcher(table.alphabet, objective, table.max_drop)


SEARCHERS: dict[str, Callable[[SearchTable, int, Objective], Searcher]] = {
    "beam": _beam,
    "dqn": _dqn,
    "random": _random,
    "surrogate": _surrogate,
}


def make_searcher(name: str, table: SearchTable, seed: int, objective: Objective | None = None) -> Searcher:
    """A new searcher; equal arguments give equal walks. It plans with `objective`, which the engine tells what was
    evaluated, or with one of its own.

    Raises:
        UsageError: there is no searcher of that name.
    """
    if name not in SEARCHERS:
        raise unknown("searcher", name, SEARCHERS)
    return SEARCHERS[name](table, seed, objective or objectives.make(table))
