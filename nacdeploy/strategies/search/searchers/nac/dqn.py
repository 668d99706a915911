"""NAC's own engine: a dueling double deep Q-network over NAC's states and rewards. The baseline for the others.

Defaults are NAC's (`[search.dqn]`): an MLP of two hidden layers of 200, Adam, a soft target, replay, a random phase in
which F comes with probability 0.6, then epsilon-greedy. Three of NAC's faults are not kept: random draws are seeded,
masks also bind exploration and the maximum in the target, and what has no legal letter left is not bootstrapped.
One habit is not kept either: a policy that has settled walks one known chain for ever, and exploration from there finds
known neighbours only. An episode that met nothing new is followed by one that goes to an unseen chain.

States, masks and rewards are those of `ChainEnvironment`. The network is float64 on the CPU, so that walks repeat.
Double Q: van Hasselt et al., 2016. Dueling: Wang et al., 2016, eq. 9.
"""

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nacdeploy.profile.tables.search import DqnTable, RulesTable
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.search.alphabet import Alphabet
from nacdeploy.strategies.search.objective import NacReward, NacWeights, nac_warmup
from nacdeploy.strategies.search.observation import Observation
from nacdeploy.strategies.search.searchers.nac.environment import ChainEnvironment, State

_F = 0  # NAC's first action, which the advantage head and the random phase favour


