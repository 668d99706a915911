"""Random search: episodes from the untouched model, uniform over the legal steps. The yardstick for the others."""

import random
from collections import deque

from nacdeploy.profile.tables.search import RulesTable
from nacdeploy.strategies.chain import Chain, Link
from nacdeploy.strategies.search.observation import Observation, link_of, word_of
from nacdeploy.strategies.search.searchers.orders import Orders


class RandomSearcher:
    """Ends an episode where nothing is legal, or with a probability that grows with the chain's length. While an
    episode waits for an observation, another one begins."""

    def __init__(self, seed: int, rules: RulesTable) -> None:
        self._random = random.Random(seed)
        self._max_length = rules.max_length
        self._start: Observation | None = None
        self._ready: deque[Observation] = deque()
        self._orders = Orders()

    def propose(self) -> Chain | None:
        """An episode's last chain and one step more, or the first step of a new episode."""
        last = self._ready.popleft() if self._ready else self._start
        if last is None or self._ends(last):
            last = self._start
        steps = [] if last is None else [link for link in map(link_of, last.legal) if self._is_free(last, link)]
        if last is None or not steps:
            return None
        chain = last.chain + self._random.choice(steps)
        self._orders.expect(word_of(chain))
        return chain

    def observe(self, observation: Observation) -> None:
        """Go on from here."""
        self._orders.forget(observation.word)
        if observation.figures is not None:
            self._orders.learn(observation.word, observation.state_key)
        if self._start is None:
            self._start = observation
        else:
            self._ready.append(observation)

    def _is_free(self, last: Observation, link: Link) -> bool:
        return not self._orders.is_under_way((*last.word, str(link)))

    def _ends(self, observation: Observation) -> bool:
        return not observation.legal or self._random.random() < len(observation.chain) / self._max_length
