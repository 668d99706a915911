"""Chains: the grammar, and its exact round trip."""

import math
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nacdeploy.base.errors import UsageError
from nacdeploy.strategies.chain import Chain, Link

KEYS = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True)
WORDS = st.text(string.ascii_letters + "-_./", min_size=1, max_size=8)


def is_word(text: str) -> bool:
    """Text that the grammar does not read as a number or a truth value."""
    try:
        return text not in ("true", "false") and not math.isfinite(float(text))
    except ValueError:
        return True


VALUES = st.one_of(
    st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), WORDS.filter(is_word)
)
LINKS = st.builds(
    Link,
    st.sampled_from(string.ascii_uppercase),
    st.dictionaries(KEYS, VALUES, max_size=3).map(lambda parameters: tuple(parameters.items())),
)


@given(st.lists(LINKS, max_size=8).map(lambda links: Chain(tuple(links))))
def test_parse_inverts_str(chain: Chain) -> None:
    assert Chain.parse(str(chain)) == chain


@given(st.text(max_size=30))
def test_parse_reads_or_refuses_any_text(text: str) -> None:
    try:
        chain = Chain.parse(text)
    except UsageError as error:
        assert str(error)
    else:
        assert Chain.parse(str(chain)) == chain


@given(st.text(max_size=12).filter(lambda text: not set(text) & set("(),=")))
def test_parse_reads_or_refuses_any_parameter(value: str) -> None:
    try:
        chain = Chain.parse(f"P(ratio={value})")
    except UsageError as error:
        assert str(error)
    else:
        assert Chain.parse(str(chain)) == chain


def test_parse_ignores_case_and_space() -> None:
    assert Chain.parse(" q P ( ratio = 0.1 ) p f ") == Chain.parse("QP(ratio=0.1)PF")


@pytest.mark.parametrize(
    ("text", "value"),
    [("8", 8), ("0.1", 0.1), ("1e-3", 1e-3), ("true", True), ("false", False), ("w8a8", "w8a8"), ("nan", "nan")],
)
def test_parse_reads_parameter_types(text: str, value: object) -> None:
    ((_, parsed),) = Chain.parse(f"Q(x={text})").links[0].parameters
    assert (parsed, type(parsed)) == (value, type(value))


def test_parse_takes_integers_beyond_float_range() -> None:
    ((_, parsed),) = Chain.parse(f"P(n={10**400})").links[0].parameters
    assert parsed == 10**400


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("QP?F", r"cannot read '\?' at position 3 of 'QP\?F'"),
        ("Q1", "position 2"),
        ("P(ratio=0.1", "position 2"),
        ("P(ratio)", "parameters look like"),
        ("P(ratio=)", "parameters look like"),
        ("P(a=1,a=2)", "given twice"),
    ],
)
def test_parse_names_what_it_cannot_read(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Chain.parse(text)


def test_word_drops_parameters() -> None:
    assert Chain.parse("QP(ratio=0.1)F").word == "QPF"


def test_adding_a_link_leaves_the_chain_as_it_was() -> None:
    chain = Chain.parse("QP")
    assert (str(chain + Link("F")), str(chain), len(chain)) == ("QPF", "QP", 2)


def test_empty_chain_is_no_letters() -> None:
    assert (str(Chain()), list(Chain.parse(""))) == ("", [])
