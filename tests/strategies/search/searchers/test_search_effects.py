"""What is learned of steps: effects, families, elders, and what an F leaves."""

import math

import numpy as np
import pytest

from nacdeploy.strategies.search.alphabet import Alphabet
from nacdeploy.strategies.search.searchers.effects import Effects, Spread, TrainingEffects, medians

RANGE = Alphabet.parse("FP(ratio=0.02~0.2)Q")
WEAK, MILD, STRONG, STRONGEST = (s for s in RANGE.symbols if s[0] == "P")


def effects(*elders: Effects) -> Effects:
    return Effects(RANGE.families(), elders)


def test_spread_follows_residuals_and_no_single_one_dominates() -> None:
    calm, wild = Spread(), Spread()
    for _ in range(50):
        calm.learn(0.1)
        wild.learn(1.5)
    assert calm.points() < 0.3 < 1.0 < wild.points()
    once = Spread()
    once.learn(1000.0)
    assert once.points() < 1.0


def test_every_letter_is_as_sure_as_its_own_uses_were_alike() -> None:
    known = effects()
    for n in range(20):
        known.learn("Q", 0, 0, np.zeros(2), 0.3)
        known.learn(STRONGEST, 0, 0, np.zeros(2), 2.0 * (n % 2))
    assert known.spread_points("Q", 0, 0) < 0.3 < 0.7 < known.spread_points(STRONGEST, 0, 0)


def test_step_is_as_sure_as_like_uses_were() -> None:
    known = effects()
    for n in range(20):
        known.learn("Q", 0, 0, np.zeros(2), 3.0 * (n % 2))
        known.learn("Q", 5, 0, np.zeros(2), 0.1, is_trained=True)
    assert known.spread_points("Q", 5, 0, is_trained=True) < 0.4 < 1.0 < known.spread_points("Q", 0, 0)


def test_effect_is_that_of_the_nearest_uses() -> None:
    known = effects()
    known.learn("Q", 0, 0, np.array([1.4, 0.7]), 0.2)
    known.learn("Q", 1, 1, np.array([0.7, 0.7]), 5.0)
    factors, points = known.expected("Q", 0, 0)
    assert factors.tolist() == [1.4, 0.7] and 0.2 < points < 2.0
    assert known.expected("Q", 2, 0)[0].tolist() == [0.7, 0.7]


def test_effect_behind_an_f_is_learned_apart_from_the_effect_before_any() -> None:
    known = effects()
    known.learn("Q", 1, 0, np.zeros(2), 40.0)
    assert known.expected("Q", 1, 0, is_trained=True)[1] == 40.0
    known.learn("Q", 1, 0, np.zeros(2), 6.0, is_trained=True)
    assert known.expected("Q", 1, 0, is_trained=True)[1] < 20.0 < known.expected("Q", 1, 0)[1]


def test_a_step_that_gains_accuracy_is_expected_to() -> None:
    known = effects()
    known.learn("Q", 0, 0, np.zeros(2), -0.5)
    assert known.expected("Q", 0, 0)[1] == pytest.approx(-0.5)


def test_choices_between_two_seen_are_interpolated_in_the_logarithm() -> None:
    known = effects()
    known.learn(WEAK, 0, 0, np.array([0.1, 0.0]), 1.0)
    assert not known.knows(MILD)
    known.learn(STRONGEST, 0, 0, np.array([1.0, 0.0]), 4.0)
    assert known.knows(MILD) and known.knows(STRONG)
    share = (math.log(0.0431) - math.log(0.02)) / math.log(10)
    factors, points = known.expected(MILD, 0, 0)
    assert factors[0] == pytest.approx(0.1 + share * 0.9) and points == pytest.approx(1.0 + share * 3.0)
    assert points < known.expected(STRONG, 0, 0)[1] < 4.0


def test_a_choice_that_was_seen_speaks_for_itself() -> None:
    known = effects()
    for symbol, points in ((WEAK, 1.0), (STRONGEST, 4.0), (MILD, 9.0)):
        known.learn(symbol, 0, 0, np.zeros(2), points)
    assert known.expected(MILD, 0, 0)[1] == 9.0


