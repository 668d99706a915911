"""Chain: a word over operator letters, applied left to right, with optional parameters: `QP(ratio=0.1)PF`.

A chain knows the grammar only; the operators define the letters and their parameters.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from nacdeploy.base.errors import UsageError
from nacdeploy.base.outside import doors

Value = bool | int | float | str

_LINK = re.compile(r"\s*([A-Za-z])\s*(?:\(([^()]*)\))?\s*")


@dataclass(frozen=True)
class Link:
    """One letter with its parameters, in the order given."""

    letter: str
    parameters: tuple[tuple[str, Value], ...] = ()

    def __str__(self) -> str:
        inside = ",".join(f"{key}={_format_value(value)}" for key, value in self.parameters)
        return f"{self.letter}({inside})" if inside else self.letter


@dataclass(frozen=True)
class Chain:
    """A sequence of links; `Chain.parse(str(chain)) == chain` always holds.

    >>> chain = Chain.parse("qP(ratio=0.1)F")
    >>> chain.word, str(chain), len(chain)
    ('QPF', 'QP(ratio=0.1)F', 3)
    >>> Chain.parse(str(chain)) == chain
    True
    """

    links: tuple[Link, ...] = ()

    @classmethod
    def parse(cls, text: str) -> "Chain":
        """Read `QPPF` or `Q(bits=w8a8)P(ratio=0.1)F`. Letters are not case-sensitive.

        Raises:
            UsageError: the text does not follow the grammar (the message names the position), or is too long.
        """
        if len(text) > doors.limits().chain:
            raise doors.above("the chain", f"'{text[:20]}...' has {len(text)} characters", "chain")
        links, position = [], 0
        while position < len(text):
            match = _LINK.match(text, position)
            if match is None:
                raise UsageError(
                    f"cannot read '{text[position]}' at position {position + 1} of '{text}'; "
                    "a chain is letters with optional parameters, such as QP(ratio=0.1)F"
                )
            links.append(Link(match[1].upper(), _parse_parameters(match[2] or "", text)))
            position = match.end()
        return cls(tuple(links))

    @property
    def word(self) -> str:
        """The letters alone."""
        return "".join(link.letter for link in self.links)

    def __add__(self, link: Link) -> "Chain":
        return Chain((*self.links, link))

    def __len__(self) -> int:
        return len(self.links)

    def __iter__(self) -> Iterator[Link]:
        return iter(self.links)

    def __str__(self) -> str:
        return "".join(map(str, self.links))


def _parse_parameters(text: str, chain: str) -> tuple[tuple[str, Value], ...]:
    parameters: dict[str, Value] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        key, equals, value = (s.strip() for s in part.partition("="))
        if not equals or not key.isidentifier() or not value:
            raise UsageError(f"cannot read '{part}' in '{chain}'; parameters look like P(ratio=0.1)")
        if key in parameters:
            raise UsageError(f"parameter '{key}' is given twice in '{chain}'")
        parameters[key] = _parse_value(value)
    return tuple(parameters.items())


def _parse_value(text: str) -> Value:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        if isinstance(number, int) or math.isfinite(number):
            return number
    return text


def _format_value(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
