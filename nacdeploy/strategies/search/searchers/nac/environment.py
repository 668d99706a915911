"""The search as a Gymnasium environment, so that any RL library can walk through chains.

`dqn` learns in it. The class derives from `gymnasium.Env` because Gymnasium's checker and wrappers ask for it.
An action is the index of a step: a letter, or one choice of its parameters. A step that is not legal changes nothing
and earns nothing, as in NAC; `info["action_mask"]` says which are. One fault of NAC is not kept: there, an E with a
single exit left places it, and is then called invalid.
"""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

import nacdeploy.strategies.search.searchers.nac.mdp as mdp
from nacdeploy.profile.tables.search import RulesTable
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.search.alphabet import Alphabet, parsed
from nacdeploy.strategies.search.objective import DROP_TOLERANCE, NacWeights
from nacdeploy.strategies.search.observation import Observation

State = NDArray[np.float64]


class ChainEnvironment(gymnasium.Env[State, np.int64]):
    """Episodes from the untouched model, by NAC's states and rewards (`mdp.py`).

    Args:
        observe: a chain, all of whose beginnings were asked for before, to what is seen of it.
        alphabet: the letters, with choices of their parameters, in the order of the actions; as text or parsed.
        rules: when an episode ends.
        weights: of NAC's reward.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (Gymnasium's signature)

    def __init__(
        self,
        observe: Callable[[Chain], Observation],
        alphabet: str | Alphabet,
        rules: RulesTable,
        weights: NacWeights | None = None,
    ) -> None:
        self._observe, self._rules = observe, rules
        self._alphabet = parsed(alphabet) if isinstance(alphabet, str) else alphabet
        self._weights = weights or NacWeights()
        self._situation: mdp.Situation | None = None
        self._n_steps = 0
        size = mdp.vector(mdp.start(observe(Chain())), self._alphabet.letters).shape
        self.action_space = spaces.Discrete(len(self._alphabet.links))
        self.observation_space = spaces.Box(-np.inf, np.inf, size, np.float64)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[State, dict[str, Any]]:
        """Back to the untouched model."""
        super().reset(seed=seed)
        self._situation, self._n_steps = mdp.start(self._observe(Chain())), 0
        return self._answer(self._situation, valid=True)

    def step(self, action: np.int64) -> tuple[State, float, bool, bool, dict[str, Any]]:
        """One letter further; `terminated` never fires, as in NAC, except where the letter failed.

        Raises:
            RuntimeError: before the first reset.
        """
        if self._situation is None:
            raise RuntimeError("call reset() before step()")
        link, past = self._alphabet.links[int(action)], self._situation
        self._n_steps += 1
        if str(link) not in past.observation.legal:
            return self._unchanged(past, link.letter)
        now = mdp.after(past, self._observe(past.observation.chain + link))
        if now is None:
            state, info = self._answer(past, valid=False)
            return state, 0.0, True, False, info
        self._situation = now
        state, info = self._answer(now, valid=True)
        terms = mdp.reward(past, now, self._weights)
        return state, terms.total, False, not now.observation.legal or self._is_long(), info | {"reward_terms": terms}

    def _unchanged(self, past: mdp.Situation, letter: str) -> tuple[State, float, bool, bool, dict[str, Any]]:
        """An illegal letter. As in NAC, an F still ends the episode where the drop is above half of F's due."""
        self._situation = mdp.Situation(past.observation, past.figures, past.prune_bitops, past.prune_memory)
        broken = past.figures.drop_points > self._rules.finetune_due / 2 + DROP_TOLERANCE
        state, info = self._answer(self._situation, valid=False)
        ended = not past.observation.legal or (letter == "F" and broken) or self._is_long()
        return state, 0.0, False, ended, info

    def _is_long(self) -> bool:
        return self._n_steps >= self._rules.max_length

    def _answer(self, situation: mdp.Situation, valid: bool) -> tuple[State, dict[str, Any]]:
        legal = situation.observation.legal
        mask = np.array([symbol in legal for symbol in self._alphabet.symbols], dtype=np.int8)
        info = {"chain": str(situation.observation.chain), "valid": valid, "action_mask": mask}
        return mdp.vector(situation, self._alphabet.letters), info