def test_the_ends_of_a_family_are_its_extremes() -> None:
    assert [effects().is_end(s) for s in (WEAK, MILD, STRONG, STRONGEST, "Q")] == [True, False, False, True, True]


def test_elders_speak_until_the_task_does() -> None:
    elder = effects()
    elder.learn("Q", 0, 0, np.array([1.0, 1.0]), 3.0)
    known = effects(elder)
    assert known.knows("Q") and known.expected("Q", 0, 0)[1] == 3.0
    known.learn("Q", 0, 0, np.array([2.0, 2.0]), 0.0)
    factors, points = known.expected("Q", 0, 0)
    assert factors.tolist() == [2.0, 2.0] and 0.0 < points < 1.0
    for _ in range(20):
        known.learn("Q", 0, 0, np.array([2.0, 2.0]), 0.0)
    assert known.expected("Q", 0, 0)[1] < 0.1


def test_medians_pass_over_what_is_not_known() -> None:
    found = medians([np.array([1.0, math.nan, math.nan]), np.array([3.0, 5.0, math.nan])])
    assert found[:2].tolist() == [2.0, 5.0] and math.isnan(found[2])


def repaired(recovery: TrainingEffects, drop: float, floor: float = 0.0) -> float:
    return recovery.expected((1, 0), (1, 0), floor, drop)[0]


def test_f_is_thought_to_repair_nine_tenths() -> None:
    left, spread = TrainingEffects(2, 1.0).expected((1, 0), (1, 0), 0.0, 5.0)
    assert left == pytest.approx(0.5, abs=0.1) and spread > 0.5


def test_f_is_thought_to_repair_much_damage_nearly_as_well_as_some() -> None:
    """A late Q costs 40 points and F brings them back: a tenth of 40 left would keep every search from trying one."""
    recovery = TrainingEffects(2, 1.0)
    assert repaired(recovery, 10.0) < repaired(recovery, 40.0) < 2 * repaired(recovery, 10.0)


def test_recovery_learns_what_f_leaves_and_grows_sure() -> None:
    recovery = TrainingEffects(2, 2.0)
    before = recovery.expected((1, 0), (1, 0), 0.0, 5.0)[1]
    for drop in (4.0, 5.0, 6.0, 5.0, 4.5, 5.5) * 3:
        recovery.learn((1, 0), (1, 0), 0.0, drop, 0.3 * drop, 0)
    left, spread = recovery.expected((1, 0), (1, 0), 0.0, 5.0)
    assert left == pytest.approx(1.5, abs=0.1) and spread < before


def test_no_f_is_expected_to_do_harm() -> None:
    assert repaired(TrainingEffects(2, 1.0), 0.2, floor=4.0) <= 0.2


def test_network_that_an_earlier_f_left_lost_is_not_found_again() -> None:
    """Small floors say nothing of large ones: a slope over 0 to 3 points would bring 40 back to 3."""
    recovery = TrainingEffects(2, 3.0)
    for floor in (0.0, 1.0, 2.0, 3.0) * 5:
        recovery.learn((1, 0), (1, 0), floor, floor + 6.0, 2.5, 0)
    assert repaired(recovery, 8.0, floor=2.0) < 3.5
    assert repaired(recovery, 45.0, floor=40.0) >= 38.0


def test_dead_end_holds_for_its_culprit_alone() -> None:
    recovery = TrainingEffects(2, 1.0)
    recovery.learn((0, 3), (0, 1), 0.0, 60.0, 40.0, 1)
    assert recovery.expected((0, 3), (0, 1), 0.0, 60.0)[0] > 30.0
    assert recovery.expected((0, 2), (0, 1), 0.0, 60.0)[0] < 10.0
    assert recovery.expected((3, 0), (3, 0), 0.0, 60.0)[0] < 10.0


def test_elder_recovery_is_heeded_but_soon_outweighed() -> None:
    elder = TrainingEffects(2, 5.0)
    for _ in range(200):
        elder.learn((1, 0), (1, 0), 0.0, 5.0, 1.5, 0)
    young = TrainingEffects(2, 5.0, [elder])
    assert 0.9 < repaired(young, 5.0) <= 1.6
    for _ in range(30):
        young.learn((1, 0), (1, 0), 0.0, 5.0, 0.2, 0)
    assert repaired(young, 5.0) < 0.5
