"""A chain with more or less inside its letters."""

import pytest
from conftest import make_profile

from nacdeploy.forecasts.scaling import MOST, can_scale, scaled
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.steps import letters


@pytest.mark.parametrize(
    ("chain", "factor", "expected"),
    [
        ("PQF", 2.0, "P(ratio=0.2)QF"),  # the profile's own share
        ("P(ratio=0.5)FP(ratio=0.2)", 0.5, "P(ratio=0.25)FP(ratio=0.1)"),
        ("P(time=0.25)", 0.5, "P(time=0.5)"),
        ("S(pattern=element,ratio=0.4)", 2.0, "S(pattern=element,ratio=0.8)"),
        ("D(rank=ratio,ratio=0.25)F", 0.5, "D(rank=ratio,ratio=0.5)F"),
        ("P(ratio=0.5)", 16.0, f"P(ratio={MOST})"),
    ],
)
def test_scaled_chain_takes_so_many_times_as_much(chain: str, factor: float, expected: str) -> None:
    profile = make_profile()
    found = scaled(Chain.parse(chain), factor, profile)
    assert str(found) == expected
    letters.check(found, profile)


@pytest.mark.parametrize("chain", ["QF", "SF", "DF", "P(target_ms=1)F"])
def test_letters_without_a_share_of_their_own_stay(chain: str) -> None:
    profile = make_profile()
    assert str(scaled(Chain.parse(chain), 0.5, profile)) == chain
    assert not can_scale(Chain.parse(chain), profile)


def test_shares_by_layer_stay() -> None:
    profile = make_profile(prune={"ratios": {"stem": 0.5}})
    assert not can_scale(Chain.parse("PF"), profile)


def test_own_ratio_goes_before_a_time_of_the_profile() -> None:
    profile = make_profile(prune={"time": 0.25})
    assert str(scaled(Chain.parse("PP(ratio=0.2)"), 0.5, profile)) == "P(time=0.5)P(ratio=0.1)"
