"""NAC's own engine: a dueling double deep Q-network over NAC's states and rewards. The baseline for the others.

Defaults are NAC's (`[search.dqn]`): an MLP of two hidden layers of 200, Adam, a soft target, replay, a random phase in
which F comes with probability 0.6, then epsilon-greedy. Three of NAC's faults are not kept: random draws are seeded,
masks also bind exploration and the maximum in the target, and what has no legal letter left is not bootstrapped.

The network is numpy: this room never imports torch, and 64 states through 45,000 weights are no work.
Double Q: van Hasselt et al., 2016. Dueling: Wang et al., 2016, eq. 9. Adam: Kingma and Ba, 2015, algorithm 1.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import nacdeploy.strategies.search.mdp as mdp
from nacdeploy.profile.search import DqnTable
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.objective import NacReward, NacWeights, nac_warmup
from nacdeploy.strategies.search.alphabet import Alphabet
from nacdeploy.strategies.search.observation import Observation

Array = NDArray[np.float64]
Parameters = dict[str, Array]

_ADAM_DECAY, _ADAM_DECAY_SQUARED, _ADAM_EPSILON = 0.9, 0.999, 1e-8
_FORBIDDEN = -1e30  # stands for minus infinity where a maximum is taken


def initial_parameters(n_inputs: int, n_actions: int, width: int, random: np.random.Generator) -> Parameters:
    """Uniform within 1 / sqrt(inputs of the layer); the advantage head starts with +1 on the first action, NAC's F."""
    sizes = {"1": (n_inputs, width), "2": (width, width), "v": (width, 1), "a": (width, n_actions)}
    parameters = {}
    for name, (n_in, n_out) in sizes.items():
        bound = 1.0 / np.sqrt(n_in)
        parameters[f"w{name}"] = random.uniform(-bound, bound, (n_in, n_out))
        parameters[f"b{name}"] = random.uniform(-bound, bound, n_out)
    parameters["ba"][0] += 1.0
    return parameters


def q_values(parameters: Parameters, states: Array) -> Array:
    """Q `(N, actions)` of states `(N, inputs)`."""
    return _forward(parameters, states)[0]


def _forward(p: Parameters, states: Array) -> tuple[Array, Array, Array]:
    """Q, and the two hidden layers."""
    hidden1 = np.maximum(states @ p["w1"] + p["b1"], 0.0)
    hidden2 = np.maximum(hidden1 @ p["w2"] + p["b2"], 0.0)
    advantages = hidden2 @ p["wa"] + p["ba"]
    values = hidden2 @ p["wv"] + p["bv"]
    return values + advantages - advantages.mean(axis=1, keepdims=True), hidden1, hidden2


def gradients(p: Parameters, states: Array, actions: NDArray[np.int64], targets: Array) -> tuple[float, Parameters]:
    """The mean squared error of the Q of `actions` `(N,)` against `targets` `(N,)`, and its gradients."""
    q, hidden1, hidden2 = _forward(p, states)
    rows = np.arange(len(actions))
    errors = q[rows, actions] - targets
    on_q = np.zeros_like(q)
    on_q[rows, actions] = 2.0 * errors / len(actions)
    on_values = on_q.sum(axis=1, keepdims=True)
    on_advantages = on_q - on_q.mean(axis=1, keepdims=True)
    on_hidden2 = (on_values @ p["wv"].T + on_advantages @ p["wa"].T) * (hidden2 > 0)
    on_hidden1 = on_hidden2 @ p["w2"].T * (hidden1 > 0)
    found: Parameters = {}
    for name, inputs, on_outputs in (
        ("1", states, on_hidden1),
        ("2", hidden1, on_hidden2),
        ("v", hidden2, on_values),
        ("a", hidden2, on_advantages),
    ):
        found[f"w{name}"], found[f"b{name}"] = inputs.T @ on_outputs, on_outputs.sum(axis=0)
    return float(np.mean(errors**2)), found


class Adam:
    """Adam, in place."""

    def __init__(self, parameters: Parameters, learning_rate: float) -> None:
        self._rate, self._n_steps = learning_rate, 0
        self._mean = {name: np.zeros_like(value) for name, value in parameters.items()}
        self._square = {name: np.zeros_like(value) for name, value in parameters.items()}

    def step(self, parameters: Parameters, slopes: Parameters) -> None:
        """Move the parameters against their gradients."""
        self._n_steps += 1
        rate = self._rate * np.sqrt(1 - _ADAM_DECAY_SQUARED**self._n_steps) / (1 - _ADAM_DECAY**self._n_steps)
        epsilon = _ADAM_EPSILON * np.sqrt(1 - _ADAM_DECAY_SQUARED**self._n_steps)
        for name, slope in slopes.items():
            mean, square = self._mean[name], self._square[name]
            mean += (1 - _ADAM_DECAY) * (slope - mean)
            square += (1 - _ADAM_DECAY_SQUARED) * (slope**2 - square)
            parameters[name] -= rate * mean / (np.sqrt(square) + epsilon)


def soft_update(target: Parameters, online: Parameters, tau: float) -> None:
    """Move the target network a step of `tau` towards the online one, in place."""
    for name, value in online.items():
        target[name] += tau * (value - target[name])


@dataclass(frozen=True)
class Batch:
    """Transitions: states `(N, inputs)`, actions and rewards `(N,)`, what follows, and its mask `(N, actions)`."""

    states: Array
    actions: NDArray[np.int64]
    rewards: Array
    next_states: Array
    next_legal: NDArray[np.bool_]


