"""Search: who proposes chains, by which rules, and the journal that survives a kill."""

from collections.abc import Callable, Iterable, Sequence

from nacdeploy.base.errors import unknown
from nacdeploy.profile.tables.search import SearchTable
from nacdeploy.strategies.search import objective as objectives
from nacdeploy.strategies.search.alphabet import parsed
from nacdeploy.strategies.search.engine import Searcher
from nacdeploy.strategies.search.objective import NacWeights, Objective
from nacdeploy.strategies.search.observation import Observation
from nacdeploy.strategies.search.searchers.beam import BeamSearcher
from nacdeploy.strategies.search.searchers.random_search import RandomSearcher
from nacdeploy.strategies.search.searchers.surrogate import SurrogateSearcher

Experience = Iterable[Sequence[Observation]]


def _beam(table: SearchTable, seed: int, objective: Objective, experience: Experience) -> Searcher:
    return BeamSearcher(table.beam_width, objective, objective.max_drop)


def _dqn(table: SearchTable, seed: int, objective: Objective, experience: Experience) -> Searcher:
    from nacdeploy.strategies.search.searchers.nac.dqn import (
        DqnSearcher,  # the one searcher that needs torch and gymnasium
    )

    weights = NacWeights(accuracy=table.nac_accuracy_weight)
    return DqnSearcher(parsed(table.alphabet), table.dqn, weights, seed, table.rules)


def _random(table: SearchTable, seed: int, objective: Objective, experience: Experience) -> Searcher:
    return RandomSearcher(seed, table.rules)


def _surrogate(table: SearchTable, seed: int, objective: Objective, experience: Experience) -> Searcher:
    return SurrogateSearcher(parsed(table.alphabet), objective, objective.max_drop, experience)


SEARCHERS: dict[str, Callable[[SearchTable, int, Objective, Experience], Searcher]] = {
    "beam": _beam,
    "dqn": _dqn,
    "random": _random,
    "surrogate": _surrogate,
}


def make_searcher(
    name: str, table: SearchTable, seed: int, objective: Objective | None = None, experience: Experience = ()
) -> Searcher:
    """A new searcher; equal arguments give equal walks. It plans with `objective`, which the engine tells what was
    evaluated, or with one of its own. `experience` holds the observations of other searches, one sequence each; only
    `surrogate` learns from it.

    Raises:
        UsageError: there is no searcher of that name.
    """
    if name not in SEARCHERS:
        raise unknown("searcher", name, SEARCHERS)
    return SEARCHERS[name](table, seed, objective or objectives.make(table), experience)
