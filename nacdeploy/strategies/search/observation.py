"""Observation: what a searcher sees of an evaluated chain; never a model."""

import math
from dataclasses import dataclass
from functools import lru_cache

from nacdeploy.profile.tables.search import RulesTable
from nacdeploy.strategies.chain import Chain, Link
from nacdeploy.strategies.search.journal import Evaluation
from nacdeploy.strategies.search.objective import Figures, Objective
from nacdeploy.strategies.search.rules import legal_letters

Word = tuple[str, ...]


@dataclass(frozen=True)
class Observation:
    """One evaluated chain. `figures` is None where the evaluation failed: then the score is minus infinity.

    `legal` holds the symbols that may follow, such as `F` or `P(ratio=0.05)` (none: the chain ends here). Equal
    `state_key`s are the same state.
    """

    chain: Chain
    figures: Figures | None
    score: float
    admissible: bool
    legal: tuple[str, ...]
    state_key: str

    @property
    def word(self) -> Word:
        """The chain as symbols."""
        return word_of(self.chain)


def word_of(chain: Chain) -> Word:
    """A chain as symbols: the texts of its links."""
    return tuple(map(str, chain))


@lru_cache(maxsize=256)
def link_of(symbol: str) -> Link:
    """The link that a symbol is the text of."""
    return Chain.parse(symbol).links[0]


def observed(
    chain: Chain, evaluation: Evaluation, objective: Objective, rules: RulesTable, alphabet: str
) -> Observation:
    """What a searcher sees of a row of the journal."""
    figures = evaluation.figures
    if figures is None:
        return Observation(chain, None, -math.inf, False, (), evaluation.state_key)
    legal = legal_letters(chain, figures, rules, alphabet, evaluation.refused)
    score, admissible = objective.score(figures), objective.admissible(figures)
    return Observation(chain, figures, score, admissible, legal, evaluation.state_key)
