"""Random search: episodes from the untouched model, uniform over the legal letters. The yardstick for the others."""

import random

from nacdeploy.profile import RulesTable
from nacdeploy.strategies.chain import Chain, Link
from nacdeploy.strategies.search.observation import Observation


class RandomSearcher:
    """Ends an episode where nothing is legal, or with a probability that grows with the chain's length."""

    def __init__(self, seed: int, rules: RulesTable) -> None:
        self._random = random.Random(seed)
        self._max_length = rules.max_length
        self._start: Observation | None = None
        self._last: Observation | None = None

    def propose(self) -> Chain | None:
        """The last chain and one letter more, or the first letter of a new episode."""
        if self._last is None or self._ends(self._last):
            self._last = self._start
        if self._last is None or not self._last.legal:
            return None
        return self._last.chain + Link(self._random.choice(self._last.legal))

    def observe(self, observation: Observation) -> None:
        """Go on from here."""
        self._start = self._start or observation
        self._last = observation

    def _ends(self, observation: Observation) -> bool:
        return not observation.legal or self._random.random() < len(observation.chain) / self._max_length
