"""The masks of three environment traces of NAC (published code of doctorcoal/NAC, MIT), and each rule at its edge."""

import pytest

from nacdeploy.profile.tables.search import RulesTable
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.search.objective import Figures
from nacdeploy.strategies.search.rules import legal_letters

# (chain, drop in points, letters an operator refuses, drop at which F is due, letters that NAC's masks leave)
TRACES = [
    ("", 0.0, "", 10, "PEQ"),
    ("Q", 0.3999999999999915, "", 10, "PEQ"),
    ("QQ", 13.799999999999997, "Q", 10, "FPE"),
    ("QQF", 0.7999999999999972, "Q", 10, "PE"),
    ("QQFE", 1.2999999999999972, "Q", 10, "PE"),
    ("QQFEE", 1.7999999999999972, "Q", 10, "PE"),
    ("QQFEEP", 1.8999999999999915, "Q", 10, "PE"),
    ("Q", 0.7999999999999972, "", 10, "PEQ"),
    ("QQF", 5.799999999999997, "Q", 10, ""),  # truncated: F left more than half of what makes it due
    ("E", 0.7999999999999972, "", 4, "PEQ"),
    ("EE", 0.7999999999999972, "", 4, "PEQ"),
    ("EEE", 0.7999999999999972, "", 4, "PEQ"),
    ("EEEE", 0.7999999999999972, "E", 4, "PQ"),
]

EDGES = [
    ("P", 9.999, "", 10, "PEQ"),
    ("P", 10.0, "", 10, "FPEQ"),
    ("P", 15.0, "", 10, "FPEQ"),
    ("P", 15.001, "", 10, "F"),
    ("P", 80.0, "PEQ", 10, "F"),
    ("P", 12.0, "PEQ", 10, "F"),
    ("P", 3.0, "PEQ", 10, ""),
    ("P", 80.0, "F", 10, ""),
    ("P" * 19, 3.0, "", 10, "PEQ"),
    ("P" * 20, 3.0, "", 10, "EQ"),
    ("E" * 65, 3.0, "", 10, "PEQ"),
    ("E" * 66, 3.0, "", 10, ""),
    ("PF", 5.0, "", 10, "PEQ"),
    ("PF", 5.001, "", 10, ""),
    ("PFP", 5.001, "", 10, "PEQ"),
    ("PF", -0.5, "", 10, "PEQ"),
]


def legal(word: str, drop: float, refused: str, due: float, alphabet: str = "FPEQ") -> str:
    figures = Figures(0.938 - drop / 100, 0.938, 1, 1, 1, 1, 1)
    reasons = dict.fromkeys(refused, "does not apply")
    return "".join(legal_letters(Chain.parse(word), figures, RulesTable(finetune_due=due), alphabet, reasons))


@pytest.mark.parametrize(("word", "drop", "refused", "due", "expected"), TRACES)
def test_legal_letters_are_those_of_the_published_environment(
    word: str, drop: float, refused: str, due: float, expected: str
) -> None:
    assert legal(word, drop, refused, due) == expected


@pytest.mark.parametrize(("word", "drop", "refused", "due", "expected"), EDGES)
def test_legal_letters_at_the_edge_of_each_rule(
    word: str, drop: float, refused: str, due: float, expected: str
) -> None:
    assert legal(word, drop, refused, due) == expected


@pytest.mark.parametrize(("alphabet", "drop", "expected"), [("QP", 2.0, "QP"), ("QP", 20.0, ""), ("DPP", 2.0, "DP")])
def test_legal_letters_stay_within_the_alphabet(alphabet: str, drop: float, expected: str) -> None:
    assert legal("P", drop, "", 10, alphabet) == expected