class Dueling(nn.Module):
    """Q-values (N, actions) of states (N, inputs): a value and advantages that average to zero around it."""

    def __init__(self, n_inputs: int, n_actions: int, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(n_inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.value, self.advantage = nn.Linear(width, 1), nn.Linear(width, n_actions)
        with torch.no_grad():
            self.advantage.bias[_F] += 1.0

    def forward(self, states: Tensor) -> Tensor:
        hidden = self.body(states)
        advantages = self.advantage(hidden)
        values: Tensor = self.value(hidden) + advantages - advantages.mean(1, keepdim=True)
        return values


class Transition(NamedTuple):
    """A step that was taken: state, action, reward, the state after it and what is legal there.

    A batch of N holds tensors (N, inputs), (N,), (N,), (N, inputs) and (N, actions) in the same places.
    """

    state: Tensor
    action: Tensor
    reward: Tensor
    next_state: Tensor
    next_legal: Tensor


def double_q_targets(online: Dueling, target: Dueling, batch: Transition, gamma: float) -> Tensor:
    """Return the targets: the online network chooses among the legal letters, the target network values the choice.

    A state without a legal letter is worth nothing.
    """
    with torch.no_grad():
        choice = online(batch.next_state).masked_fill(~batch.next_legal, -torch.inf).argmax(1, keepdim=True)
        ahead = target(batch.next_state).gather(1, choice)[:, 0]
        return batch.reward + gamma * ahead.masked_fill(~batch.next_legal.any(1), 0.0)


def soft_update(target: nn.Module, online: nn.Module, tau: float) -> None:
    """Move the target network a step of `tau` towards the online one, in place."""
    with torch.no_grad():
        for old, new in zip(target.parameters(), online.parameters(), strict=True):
            old.lerp_(new, tau)


class DqnSearcher:
    """Episodes from the untouched model. Known chains are walked again from memory; only new ones are proposed."""

    def __init__(
        self, alphabet: Alphabet, table: DqnTable, weights: NacWeights, seed: int, rules: RulesTable | None = None
    ) -> None:
        self._actions = Alphabet(tuple(sorted(alphabet.links, key=lambda link: link.letter != "F")))
        self._table, self._weights, self._rules = table, weights, rules or RulesTable()
        self._random = np.random.default_rng(seed)
        self._seed = seed
        self._replay: deque[Transition] = deque(maxlen=table.replay_size)
        self._seen: dict[Chain, Observation] = {}
        self._environment: ChainEnvironment | None = None
        self._chain, self._action = Chain(), -1  # an action is in flight where it is not negative
        self._state, self._legal = np.zeros(0), np.zeros(0, bool)
        self._score, self._best_score, self._n_steps, self._epsilon = 0.0, 0.0, 0, table.epsilon
        self._states: dict[Chain, State] = {}
        self._is_new = True  # whether this episode met a chain that was not seen before
        self._route: deque[int] = deque()

    def propose(self) -> Chain | None:
        """Return the episode's first chain that was not seen before.

        None says that the last proposal is not observed yet, or that every legal chain was seen.
        """
        if self._environment is None or self._action >= 0:
            return None
        while True:
            if not self._legal.any():
                route = [] if self._is_new else self._to_unseen()
                if route is None:
                    return None
                self._restart(route)
            if not self._legal.any():
                return None
            self._action = self._route.popleft() if self._route else self._choose()
            chain = self._chain + self._actions.links[self._action]
            if chain not in self._seen:
                self._is_new = True
                return chain
            self._step(self._environment)

    def observe(self, observation: Observation) -> None:
        """Remember the transition, and learn when it is time. A failed letter ends the episode and teaches nothing."""
        self._seen[observation.chain] = observation
        if self._environment is None:
            self._begin(observation)
        elif self._action >= 0:
            self._step(self._environment)

    def _begin(self, start: Observation) -> None:
        self._environment = ChainEnvironment(self._seen.__getitem__, self._actions, self._rules, self._weights)
        self._restart()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)
            sizes = len(self._state), len(self._actions.links), self._table.width
            self._online, self._target = Dueling(*sizes).double(), Dueling(*sizes).double()
        self._target.load_state_dict(self._online.state_dict())
        self._adam = torch.optim.Adam(self._online.parameters(), self._table.learning_rate)

    def _restart(self, route: Iterable[int] = ()) -> None:
        """Begin an episode, whose first steps are those of `route`."""
        if self._environment is not None:
            self._state, info = self._environment.reset()
            self._chain, self._legal = Chain(), info["action_mask"].astype(bool)
            self._states[self._chain] = self._state
            self._score = self._best_score = 0.0
            self._is_new, self._route = False, deque(route)

    def _to_unseen(self) -> list[int] | None:
        """Return the steps from the untouched model to an unseen chain, or None if there is none.

        While the walk is random, any of them; then the one whose last step the network values most.
        """
        symbols = self._actions.symbols
        ends = [
            (chain, action)
            for chain in self._states
            for action in map(symbols.index, self._seen[chain].legal)
            if chain + self._actions.links[action] not in self._seen
        ]
        if not ends:
            return None
        if self._n_steps < self._table.n_random_steps:
            at = int(self._random.integers(len(ends)))
        else:
            with torch.no_grad():
                q = self._online(torch.from_numpy(np.stack([self._states[chain] for chain, _ in ends])))
            at = int(q[range(len(ends)), [action for _, action in ends]].argmax())
        return [*map(self._actions.links.index, ends[at][0]), ends[at][1]]

    def _step(self, environment: ChainEnvironment) -> None:
        state, action = self._state, self._action
        self._state, _, failed, _, info = environment.step(np.int64(action))
        self._n_steps += 1
        self._action = -1
        if failed:
            self._legal = np.zeros_like(self._legal)
        else:
            self._chain, self._legal = self._chain + self._actions.links[action], info["action_mask"].astype(bool)
            self._states[self._chain] = self._state
            self._remember(state, action, self._earned(info["reward_terms"]))
        if self._n_steps % self._table.decay_every == 0:
            self._epsilon *= self._table.epsilon_decay
        if self._n_steps >= self._table.n_random_steps and self._n_steps % self._table.update_every == 0:
            self._learn(self._table.update_every)

    def _choose(self) -> int:
        allowed = np.flatnonzero(self._legal)
        if self._n_steps < self._table.n_random_steps:
            favours_f = self._legal[_F] and self._actions.links[_F].letter == "F"
            if favours_f and self._random.random() < self._table.random_f:
                return _F
            return int(self._random.choice(allowed))
        if self._random.random() < self._epsilon:
            return int(self._random.choice(allowed))
        with torch.no_grad():
            q = self._online(torch.from_numpy(self._state)[None])[0]
        return int(q.masked_fill(~torch.from_numpy(self._legal), -torch.inf).argmax())

    def _remember(self, state: State, action: int, earned: float) -> None:
        parts = (state, action, np.float64(earned), self._state, self._legal)
        self._replay.append(Transition(*(torch.as_tensor(part) for part in parts)))

    def _earned(self, reward: NacReward) -> float:
        """Return the reward to learn from: the accuracy term ramped up; in best-score mode the gain over the
        episode's best."""
        ramp = nac_warmup(self._n_steps) if self._table.ramp else 1.0
        earned = reward.total - (1.0 - ramp) * reward.weighted.ar
        if not self._table.best_score:
            return earned
        self._score += earned
        gain = max(0.0, self._score - self._best_score)
        self._best_score += gain
        return gain

    def _learn(self, n_updates: int) -> None:
        for _ in range(n_updates if self._replay else 0):
            drawn: NDArray[np.int64] = self._random.integers(len(self._replay), size=self._table.batch_size)
            batch = Transition(*map(torch.stack, zip(*(self._replay[i] for i in drawn), strict=True)))
            targets = double_q_targets(self._online, self._target, batch, self._table.gamma)
            loss = nn.functional.mse_loss(self._online(batch.state).gather(1, batch.action[:, None])[:, 0], targets)
            self._adam.zero_grad()
            loss.backward()
            self._adam.step()
            soft_update(self._target, self._online, self._table.tau)
