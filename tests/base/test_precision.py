"""Precision: parsed, printed and ordered."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nacdeploy.base.errors import UsageError
from nacdeploy.base.precision import FLOAT32, Precision


@given(st.sampled_from([*range(2, 9), 32]), st.sampled_from([*range(4, 9), 32]))
def test_parse_inverts_str(weight_bits: int, activation_bits: int) -> None:
    precision = Precision(weight_bits, activation_bits)
    assert Precision.parse(str(precision)) == precision


def test_parse_ignores_case_and_space() -> None:
    assert Precision.parse(" W8A8 ") == Precision(8, 8)


def test_fewer_bits_order_lower() -> None:
    assert Precision(4, 8) < Precision(8, 8) < FLOAT32


@pytest.mark.parametrize("text", ["", "w8", "8/8", "w8a8x", "int8"])
def test_parse_shows_the_form_when_it_is_another(text: str) -> None:
    with pytest.raises(UsageError, match="not of the form w8a8"):
        Precision.parse(text)


@pytest.mark.parametrize("text", ["w1a8", "w9a8", "w16a16", "w8a2", "w0a0"])
def test_parse_refuses_widths_that_no_target_holds(text: str) -> None:
    with pytest.raises(UsageError, match="weights take 2 to 8 or 32 bits, activations 4 to 8 or 32"):
        Precision.parse(text)
