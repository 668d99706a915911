"""Patterns that somebody else wrote: how long one may try to match the name of a layer.

Python's matcher tries every way to share a name out among the repeats of a pattern. A repeat within a repeat has
exponentially many ways; k repeats side by side have about n^k / k! for a name of n characters.
"""

import re
from math import comb
from re import _constants, _parser  # type: ignore[attr-defined] # the only parser of Python's own patterns
from typing import Any

NAME = 60  # characters of a long name of a layer
_REPEATS = (_constants.MAX_REPEAT, _constants.MIN_REPEAT, getattr(_constants, "POSSESSIVE_REPEAT", None))
_OFTEN = 8  # a repeat of up to so many times counts as written out


def compiled(text: str) -> re.Pattern[str]:
    """Compile a pattern.

    Raises:
        ValueError: a repeat stands within a repeat.
        re.error: it is no pattern.
    """
    pattern = re.compile(text)
    if _depth(_parser.parse(text)) > 1:
        raise ValueError("a repeat within a repeat may match without end")
    return pattern


def n_steps(pattern: re.Pattern[str]) -> int:
    """Return the most steps, about, that a pattern takes on a long name."""
    k = _count(_parser.parse(pattern.pattern))
    return comb(NAME + k, k)


def _parts(node: Any) -> list[Any]:
    """Return the items of a parsed pattern and of the patterns in its arguments, one level down."""
    if isinstance(node, _parser.SubPattern):
        return list(node)
    return [each for each in node if isinstance(each, tuple | list | _parser.SubPattern)] if node else []


def _is_repeat(node: Any) -> bool:
    return isinstance(node, tuple) and len(node) == 2 and node[0] in _REPEATS and node[1][1] > _OFTEN


def _depth(node: Any) -> int:
    return _is_repeat(node) + max(map(_depth, _parts(node)), default=0)


def _count(node: Any) -> int:
    return _is_repeat(node) + sum(map(_count, _parts(node)))
