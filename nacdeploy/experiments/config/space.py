"""The search space of a config_list: values given as `{"range": ..., "type": ...}` at any depth, by name.

Everything here is a pure function of plain JSON data: a proposal is filled into a copy, the space stays what it is.
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nacdeploy.base.errors import nearest

KINDS = ("float", "int", "choice")
KEYS = ("range", "type", "interval", "n")
Path = tuple[str | int, ...]
Entry = dict[str, Any]


@dataclass(frozen=True)
class Space:
    """The values that one parameter may take: a range (low, high) of floats or ints, or a list of choices.

    `interval` (the distance of two values) or `n` (how many, evenly from end to end) leave only some of a range.
    """

    name: str
    kind: str
    range: tuple[Any, ...]
    interval: float | None = None
    n: int | None = None

    @property
    def is_told_by_place(self) -> bool:
        """Whether a proposer is told a value by its place among all: choices, and `n` of a range, which no step of
        whole numbers leads to."""
        return self.kind == "choice" or self.n is not None

    @property
    def step(self) -> float | None:
        """The distance of two values, None where all in between are allowed."""
        if self.kind == "choice" or (self.interval is None and self.n is None):
            return 1.0 if self.kind == "int" else None
        low, high = self.range
        return self.interval if self.interval is not None else (high - low) / max(self.n - 1, 1)  # type: ignore[operator]

    def values(self) -> tuple[Any, ...] | None:
        """Return all values in order, None for a range of floats that no `interval` and no `n` divides."""
        if self.kind == "choice":
            return self.range
        if self.step is None:
            return None
        low, high = self.range
        n = self.n or (math.floor((high - low) / self.step + 1e-9) + 1 if self.step else 1)
        return tuple(dict.fromkeys(self.rounded(low + k * self.step) for k in range(n)))

    def rounded(self, value: float) -> float | int:
        """Return a number as this parameter takes it, free of the dust of binary fractions."""
        return round(value) if self.kind == "int" else float(round(value, 10))


def is_space(value: Any) -> bool:
    """Tell whether a value stands for a space."""
    return isinstance(value, dict) and ("range" in value or "type" in value)


def expand(config_list: Sequence[Mapping[str, Any]]) -> list[Entry]:
    """Return one entry for each of its `op_names`, so that each layer has its own values; `expand_op_names` false keeps
    an entry whole. The entries share nothing."""
    return [copy.deepcopy(entry) for given in config_list for entry in _expanded(given)]


def _expanded(given: Mapping[str, Any]) -> Iterator[Entry]:
    entry = {key: value for key, value in given.items() if key != "expand_op_names"}
    if not entry.get("op_names") or given.get("expand_op_names", True) is False:
        yield entry
        return
    rest = {key: value for key, value in entry.items() if key != "op_names"}
    yield from ({"op_names": [name], **rest} for name in entry["op_names"])


def spaces(tree: Any) -> tuple[Space, ...]:
    """Return every space in a tree of well-formed ones (`problems` finds none)."""
    return tuple(
        Space(_name_of(p), v["type"], tuple(v["range"]), v.get("interval"), v.get("n")) for p, v in _found(tree)
    )


def job_config_list(expanded: Sequence[Entry], proposal: Mapping[str, Any]) -> list[Entry]:
    """Return the expanded entries with proposed values, by name, in place of their spaces."""
    return [filled(entry, proposal, (index,)) for index, entry in enumerate(expanded)]


def filled(tree: Any, proposal: Mapping[str, Any], at: Path = ()) -> Any:
    """Return a copy of a tree with proposed values in place of its spaces; a name without a proposal keeps its
    space."""
    if is_space(tree):
        return copy.deepcopy(proposal.get(_name_of(at), tree))
    if isinstance(tree, Mapping):
        return {key: filled(value, proposal, (*at, key)) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [filled(value, proposal, (*at, index)) for index, value in enumerate(tree)]
    return tree


def _name_of(path: Path) -> str:
    """`<index>.<key>[.<subkey>]`."""
    return ".".join(map(str, path))


def _found(tree: Any, at: Path = ()) -> Iterator[tuple[Path, dict[str, Any]]]:
    if is_space(tree):
        yield at, tree
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _found(value, (*at, key))
    elif isinstance(tree, list | tuple):
        for index, value in enumerate(tree):
            yield from _found(value, (*at, index))


def problems(where: str, value: Mapping[str, Any], check: Callable[[Any], str | None]) -> list[str]:
    """Describe what is wrong with one space; `check` returns what is wrong with a single value of it, or None."""
    found = [f"{where}: unknown key '{key}'{nearest(key, KEYS)}" for key in value if key not in KEYS]
    kind, given = value.get("type"), value.get("range")
    if kind not in KINDS:
        found.append(f"{where}.type: {kind!r} is none of {', '.join(KINDS)}")
    elif not isinstance(given, list | tuple) or not given:
        found.append(f"{where}.range: {given!r} is no list of values")
    elif kind == "choice":
        found += [f"{where}.range: {problem}" for problem in map(check, given) if problem]
    else:
        found += _range_problems(where, kind, given, value, check)
    return found


def _range_problems(
    where: str, kind: str, given: Sequence[Any], value: Mapping[str, Any], check: Callable[[Any], str | None]
) -> list[str]:
    if len(given) != 2 or not all(_is_number(end, kind) for end in given) or given[0] > given[1]:
        return [f"{where}.range: {list(given)!r} must be [lowest, highest] of {kind} numbers"]
    found = [f"{where}.range: {problem}" for problem in map(check, given) if problem]
    interval, n = value.get("interval"), value.get("n")
    if interval is not None and not (_is_number(interval, kind) and interval > 0):
        found.append(f"{where}.interval: {interval!r} must be a {kind} above 0")
    if n is not None and not (_is_number(n, "int") and n >= 1):
        found.append(f"{where}.n: {n!r} must be a whole number from 1")
    if interval is not None and n is not None:
        found.append(f"{where}: give 'interval' or 'n', not both")
    return found


def _is_number(value: Any, kind: str) -> bool:
    kinds = (int,) if kind == "int" else (int, float)
    return isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)
