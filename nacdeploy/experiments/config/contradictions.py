"""Entries of a config_list that contradict each other or themselves.

That a later entry overrides an earlier one is the grammar: names override types, and a narrower type a wider one. Two
entries that name the same layer, or the same type, with different values leave open which was meant.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

from nacdeploy.experiments.config.vocabulary import SELECTION, Words


def contradictions(entries: Sequence[Mapping[str, Any]], words: Words) -> list[str]:
    """What contradicts what."""
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
    """What both entries name: layers, or where neither names any, types."""
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
