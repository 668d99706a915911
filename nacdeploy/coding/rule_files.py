"""Rule files of an older system: one rule a line, in columns; the first rule whose expression matches a whole name
wins.

    prune     regex granularity s0,s1,...                    element | kernel | filter, a share for each stage
    prune     regex s0,s1,...                                its first form: element
    quantize  regex method bits init-or-integer-bits         k-means | linear | fixed_point
    coding    regex method bits integer-bits run-bits        huffman | vanilla | fixed_point
    channel   regex share

The columns of a line decide its kind. Names may begin with `module.`, as inside DataParallel. Every ignored or
malformed line is reported.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nacdeploy.base.errors import UsageError
from nacdeploy.base.outside import doors
from nacdeploy.base.records import read_text
from nacdeploy.coding import patterns
from nacdeploy.coding.codec import Rule as CodingRule
from nacdeploy.coding.fixed_point import FixedPoint

_METHODS = {"k-means": "kmeans", "kmeans": "kmeans", "linear": "linear", "fixed_point": "fixed_point"}
_INITS = {"k-means++": "kmeans++", "kmeans++": "kmeans++", "linear": "linear", "random": "random", "density": "density"}
_WRAPPER = "module."  # DataParallel's prefix of every name
_MOST_INT_BITS = 32  # before the point, as `code.int_bits` takes
_ROUNDING = "ceil"  # the older system rounds the number of zeros up
_CODES = {"huffman": "huffman", "vanilla": "plain", "plain": "plain", "fixed_point": "fixed_point"}


@dataclass(frozen=True)
class Line:
    """One rule: its line number, pattern, kind and values."""

    number: int
    pattern: re.Pattern[str]
    kind: str
    value: Any

    def matches(self, names: Iterable[str]) -> bool:
        """Tell whether the pattern matches one of the names of a layer or tensor as a whole."""
        return any(self.pattern.fullmatch(name) for name in names)


@dataclass(frozen=True)
class RuleFile:
    """The rules of a file in order, and the lines that were not understood, one sentence each."""

    lines: tuple[Line, ...]
    problems: tuple[str, ...] = ()
    where: str = "rules"

    def first(self, kind: str, *names: str) -> Line | None:
        """Return the first rule of a kind that matches one of the names of a layer or a tensor, with or without
        `module.`."""
        either = [*names, *(f"{_WRAPPER}{name}" for name in names)]
        return next((line for line in self.lines if line.kind == kind and line.matches(either)), None)


@dataclass(frozen=True)
class Tables:
    """The profile tables for a network's layers, the number of stages of the prune rules, and the ignored lines."""

    tables: dict[str, dict[str, Any]] = field(default_factory=dict)
    n_stages: int = 0
    ignored: tuple[str, ...] = ()


def read(path: Path) -> RuleFile:
    """Read the rules of a file.

    Raises:
        UsageError: the file cannot be read, holds no rule at all, or patterns that take too long.
    """
    try:
        text = read_text(path)
    except OSError as error:
        raise UsageError(f"{path} is not a readable rule file ({error})") from error
    found = parse(text, str(path))
    if not found.lines:
        raise UsageError(f"{path} holds no rule: {'; '.join(found.problems) or 'it is empty'}")
    n_steps = sum(patterns.n_steps(line.pattern) for line in found.lines)
    if n_steps > doors.limits().pattern_steps:
        raise doors.above(str(path), f"has patterns that take {n_steps} steps to match one name", "pattern_steps")
    return found


def parse(text: str, where: str = "rules") -> RuleFile:
    """Read the rules of a text; `#` begins a comment line."""
    lines, problems = [], []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            lines.append(_line(number, _columns(line)))
        except (ValueError, re.error, OverflowError, RecursionError) as error:
            problems.append(f"{where}, line {number}: {error}: ignored ({line.strip()})")
    return RuleFile(tuple(lines), tuple(problems), where)


def tables(rules: RuleFile, layers: Iterable[str], n_times: int = 1) -> Tables:
    """Translate the rules for `layers` into profile tables, for a chain with `n_times` S.

    If the rules have more than `n_times` stages, the last ones are taken.
    """
    names = list(layers)
    found = {kind: _matched(rules, kind, names) for kind in ("prune", "quantize", "channel")}
    used = {line.number for matched in found.values() for line in matched.values()}
    ignored = [*rules.problems, *_unused(rules, used)]
    made: dict[str, dict[str, Any]] = {}
    if found["quantize"]:
        unmatched = [name for name in names if name not in found["quantize"]]
        made["code"] = {"layers": {name: line.value for name, line in found["quantize"].items()}, "exclude": unmatched}
    if found["channel"]:
        made["prune"] = {"ratios": {name: line.value for name, line in found["channel"].items()}}
    n_stages = max((len(line.value[1]) for line in found["prune"].values()), default=0)
    if found["prune"]:
        made["sparsify"] = _sparsify(found["prune"], names, range(max(0, n_stages - n_times), n_stages))
    return Tables(made, n_stages, tuple(ignored))


