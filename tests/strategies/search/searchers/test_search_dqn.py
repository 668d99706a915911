"""The pieces of NAC's agent: the dueling network, masks, soft target, replay, ramp, best-score mode."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from nacdeploy.profile.tables.search import DqnTable
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.search.alphabet import Alphabet
from nacdeploy.strategies.search.objective import Figures, NacWeights
from nacdeploy.strategies.search.observation import Observation
from nacdeploy.strategies.search.searchers.nac import dqn

STATES = torch.tensor([[0.5, -1.0, 2.0], [1.5, 0.3, -0.2], [0.1, 0.1, 0.9], [-1.2, 0.4, 0.6]], dtype=torch.float64)


def network(seed: int = 0) -> dqn.Dueling:
    torch.manual_seed(seed)
    return dqn.Dueling(3, 3, 7).double()


def test_advantages_average_to_zero_around_the_value() -> None:
    given = network()
    with torch.no_grad():
        before = given(STATES)
        given.advantage.bias += 5.0
        torch.testing.assert_close(given(STATES), before)
        torch.testing.assert_close(given(STATES).mean(1, keepdim=True), given.value(given.body(STATES)))


def test_first_action_starts_with_an_advantage_of_one() -> None:
    bias = network().advantage.bias
    assert bias[0] > 0.5 > bias[1:].abs().max()


def test_soft_update_moves_the_target_a_share_of_the_way() -> None:
    online, target = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    for module, value in ((online, 1.0), (target, 0.0)):
        torch.nn.init.constant_(module.weight, value)
    dqn.soft_update(target, online, 0.25)
    assert (target.weight.item(), online.weight.item()) == (0.25, 1.0)


def test_target_follows_the_legal_choice_of_the_online_network() -> None:
    online, target = network(0), network(1)
    legal = torch.tensor([[True, True, True], [False, True, False], [True, False, True], [False, False, False]])
    rewards = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    batch = dqn.Transition(STATES, torch.tensor([0, 2, 1, 2]), rewards, STATES, legal)
    online_q, target_q = online(STATES).detach(), target(STATES).detach()
    best_of_two = max((0, 2), key=lambda action: float(online_q[2, action]))
    expected = [
        1 + 0.9 * target_q[0, online_q[0].argmax()],
        2 + 0.9 * target_q[1, 1],
        3 + 0.9 * target_q[2, best_of_two],
        4.0,
    ]
    np.testing.assert_allclose(dqn.double_q_targets(online, target, batch, 0.9), np.array(expected, float))


def test_replay_forgets_the_oldest() -> None:
    agent = searcher(replay_size=2, ramp=False, best_score=False)
    assert len(rewards_of(agent)) == 2


def test_agent_learns_which_letter_pays() -> None:
    """Whatever comes later, a word that begins with Q is rewarded: the greedy choice becomes Q."""
    changes = {"n_random_steps": 60, "update_every": 5, "learning_rate": 0.01, "epsilon": 0.0, "ramp": False}
    agent = searcher(**changes)
    words = proposals(agent, 200, lambda word: seen(word, 0.0, 16.0 if word[:1] == "Q" else 1.0, short_of(word, 8)))
    assert {word[0] for word in words[:60]} == {"P", "Q"}
    agent._restart()
    assert agent._actions.letters[agent._choose()] == "Q"


def test_agent_proposes_every_chain_once_and_then_nothing_when_its_policy_has_settled() -> None:
    """A greedy policy walks the same four letters for ever; NAC's agent ended there, with most chains unseen."""
    agent = searcher(n_random_steps=0, epsilon=0.0, learning_rate=1e-9)
    words = proposals(agent, 40, lambda word: seen(word, 0.0, 1.0, short_of(word, 4)))
    assert len(words) == len(set(words)) == 2 + 4 + 8 + 16
    assert agent.propose() is None


def proposals(agent: dqn.DqnSearcher, n: int, answer: Callable[[str], Observation]) -> list[str]:
    """The words of up to `n` proposals, each answered."""
    agent.observe(answer(""))
    words: list[str] = []
    while len(words) < n and (chain := agent.propose()) is not None:
        words.append(chain.word)
        agent.observe(answer(words[-1]))
    return words


def short_of(word: str, length: int) -> tuple[str, ...]:
    return ("P", "Q") if len(word) < length else ()


def seen(word: str, drop: float, ratio: float, legal: tuple[str, ...] = ("P", "Q")) -> Observation:
    figures = Figures(0.9 - drop / 100, 0.9, ratio, ratio, ratio, ratio, ratio)
    return Observation(Chain.parse(word), figures, 0.0, True, legal, word)


def searcher(seed: int = 0, **changes: object) -> dqn.DqnSearcher:
    table = DqnTable.model_validate({"width": 8, "batch_size": 4, **changes})
    return dqn.DqnSearcher(Alphabet.parse("FPQ"), table, NacWeights(), seed)


@pytest.mark.parametrize("changes", [{}, {"n_random_steps": 0, "epsilon": 1.0}, {"n_random_steps": 0, "epsilon": 0.0}])
def test_no_phase_proposes_a_masked_letter(changes: dict) -> None:
    words = proposals(searcher(**changes), 20, lambda word: seen(word, 1.0, 4.0, ("Q",)))
    assert words == ["Q" * n for n in range(1, 21)]


def test_random_phase_prefers_f_where_it_is_legal() -> None:
    words = proposals(searcher(), 300, lambda word: seen(word, 1.0, 1.0, ("F", "P", "Q")))
    assert pytest.approx(words[-1].count("F") / 300, abs=0.08) == 0.6 + 0.4 / 3


def rewards_of(agent: dqn.DqnSearcher) -> list[float]:
    """What the agent stores of Q (a gain), P (a loss) and a second P (back to the same)."""
    agent.observe(seen("", 0.0, 1.0))
    for word, drop, ratio in (("Q", 0.0, 16.0), ("QP", 3.0, 16.0), ("QPP", 0.0, 17.0)):
        while str(proposed := agent.propose()) != word:
            agent._action = agent._actions.letters.index(word[-1])
            assert str(proposed)[:-1] == word[:-1]
            break
        agent.observe(seen(word, drop, ratio))
    return [float(step.reward) for step in agent._replay]


def test_ramp_scales_the_accuracy_term_only() -> None:
    plain = rewards_of(searcher(ramp=False, best_score=False))
    ramped = rewards_of(searcher(ramp=True, best_score=False))
    assert ramped[0] == pytest.approx(plain[0])
    accuracy_term = 22.5 * -2.0
    assert plain[1] - ramped[1] == pytest.approx(accuracy_term * (1 - (0.1 + 0.9 * 2 / 2000)))


def test_best_score_mode_rewards_gains_over_the_episode_only() -> None:
    plain = rewards_of(searcher(ramp=False, best_score=False))
    gains = rewards_of(searcher(ramp=False, best_score=True))
    assert gains == pytest.approx([plain[0], 0.0, sum(plain) - plain[0]])


def test_failed_letter_starts_a_new_episode_and_is_not_learned() -> None:
    agent = searcher()
    agent.observe(seen("", 0.0, 1.0))
    failed = agent.propose()
    agent.observe(Observation(failed, None, -np.inf, False, (), "failed"))
    assert len(agent._replay) == 0 and {str(failed), str(agent.propose())} == {"P", "Q"}