def double_q_targets(online: Parameters, target: Parameters, batch: Batch, gamma: float) -> Array:
    """The online network chooses among the legal letters, the target network values; nothing legal is worth nothing."""
    choice = np.where(batch.next_legal, q_values(online, batch.next_states), _FORBIDDEN).argmax(axis=1)
    ahead = q_values(target, batch.next_states)[np.arange(len(choice)), choice]
    return batch.rewards + gamma * np.where(batch.next_legal.any(axis=1), ahead, 0.0)


class Replay:
    """The last `size` transitions. Memory grows as they come."""

    def __init__(self, size: int) -> None:
        self._size, self._rows, self._next = size, list[tuple[Array, int, float, Array, Array]](), 0

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, state: Array, action: int, reward: float, next_state: Array, next_legal: Array) -> None:
        """Keep one transition; the oldest gives way."""
        row = (state, action, reward, next_state, next_legal)
        if len(self._rows) < self._size:
            self._rows.append(row)
        else:
            self._rows[self._next] = row
        self._next = (self._next + 1) % self._size

    def sample(self, n: int, random: np.random.Generator) -> Batch:
        """`n` transitions, drawn with replacement."""
        states, actions, rewards, next_states, legal = zip(
            *(self._rows[i] for i in random.integers(len(self._rows), size=n)), strict=True
        )
        return Batch(
            np.array(states), np.array(actions), np.array(rewards), np.array(next_states), np.array(legal, bool)
        )


class DqnSearcher:
    """Episodes from the untouched model. Chains seen before are walked again: the engine answers them from memory."""

    def __init__(self, alphabet: Alphabet, table: DqnTable, weights: NacWeights, seed: int) -> None:
        # NAC's F is its first action, which the advantage head and the random phase favour.
        self._actions = sorted(alphabet.links, key=lambda link: link.letter != "F")
        self._letters = "".join(dict.fromkeys(link.letter for link in self._actions))
        self._table, self._weights = table, weights
        self._random = np.random.default_rng(seed)
        self._replay = Replay(table.replay_size)
        self._online: Parameters = {}
        self._start: mdp.Situation | None = None
        self._now: mdp.Situation | None = None
        self._action: int | None = None
        self._score, self._best_score, self._n_steps, self._epsilon = 0.0, 0.0, 0, table.epsilon

    def propose(self) -> Chain | None:
        """The episode's chain and one step more; None until that is observed, and where the untouched model allows
        none."""
        if self._action is not None:
            return None
        if self._now is None or not self._now.observation.legal:
            self._now, self._score, self._best_score = self._start, 0.0, 0.0
        if self._now is None or not self._now.observation.legal:
            return None
        self._action = self._choose(self._now)
        return self._now.observation.chain + self._actions[self._action]

    def observe(self, observation: Observation) -> None:
        """Remember the transition, and learn when it is time. A failed letter ends the episode and teaches nothing."""
        if self._start is None:
            self._begin(mdp.start(observation))
            return
        if self._now is None or self._action is None:
            return
        now = mdp.after(self._now, observation)
        self._n_steps += 1
        if now is not None:
            self._remember(self._now, self._action, now)
        self._now, self._action = now, None
        if self._n_steps % self._table.decay_every == 0:
            self._epsilon *= self._table.epsilon_decay
        if self._n_steps >= self._table.n_random_steps and self._n_steps % self._table.update_every == 0:
            self._learn(self._table.update_every)

    def _begin(self, start: mdp.Situation) -> None:
        self._start = self._now = start
        n_inputs = len(mdp.vector(start, self._letters))
        self._online = initial_parameters(n_inputs, len(self._actions), self._table.width, self._random)
        self._target = {name: value.copy() for name, value in self._online.items()}
        self._adam = Adam(self._online, self._table.learning_rate)

    def _choose(self, situation: mdp.Situation) -> int:
        legal = self._legal(situation)
        allowed = np.flatnonzero(legal)
        if self._n_steps < self._table.n_random_steps:
            if legal[0] and self._actions[0].letter == "F" and self._random.random() < self._table.random_f:
                return 0
            return int(self._random.choice(allowed))
        if self._random.random() < self._epsilon:
            return int(self._random.choice(allowed))
        q = q_values(self._online, mdp.vector(situation, self._letters)[None])[0]
        return int(np.where(legal, q, _FORBIDDEN).argmax())

    def _legal(self, situation: mdp.Situation) -> Array:
        return np.array([str(link) in situation.observation.legal for link in self._actions])

    def _remember(self, past: mdp.Situation, action: int, now: mdp.Situation) -> None:
        earned = self._earned(mdp.reward(past, now, self._weights))
        states = mdp.vector(past, self._letters), mdp.vector(now, self._letters)
        self._replay.add(states[0], action, earned, states[1], self._legal(now))

    def _earned(self, reward: NacReward) -> float:
        """What is learned from: the accuracy term ramped up; in best-score mode the gain over the episode's best."""
        ramp = nac_warmup(self._n_steps) if self._table.ramp else 1.0
        earned = reward.total - (1.0 - ramp) * reward.weighted.ar
        if not self._table.best_score:
            return earned
        self._score += earned
        gain = max(0.0, self._score - self._best_score)
        self._best_score += gain
        return gain

    def _learn(self, n_updates: int) -> None:
        for _ in range(n_updates if len(self._replay) else 0):
            batch = self._replay.sample(self._table.batch_size, self._random)
            targets = double_q_targets(self._online, self._target, batch, self._table.gamma)
            _, slopes = gradients(self._online, batch.states, batch.actions, targets)
            self._adam.step(self._online, slopes)
            soft_update(self._target, self._online, self._table.tau)
