"""Alphabets with choices of parameters: what they stand for, and what is refused."""

import math
from itertools import pairwise

import pytest
from search_landscapes import table

from nacdeploy.base.errors import UsageError
from nacdeploy.profile import from_mapping
from nacdeploy.strategies.chain import Chain, Link
from nacdeploy.strategies.search.alphabet import N_CHOICES, Alphabet
from nacdeploy.strategies.search.objective import Figures
from nacdeploy.strategies.search.rules import legal_letters
from nacdeploy.strategies.steps import letters

PROFILE = from_mapping({"name": "test"})


def parse(text: str) -> Alphabet:
    return Alphabet.parse(text, lambda link: letters.make(link, PROFILE))


@pytest.mark.parametrize(
    ("text", "symbols"),
    [
        ("FPEQ", ["F", "P", "E", "Q"]),
        ("FPPF", ["F", "P"]),
        (" F P ( ratio = 0.1 ) ", ["F", "P(ratio=0.1)"]),
        ("P(ratio=0.02|0.05|0.1)F", ["P(ratio=0.02)", "P(ratio=0.05)", "P(ratio=0.1)", "F"]),
        ("P(ratio=0.02~0.2)", ["P(ratio=0.02)", "P(ratio=0.0431)", "P(ratio=0.0928)", "P(ratio=0.2)"]),
        ("PP(ratio=0.1)", ["P", "P(ratio=0.1)"]),
        ("Q(bits=w8a8|w4a8)", ["Q(bits=w8a8)", "Q(bits=w4a8)"]),
        ("E(n_exits=1~8)", ["E(n_exits=1)", "E(n_exits=2)", "E(n_exits=4)", "E(n_exits=8)"]),
        ("E(n_exits=1~2)", ["E(n_exits=1)", "E(n_exits=2)"]),
    ],
)
def test_alphabet_stands_for_its_choices(text: str, symbols: list[str]) -> None:
    assert list(parse(text).symbols) == symbols


def test_range_is_even_on_a_log_scale() -> None:
    values = [math.log(float(dict(link.parameters)["ratio"])) for link in parse("P(ratio=0.01~0.3)").links]
    gaps = [b - a for a, b in pairwise(values)]
    assert len(values) == N_CHOICES and max(gaps) - min(gaps) < 0.05


def test_several_parameters_give_every_combination() -> None:
    links = parse("S(pattern=element|kernel,ratio=0.3|0.6)").links
    assert {tuple(value for _, value in link.parameters) for link in links} == {
        ("element", 0.3), ("element", 0.6), ("kernel", 0.3), ("kernel", 0.6)
    }  # fmt: skip


def test_families_are_choices_of_one_number() -> None:
    families = parse("FPS(pattern=element|kernel,ratio=0.3|0.6)").families()
    assert families["P"] == ("P", 0.0)
    names = {
        families[f"S(pattern={pattern},ratio={ratio})"][0] for pattern in ("element", "kernel") for ratio in (0.3, 0.6)
    }
    assert len(names) == 2
    assert families["S(pattern=kernel,ratio=0.6)"][1] == pytest.approx(math.log(0.6))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("FPX", "unknown operator 'X'"),
        ("fp", "unknown operator 'f'"),
        ("FP(rate=0.1)", "unknown parameter 'rate' of P"),
        ("P(ratio=0.2~0.02)", "empty range"),
        ("P(ratio=0.2~0.2)", "empty range"),
        ("P(ratio=~0.2)", "is no range"),
        ("P(ratio=0.1~0.2~0.3)", "is no range"),
        ("P(ratio=a~b)", "is no range"),
        ("P(ratio=-1~0.2)", "is no range"),
        ("P(ratio=0~0.2)", "is no range"),
        ("P(ratio=0.02|)", "lists nothing"),
        ("P(ratio=0.5~2)", "less than 1"),
        ("P(ratio)", "cannot read 'ratio'"),
        ("P(ratio=0.1", "cannot read '\\('"),
        ("P)", "cannot read '\\)'"),
        ("F,P", "cannot read ','"),
        ("P(ratio=0.1,ratio=0.2)", "given twice"),
    ],
)
def test_alphabet_that_cannot_be_is_one_clear_error(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        parse(text)
    assert "search.alphabet" in str(caught.value) and "\n" not in str(caught.value)


def test_alphabet_names_every_problem() -> None:
    with pytest.raises(UsageError, match=r"unknown operator 'X'.*empty range"):
        parse("XFP(ratio=0.2~0.1)")


def test_rules_count_letters_whatever_their_parameters() -> None:
    rules = table(rules={"max_prunes": 2, "finetune_due": 0.5, "forced_factor": 4.0}).rules
    alphabet, figures = "F(epochs=2|4)P(ratio=0.1|0.2)Q", Figures(0.9, 0.95, 1, 1, 1, 1, 1)
    chain = Chain((Link("P", (("ratio", 0.1),)),))
    assert legal_letters(chain, figures, rules, alphabet, {}) == ("F(epochs=2)", "F(epochs=4)")
    figures = Figures(0.94, 0.95, 1, 1, 1, 1, 1)
    assert legal_letters(chain, figures, rules, alphabet, {"P(ratio=0.2)": "no unit left"}) == (
        "F(epochs=2)", "F(epochs=4)", "P(ratio=0.1)", "Q"
    )  # fmt: skip
    chain = chain + Link("P", (("ratio", 0.2),))
    assert legal_letters(chain, figures, rules, alphabet, {"F": "no"}) == ("Q",)
