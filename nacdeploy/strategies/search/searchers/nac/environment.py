"""The search as a Gymnasium environment, so that any RL library can walk through chains.

`dqn` learns in it. The class derives from `gymnasium.Env` because Gymnasium's checker and wrappers ask for it.
An action is the index of a step: a letter, or one choice of its parameters. A step that is not legal changes nothing
and earns nothing, as in NAC; `info["action_mask"]` says which are. One fault of NAC is not kept: there, an E with a
single exit left places it, and is then called invalid. The state is NAC's, unnormalised: `[weight bits, activation
bits, BitOps ratio by P, memory ratio by P, exits placed, n_P, n_F, n_Q, BitOps ratio, memory ratio, drop, change of
quality]`, the last two in points. A letter that NAC does not know adds its count at the end.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from nacdeploy.profile.tables.search import RulesTable
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.search.alphabet import Alphabet, parsed
from nacdeploy.strategies.search.objective import DROP_TOLERANCE, Figures, NacReward, NacWeights, Point, nac_rewards
from nacdeploy.strategies.search.observation import Observation

_BITS = ((32.0, 32.0), (8.0, 8.0), (4.0, 8.0), (1.0, 8.0))  # NAC's ladder of weight and activation bits, by n_Q
_EXITS_PER_LETTER = 2  # NAC places exits in pairs
_NAC_LETTERS = "FPEQ"

State = NDArray[np.float64]


@dataclass(frozen=True)
class _Situation:
    """An observed chain with what its path adds: what the P's did, and the last letter's change of quality."""

    observation: Observation
    figures: Figures
    prune_bitops: float = 1.0
    prune_memory: float = 1.0
    change_points: float = 0.0


class ChainEnvironment(gymnasium.Env[State, np.int64]):
    """Episodes from the untouched model, by NAC's states and rewards.

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
        self._situation: _Situation | None = None
        self._n_steps = 0
        size = _vector(_start(observe(Chain())), self._alphabet.letters).shape
        self.action_space = spaces.Discrete(len(self._alphabet.links))
        self.observation_space = spaces.Box(-np.inf, np.inf, size, np.float64)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[State, dict[str, Any]]:
        """Back to the untouched model."""
        super().reset(seed=seed)
        self._situation, self._n_steps = _start(self._observe(Chain())), 0
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
        now = _after(past, self._observe(past.observation.chain + link))
        if now is None:
            state, info = self._answer(past, valid=False)
            return state, 0.0, True, False, info
        self._situation = now
        state, info = self._answer(now, valid=True)
        terms = _reward(past, now, self._weights)
        return state, terms.total, False, not now.observation.legal or self._is_long(), info | {"reward_terms": terms}

    def _unchanged(self, past: _Situation, letter: str) -> tuple[State, float, bool, bool, dict[str, Any]]:
        """An illegal letter. As in NAC, an F still ends the episode where the drop is above half of F's due."""
        self._situation = _Situation(past.observation, past.figures, past.prune_bitops, past.prune_memory)
        broken = past.figures.drop_points > self._rules.finetune_due / 2 + DROP_TOLERANCE
        state, info = self._answer(self._situation, valid=False)
        ended = not past.observation.legal or (letter == "F" and broken) or self._is_long()
        return state, 0.0, False, ended, info

    def _is_long(self) -> bool:
        return self._n_steps >= self._rules.max_length

    def _answer(self, situation: _Situation, valid: bool) -> tuple[State, dict[str, Any]]:
        legal = situation.observation.legal
        mask = np.array([symbol in legal for symbol in self._alphabet.symbols], dtype=np.int8)
        info = {"chain": str(situation.observation.chain), "valid": valid, "action_mask": mask}
        return _vector(situation, self._alphabet.letters), info


def _after(past: _Situation, observation: Observation) -> _Situation | None:
    """Return the situation one letter further, or None if that letter failed."""
    now = observation.figures
    if now is None:
        return None
    pruned = observation.chain.word.endswith("P")
    bitops = now.nac_bitops_ratio / max(past.figures.nac_bitops_ratio, 1e-12) if pruned else 1.0
    memory = now.nac_memory_ratio / max(past.figures.nac_memory_ratio, 1e-12) if pruned else 1.0
    change = past.figures.drop_points - now.drop_points
    return _Situation(observation, now, past.prune_bitops * bitops, past.prune_memory * memory, change)


def _reward(past: _Situation, now: _Situation, weights: NacWeights) -> NacReward:
    """Return the reward of the letter between two situations."""
    baseline = 100.0 * now.figures.baseline_quality
    return nac_rewards(baseline, _point(past.figures), _point(now.figures), weights)


def _point(figures: Figures) -> Point:
    return 100.0 * figures.quality, figures.nac_bitops_ratio, figures.nac_memory_ratio


def _start(observation: Observation) -> _Situation:
    """The situation of the untouched model.

    Raises:
        ValueError: it failed, so that there is nothing to start from.
    """
    if observation.figures is None:
        raise ValueError("the untouched model has no figures")
    return _Situation(observation, observation.figures)


def _vector(situation: _Situation, alphabet: str) -> NDArray[np.float64]:
    """The state `(12 + letters that NAC does not know,)`."""
    word, figures = situation.observation.chain.word, situation.figures
    counts = [word.count(letter) for letter in "PFQ"]
    others = [word.count(letter) for letter in dict.fromkeys(alphabet) if letter not in _NAC_LETTERS]
    return np.array(
        [
            *_BITS[min(counts[2], len(_BITS) - 1)],
            situation.prune_bitops,
            situation.prune_memory,
            _EXITS_PER_LETTER * word.count("E"),
            *counts,
            figures.nac_bitops_ratio,
            figures.nac_memory_ratio,
            figures.drop_points,
            situation.change_points,
            *others,
        ],
        dtype=np.float64,
    )
