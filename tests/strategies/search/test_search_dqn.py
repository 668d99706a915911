"""The pieces of NAC's agent: gradients by finite differences, masks, soft target, replay, ramp, best-score mode."""

import numpy as np
import pytest

from nacdeploy.profile.search import DqnTable
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.objective import Figures, NacWeights
from nacdeploy.strategies.search import dqn
from nacdeploy.strategies.search.alphabet import Alphabet
from nacdeploy.strategies.search.observation import Observation

STATES = np.array([[0.5, -1.0, 2.0], [1.5, 0.3, -0.2], [0.1, 0.1, 0.9], [-1.2, 0.4, 0.6]])
ACTIONS = np.array([0, 2, 1, 2])
TARGETS = np.array([1.0, -0.5, 0.3, 2.0])


def parameters(seed: int = 0) -> dqn.Parameters:
    return dqn.initial_parameters(3, 3, 7, np.random.default_rng(seed))


@pytest.mark.parametrize("name", sorted(parameters()))
def test_gradients_agree_with_finite_differences(name: str) -> None:
    given = parameters()
    _, slopes = dqn.gradients(given, STATES, ACTIONS, TARGETS)
    numeric = np.zeros_like(given[name])
    for at in np.ndindex(numeric.shape):
        losses = []
        for shift in (1e-6, -2e-6):
            given[name][at] += shift
            losses.append(dqn.gradients(given, STATES, ACTIONS, TARGETS)[0])
        given[name][at] += 1e-6
        numeric[at] = (losses[0] - losses[1]) / 2e-6
    np.testing.assert_allclose(slopes[name], numeric, atol=1e-7)


def test_advantages_average_to_zero_around_the_value() -> None:
    given = parameters()
    shifted = {**given, "ba": given["ba"] + 5.0}
    np.testing.assert_allclose(dqn.q_values(shifted, STATES), dqn.q_values(given, STATES))


def test_adam_learns_the_targets() -> None:
    given = parameters()
    adam = dqn.Adam(given, 0.01)
    first, _ = dqn.gradients(given, STATES, ACTIONS, TARGETS)
    for _ in range(300):
        adam.step(given, dqn.gradients(given, STATES, ACTIONS, TARGETS)[1])
    assert dqn.gradients(given, STATES, ACTIONS, TARGETS)[0] < 0.01 * first


def test_first_adam_step_moves_by_the_learning_rate() -> None:
    given = {"w": np.array([1.0, -2.0])}
    dqn.Adam(given, 0.1).step(given, {"w": np.array([3.0, -0.01])})
    np.testing.assert_allclose(given["w"], [0.9, -1.9], atol=1e-6)


def test_soft_update_moves_the_target_a_share_of_the_way() -> None:
    online, target = {"w": np.array([1.0])}, {"w": np.array([0.0])}
    dqn.soft_update(target, online, 0.25)
    assert target["w"][0] == 0.25 and online["w"][0] == 1.0


def test_target_follows_the_legal_choice_of_the_online_network() -> None:
    online, target = parameters(0), parameters(1)
    legal = np.array([[True, True, True], [False, True, False], [True, False, True], [False, False, False]])
    batch = dqn.Batch(STATES, ACTIONS, np.array([1.0, 2.0, 3.0, 4.0]), STATES, legal)
    online_q, target_q = dqn.q_values(online, STATES), dqn.q_values(target, STATES)
    best_of_two = max((0, 2), key=lambda action: online_q[2, action])
    expected = [
        1 + 0.9 * target_q[0, online_q[0].argmax()],
        2 + 0.9 * target_q[1, 1],
        3 + 0.9 * target_q[2, best_of_two],
    ]
    np.testing.assert_allclose(dqn.double_q_targets(online, target, batch, 0.9), [*expected, 4.0])


def test_replay_forgets_the_oldest() -> None:
    replay = dqn.Replay(2)
    for reward in (1.0, 2.0, 3.0):
        replay.add(np.zeros(1), 0, reward, np.zeros(1), np.ones(1, bool))
    assert len(replay) == 2
    assert set(replay.sample(50, np.random.default_rng(0)).rewards) == {2.0, 3.0}


def seen(word: str, drop: float, ratio: float, legal: tuple[str, ...] = ("P", "Q")) -> Observation:
    figures = Figures(0.9 - drop / 100, 0.9, ratio, ratio, ratio, ratio, ratio)
    return Observation(Chain.parse(word), figures, 0.0, True, legal, word)


def searcher(seed: int = 0, **changes: object) -> dqn.DqnSearcher:
    table = DqnTable.model_validate({"width": 8, "batch_size": 4, **changes})
    return dqn.DqnSearcher(Alphabet.parse("FPQ"), table, NacWeights(), seed)


@pytest.mark.parametrize("changes", [{}, {"n_random_steps": 0, "epsilon": 1.0}, {"n_random_steps": 0, "epsilon": 0.0}])
def test_no_phase_proposes_a_masked_letter(changes: dict) -> None:
    agent = searcher(**changes)
    agent.observe(seen("", 0.0, 1.0, ("Q",)))
    for _ in range(20):
        assert str(agent.propose()) == "Q"
        agent.observe(seen("Q", 1.0, 4.0, ()))


def test_random_phase_prefers_f_where_it_is_legal() -> None:
    agent = searcher()
    agent.observe(seen("", 0.0, 1.0, ("F", "P", "Q")))
    letters = []
    for _ in range(300):
        letters.append(str(agent.propose()))
        agent.observe(seen(letters[-1], 1.0, 1.0, ()))
    assert pytest.approx(letters.count("F") / 300, abs=0.08) == 0.6 + 0.4 / 3


def rewards_of(agent: dqn.DqnSearcher) -> list[float]:
    """What the agent stores of Q (a gain), P (a loss) and a second P (back to the same)."""
    agent.observe(seen("", 0.0, 1.0))
    for word, drop, ratio in (("Q", 0.0, 16.0), ("QP", 3.0, 16.0), ("QPP", 0.0, 17.0)):
        while str(proposed := agent.propose()) != word:
            agent._action = agent._letters.index(word[-1])
            assert str(proposed)[:-1] == word[:-1]
            break
        agent.observe(seen(word, drop, ratio))
    return [row[2] for row in agent._replay._rows]


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
    agent.observe(seen("", 0.0, 1.0, ("Q",)))
    agent.propose()
    agent.observe(Observation(Chain.parse("Q"), None, -np.inf, False, (), "failed"))
    assert len(agent._replay) == 0 and str(agent.propose()) == "Q"
