"""NAC's Markov decision process: what its agent sees of a chain, and what a letter earns.

A pure reading of observations, shared by the agent (`dqn.py`) and the environment for any RL library
(`environment.py`). The state is NAC's, unnormalised: `[weight bits, activation bits, BitOps ratio by P, memory ratio by
P, exits placed, n_P, n_F, n_Q, BitOps ratio, memory ratio, drop, change of quality]`, the last two in points. A
letter that NAC does not know adds its count at the end.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nacdeploy.strategies.search.objective import Figures, NacReward, NacWeights, Point, nac_rewards
from nacdeploy.strategies.search.observation import Observation

_BITS = ((32.0, 32.0), (8.0, 8.0), (4.0, 8.0), (1.0, 8.0))  # NAC's ladder of weight and activation bits, by n_Q
_EXITS_PER_LETTER = 2  # NAC places exits in pairs
_NAC_LETTERS = "FPEQ"


@dataclass(frozen=True)
class Situation:
    """An observed chain with what its path adds: what the P's did, and the last letter's change of quality."""

    observation: Observation
    figures: Figures
    prune_bitops: float = 1.0
    prune_memory: float = 1.0
    change_points: float = 0.0


def start(observation: Observation) -> Situation:
    """The situation of the untouched model.

    Raises:
        ValueError: it failed, so that there is nothing to start from.
    """
    if observation.figures is None:
        raise ValueError("the untouched model has no figures")
    return Situation(observation, observation.figures)


def after(past: Situation, observation: Observation) -> Situation | None:
    """The situation one letter further; None where that letter failed."""
    now = observation.figures
    if now is None:
        return None
    pruned = observation.chain.word.endswith("P")
    bitops = now.nac_bitops_ratio / max(past.figures.nac_bitops_ratio, 1e-12) if pruned else 1.0
    memory = now.nac_memory_ratio / max(past.figures.nac_memory_ratio, 1e-12) if pruned else 1.0
    change = past.figures.drop_points - now.drop_points
    return Situation(observation, now, past.prune_bitops * bitops, past.prune_memory * memory, change)


def vector(situation: Situation, alphabet: str) -> NDArray[np.float64]:
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


def reward(past: Situation, now: Situation, weights: NacWeights) -> NacReward:
    """What the letter between two situations earns."""
    baseline = 100.0 * now.figures.baseline_quality
    return nac_rewards(baseline, _point(past.figures), _point(now.figures), weights)


def _point(figures: Figures) -> Point:
    return 100.0 * figures.quality, figures.nac_bitops_ratio, figures.nac_memory_ratio
