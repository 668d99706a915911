"""The Gymnasium environment: Gymnasium's own checker, and traces of NAC's environment.

The expected numbers come from shared golden data, `nac_env_trace.json`: NAC's own environment (doctorcoal/NAC, MIT),
run with scripted accuracies and costs.
"""

import warnings

import numpy as np
import pytest

from nacdeploy.profile.tables.search import RulesTable
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.search.objective import Figures
from nacdeploy.strategies.search.observation import Observation
from nacdeploy.strategies.search.rules import legal_letters

pytest.importorskip("gymnasium")
from gymnasium.utils.env_checker import check_env

from nacdeploy.strategies.search.searchers.nac.environment import ChainEnvironment

BASELINE = 93.8
RULES = RulesTable(finetune_due=10.0, forced_factor=1.5)
# word -> (accuracy in per cent, BitOps ratio, memory ratio)
SCRIPT = {
    "": (93.8, 1.0, 1.0),
    "Q": (93.4, 16.0, 4.0),
    "QQ": (80.0, 32.0, 8.0),
    "QQF": (93.0, 32.0, 8.0),
    "QQFE": (92.5, 32.0 / 0.7, 8.0),
    "QQFEE": (92.0, 32.0 / 0.6, 8.0),
    "QQFEEP": (91.9, 32.0 * 1.03 / 0.6, 8.2),
}
BROKEN = {"": (93.8, 1.0, 1.0), "Q": (93.0, 16.0, 4.0), "QQ": (80.0, 32.0, 8.0), "QQF": (88.0, 32.0, 8.0)}


# action, state, weighted accuracy, BitOps and memory terms, mask
TRACE = [
    (0, [32, 32, 1, 1, 0, 0, 0, 0, 1, 1, 0, 0], (0, 0, 0), [0, 1, 1, 1]),
    (3, [8, 8, 1, 1, 0, 0, 0, 1, 16, 4, 0.4, -0.4],
     (-10.922103611330243, 20.9044776119403, 2.0880597014925377), [0, 1, 1, 1]),
    (3, [4, 8, 1, 1, 0, 0, 0, 2, 32, 8, 13.8, -13.4],
     (-76.54721498035548, 15.904477611940298, 1.9880597014925372), [1, 1, 1, 0]),
    (0, [4, 8, 1, 1, 0, 0, 1, 2, 32, 8, 0.8, 13.0],
     (68.3893881941994, 6.208955223880594, 0.7761194029850742), [0, 1, 1, 0]),
    (2, [4, 8, 1, 1, 2, 0, 1, 2, 45.714285714285715, 8, 1.3, -0.5],
     (-7.956831478830775, 18.695095948827294, -0.029850746268656535), [0, 1, 1, 0]),
    (2, [4, 8, 1, 1, 4, 0, 1, 2, 53.333333333333336, 8, 1.8, -0.5],
     (-6.38534173501331, 10.120824449182667, -0.029850746268656535), [0, 1, 1, 0]),
    (1, [4, 8, 1.03, 1.025, 4, 1, 1, 2, 54.93333333333334, 8.2, 1.9, -0.1],
     (-1.1390866440742131, 2.115024875621887, 0.1311940298507), [0, 1, 1, 0]),
    (3, [4, 8, 1.03, 1.025, 4, 1, 1, 2, 54.93333333333334, 8.2, 1.9, 0.0], (0, 0, 0), [0, 1, 1, 0]),
]  # fmt: skip


def scripted(script: dict[str, tuple[float, float, float]]) -> ChainEnvironment:
    def observe(chain: Chain) -> Observation:
        accuracy, bitops, memory = script[chain.word]
        figures = Figures(accuracy / 100, BASELINE / 100, bitops, bitops, memory, bitops, memory)
        refused = {"Q": "used up"} if chain.word.count("Q") == 2 else {}
        legal = legal_letters(chain, figures, RULES, "FPEQ", refused)
        return Observation(chain, figures, 0.0, True, legal, chain.word)

    return ChainEnvironment(observe, "FPEQ", RULES)


def test_states_rewards_and_masks_are_those_of_nac() -> None:
    environment = scripted(SCRIPT)
    state, info = environment.reset()
    assert state.tolist() == [32, 32, 1, 1, 0, 0, 0, 0, 1, 1, 0, 0]
    assert info["action_mask"].tolist() == [0, 1, 1, 1]
    for action, wanted, terms, mask in TRACE:
        state, reward, terminated, truncated, info = environment.step(np.int64(action))
        np.testing.assert_allclose(state, wanted, atol=1e-9)
        assert reward == pytest.approx(sum(terms), abs=1e-9)
        assert info["action_mask"].tolist() == mask
        assert not terminated and not truncated


def test_f_that_repairs_too_little_ends_the_episode() -> None:
    environment = scripted(BROKEN)
    environment.reset()
    ends = [environment.step(np.int64(action))[3] for action in (3, 3, 0)]
    assert ends == [False, False, True]


def test_letter_that_is_not_legal_changes_nothing() -> None:
    environment = scripted(SCRIPT)
    before, _ = environment.reset()
    after, reward, _, _, info = environment.step(np.int64(0))
    assert after.tolist() == before.tolist() and reward == 0.0 and not info["valid"]


def test_gymnasium_accepts_the_environment() -> None:
    def observe(chain: Chain) -> Observation:
        n = len(chain)
        figures = Figures(0.9 - 0.01 * n, 0.9, 1.0 + n, 1.0 + n, 1.0 + n, 1.0 + n, 1.0 + n)
        legal = legal_letters(chain, figures, RULES, "FPEQ", {})
        return Observation(chain, figures, 0.0, True, legal, chain.word)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert check_env(ChainEnvironment(observe, "FPEQ", RULES), skip_render_check=True) is None
