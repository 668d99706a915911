"""The problems of the entries of a config_list, and of the keys for the whole run beside it.

Entries contradict each other if two name the same layer, or the same type, with different values. That a later
entry overrides an earlier one is the grammar: names override types, and a narrower type a wider one.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import combinations
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from nacdeploy.base.errors import nearest
from nacdeploy.experiments.config import space
from nacdeploy.experiments.config.vocabulary import SELECTION, Words


def entries_problems(entries: Any, words: Words) -> list[str]:
    """Return the problems of a whole config_list, contradictions included."""
    if not isinstance(entries, list) or not entries:
        return [f"compression.config_list: {entries!r} must be a list of entries"]
    found = [p for i, entry in enumerate(entries) for p in _entry_problems(f"config_list.{i}", entry, words)]
    if all(isinstance(entry, dict) for entry in entries):
        found += _contradictions(entries, words)
    return found


def _entry_problems(where: str, entry: Any, words: Words) -> Iterator[str]:
    if not isinstance(entry, dict):
        yield f"{where}: {entry!r} is no entry such as {{'op_types': ['default'], ...}}"
        return
    known = {**SELECTION, **words.per_layer, **words.per_run}
    for key, value in entry.items():
        if key not in known and key not in words.ignored:
            yield f"{where}: unknown key '{key}' of '{words.name}'{nearest(key, known)}"
        elif key in words.per_run:
            yield from run_problems(where, key, value, words)
        elif key in ("quant_bits", "bits"):
            yield from _bits_problems(f"{where}.{key}", value, words.bits)
        elif key in known:
            yield from _value_problems(f"{where}.{key}", known[key], value, key not in SELECTION)
    if entry.get("exclude") is not True:
        yield from (f"{where}: '{key}' is missing" for key in words.required if key not in entry)


def run_problems(where: str, key: str, value: Any, words: Words) -> Iterator[str]:
    """Yield the problems of a key for the whole run, which stands at `where`."""
    if key not in words.per_run:
        hint = " (it stands in an entry of config_list)" if key in words.per_layer else nearest(key, words.per_run)
        yield f"{where}: unknown key '{key}' of '{words.name}'{hint}"
        return
    if space.is_space(value) and where != "compression":
        yield f"{where}.{key}: it holds for the whole run: give its range beside config_list"
    yield from _value_problems(f"{where}.{key}", words.per_run[key], value, True)


def _bits_problems(where: str, value: Any, known: Mapping[str, Any]) -> Iterator[str]:
    """Yield the problems of a number of weight bits, or of one for each of the `known` quant_types."""
    if isinstance(value, dict) and not space.is_space(value):
        for kind, bits in value.items():
            if kind not in known:
                yield f"{where}: unknown quant_type '{kind}'{nearest(kind, known)}"
            else:
                yield from _value_problems(f"{where}.{kind}", known[kind], bits, True)
    else:
        yield from _value_problems(where, known["weight"], value, True)


def _value_problems(where: str, kind: Any, value: Any, may_be_space: bool) -> list[str]:
    if space.is_space(value) and may_be_space:
        return space.problems(where, value, lambda single: _mismatch(kind, single))
    problem = _mismatch(kind, value)
    return [f"{where}: {problem}"] if problem else []


def _mismatch(kind: Any, value: Any) -> str | None:
    """Return what is wrong with one value for a key, or None."""
    try:
        _adapter(kind).validate_python(value, strict=True)
    except ValidationError as error:
        return f"{error.errors()[0]['msg']} (given: {value!r})"
    return None


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(Annotated[kind, Field(allow_inf_nan=False)] if kind is float else kind)


def _contradictions(entries: Sequence[Mapping[str, Any]], words: Words) -> list[str]:
    """Return what contradicts what."""
    found = [problem for index, entry in enumerate(entries) for problem in _within(index, entry, words)]
    for (i, a), (j, b) in combinations(enumerate(entries), 2):
        for what in _shared(a, b):
            found += [f"config_list.{i} and config_list.{j} both name {what}: {p}" for p in _differences(a, b, words)]
    if entries and all(entry.get("exclude") is True for entry in entries):
        found.append("config_list: every entry excludes layers, and none compresses any")
    return found


def _within(index: int, entry: Mapping[str, Any], words: Words) -> Iterator[str]:
    where, keys = f"config_list.{index}", [key for key in entry if key in words.per_layer]
    if entry.get("exclude") is True and keys:
        yield f"{where}: 'exclude' is true, and '{keys[0]}' is given"
    if "bits" in entry and "quant_bits" in entry:
        yield f"{where}: 'bits' and 'quant_bits' are the same: give one"
    names = entry.get("op_names")
    if isinstance(names, list):
        twice = sorted({str(name) for name in names if names.count(name) > 1})
        yield from (f"{where}.op_names: '{name}' is named twice" for name in twice)
    initial, final = entry.get("initial_sparsity", 0.0), entry.get("final_sparsity")
    if isinstance(final, float | int) and isinstance(initial, float | int) and initial > final:
        yield f"{where}: initial_sparsity {initial:g} is above final_sparsity {final:g}"


def _shared(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Return what both entries name: layers, or where neither names any, types."""
    names = [_listed(entry, "op_names") for entry in (a, b)]
    if all(names):
        return [f"layer '{name}'" for name in names[0] if name in names[1]]
    if any(names):
        return []
    types = [_listed(entry, "op_types") or ["default"] for entry in (a, b)]
    return [f"type '{name}'" for name in types[0] if name in types[1]]


def _listed(entry: Mapping[str, Any], key: str) -> list[Any]:
    value = entry.get(key)
    return value if isinstance(value, list) else []


def _differences(a: Mapping[str, Any], b: Mapping[str, Any], words: Words) -> list[str]:
    excluded = [entry.get("exclude") is True for entry in (a, b)]
    if excluded[0] != excluded[1]:
        return ["one excludes it, the other does not"]
    keys = [key for key in words.per_layer if key in a and key in b and key not in SELECTION]
    return [f"{key} {a[key]} or {b[key]}?" for key in keys if a[key] != b[key]]
