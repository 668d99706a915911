"""Alphabet: the steps of a search, each a letter with one choice of its parameters.

`FP(ratio=0.02~0.2)EQ`: a range stands for `N_CHOICES` values from end to end, evenly spaced on a log scale, rounded to
three digits (whole numbers if both ends are); `P(ratio=0.02|0.05|0.1)` lists them. Several parameters with choices give
every combination. The text of a step is its symbol: `F`, `P(ratio=0.02)`; rules count letters.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

from nacdeploy.base.errors import UsageError
from nacdeploy.base.progress import nobody
from nacdeploy.strategies.chain import Chain, Link, Value

N_CHOICES = 4

_STEP = re.compile(r"\s*(?P<letter>\S)\s*(?:\((?P<inside>[^()]*)\))?\s*")


@dataclass(frozen=True)
class Alphabet:
    """Links in the order written, each once."""

    links: tuple[Link, ...]

    @classmethod
    def parse(cls, text: str, check: Callable[[Link], object] = nobody) -> "Alphabet":
        """Read an alphabet.

        Args:
            check: raises a UsageError for a link that no operator takes.

        Raises:
            UsageError: names every step that cannot be read or that `check` refuses.
        """
        links: dict[Link, None] = {}
        problems: dict[str, None] = {}
        for match in _STEP.finditer(text):
            try:
                for link in _choices(match["letter"], match["inside"] or "", text):
                    check(link)
                    links[link] = None
            except UsageError as error:
                problems[str(error)] = None
        if problems:
            raise UsageError(f"search.alphabet '{text}': " + "; ".join(problems))
        return cls(tuple(links))

    @property
    def symbols(self) -> tuple[str, ...]:
        """The steps as text."""
        return tuple(map(str, self.links))

    @property
    def letters(self) -> str:
        """The letters, each once."""
        return "".join(dict.fromkeys(link.letter for link in self.links))

    def families(self) -> dict[str, tuple[str, float]]:
        """Return symbol -> (family, logarithm of its parameter).

        Choices of one family differ in one number only; a symbol without such a number is a family of its own.
        """
        return {str(link): self._family(link) for link in self.links}

    def _family(self, link: Link) -> tuple[str, float]:
        varied = [key for key, value in link.parameters if _is_scale(value) and len(self._values(link.letter, key)) > 1]
        if len(varied) != 1:
            return str(link), 0.0
        rest = tuple(pair for pair in link.parameters if pair[0] != varied[0])
        return f"{Link(link.letter, rest)}:{varied[0]}", math.log(float(dict(link.parameters)[varied[0]]))

    def _values(self, letter: str, key: str) -> set[Value]:
        return {value for link in self.links if link.letter == letter for k, value in link.parameters if k == key}


@lru_cache(maxsize=64)
def parsed(text: str) -> Alphabet:
    """Parse the text of an alphabet that was checked before."""
    return Alphabet.parse(text)


def _choices(letter: str, inside: str, text: str) -> list[Link]:
    """Return the links that one step of the text stands for."""
    if not letter.isalpha():
        raise UsageError(
            f"cannot read '{letter}'; an alphabet is letters with optional choices, such as FP(ratio=0.02~0.2)Q"
        )
    given = dict(Chain.parse(f"{letter}({inside})").links[0].parameters)
    combined = product(*(_values(f"{letter}({key}={value})", value) for key, value in given.items()))
    return [Link(letter, tuple(zip(given, values, strict=True))) for values in combined]


def _values(where: str, value: Value) -> list[Value]:
    if not isinstance(value, str):
        return [value]
    if "~" in value:
        return _spaced(where, value)
    parts = [part.strip() for part in value.split("|")]
    if not all(parts):
        raise UsageError(f"{where} lists nothing between two '|'; choices look like P(ratio=0.02|0.05)")
    return [_value(part) for part in parts]


def _spaced(where: str, value: str) -> list[Value]:
    ends = [_value(part.strip()) for part in value.split("~")]
    if len(ends) != 2 or not all(_is_scale(end) for end in ends):
        raise UsageError(f"{where} is no range; one is two positive numbers, such as P(ratio=0.02~0.2)")
    low, high = (float(end) for end in ends)
    if low >= high:
        raise UsageError(f"{where} is an empty range; give the smaller number first, such as P(ratio=0.02~0.2)")
    whole = all(isinstance(end, int) for end in ends)
    steps = (low * (high / low) ** (i / (N_CHOICES - 1)) for i in range(N_CHOICES))
    return list(dict.fromkeys(round(step) if whole else float(f"{step:.3g}") for step in steps))


def _value(text: str) -> Value:
    """Return one value as a chain reads it."""
    return dict(Chain.parse(f"X(x={text})").links[0].parameters)["x"] if text else text


def _is_scale(value: Value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0