def _matched(rules: RuleFile, kind: str, names: list[str]) -> dict[str, Line]:
    found = {name: rules.first(kind, name, f"{name}.weight") for name in names}
    return {name: line for name, line in found.items() if line is not None}


def _unused(rules: RuleFile, used: set[int]) -> list[str]:
    said = []
    for line in rules.lines:
        where = f"{rules.where}, line {line.number}: '{line.pattern.pattern}'"
        if line.kind == "coding":
            said.append(f"{where} is a coding rule, which 'nacdeploy encode --rules' takes: ignored")
        elif line.number not in used:
            said.append(f"{where} is the first match of no layer: ignored")
    return said


def _sparsify(matched: dict[str, Line], names: list[str], stages: range) -> dict[str, Any]:
    """Return the `sparsify` table of some stages: the most frequent pattern, the other patterns by layer, and rounding
    up.

    A rule with fewer stages stays at its last share.
    """
    patterns = {name: line.value[0] for name, line in matched.items()}
    pattern = max(patterns.values(), key=[*patterns.values()].count)
    shares = {name: [line.value[1][min(i, len(line.value[1]) - 1)] for i in stages] for name, line in matched.items()}
    return {
        "pattern": pattern,
        "patterns": {name: other for name, other in patterns.items() if other != pattern},
        "ratios": {name: each[0] if len(each) == 1 else each for name, each in shares.items()},
        "rounding": _ROUNDING,
        "exclude": [name for name in names if name not in matched],
    }


def _columns(line: str) -> list[str]:
    """Split a line into columns; shares may have spaces around their commas."""
    name, *rest = line.split(maxsplit=1)
    return [name, *re.sub(r"\s*,\s*", ",", "".join(rest)).split()]


def _line(number: int, columns: list[str]) -> Line:
    kinds: dict[int, tuple[str, Callable[..., Any]]] = {
        2: ("channel", _share),
        3: ("prune", _prune),
        4: ("quantize", _quantize),
        5: ("coding", _coding),
    }
    if len(columns) not in kinds:
        raise ValueError(f"{len(columns)} columns, where a rule has 2 (channel), 3 (prune), 4 (quantize) or 5 (coding)")
    if len(columns) == 2 and "," in columns[1]:
        columns = [columns[0], "element", columns[1]]
    kind, read_columns = kinds[len(columns)]
    return Line(number, patterns.compiled(columns[0]), kind, read_columns(*columns[1:]))


def _share(text: str) -> float:
    share = float(text)
    if not 0 <= share < 1:
        raise ValueError(f"{text} is no share from 0 to below 1")
    return share


def _prune(granularity: str, shares: str) -> tuple[str, tuple[float, ...]]:
    _known(granularity, ("element", "kernel", "filter"))
    return granularity, tuple(_share(each) for each in shares.strip(",").split(","))


def _quantize(method: str, bits: str, last: str) -> str:
    """Return the rule as an entry of `code.layers`."""
    kind = _METHODS[_known(method, _METHODS)]
    n_bits = _bits(bits, 1, 16)
    if kind == "fixed_point":
        return f"fixed_point:{n_bits}:{_fixed_point(bits, last).int_bits}"
    if kind == "linear":
        return f"linear:{n_bits}"
    return f"kmeans:{n_bits}:{_INITS[_known(last, _INITS)]}"


def _coding(method: str, bits: str, int_bits: str, run_bits: str) -> CodingRule:
    codes = _CODES[_known(method, _CODES)]
    width = _bits(run_bits, 0, 16)
    if width == 1:
        raise ValueError("run lengths of 1 bit cannot say where a value stands: 0 (none) or 2 to 16")
    fixed = _fixed_point(bits, int_bits) if codes == "fixed_point" else None
    return CodingRule(codes, width, fixed)


def _fixed_point(bits: str, int_bits: str) -> FixedPoint:
    return FixedPoint(_bits(bits, 1, 16), _bits(int_bits, -_MOST_INT_BITS, _MOST_INT_BITS))


def _bits(text: str, low: int, high: int) -> int:
    if not low <= int(text) <= high:
        raise ValueError(f"{text} bits, where {low} to {high} are possible")
    return int(text)


def _known(name: str, known: Iterable[str]) -> str:
    if name not in known:
        raise ValueError(f"'{name}' is none of {', '.join(known)}")
    return name
