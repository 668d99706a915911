"""Which layers of a network the entries of a config_list mean, and with which values; later entries override."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from nacdeploy.base.errors import UsageError, nearest
from nacdeploy.experiments.config.vocabulary import SELECTION
from nacdeploy.network.captured.graph import WEIGHTED

DEFAULT = "default"
NORM_TYPES = ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d")
# What the old system compresses by default and `op_types` may name.
OLD_TYPES: tuple[str, ...] = ("Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d")
OLD_TYPES += ("Linear", "Bilinear", "PReLU", "Embedding", "EmbeddingBag", *NORM_TYPES)


@dataclass(frozen=True)
class Selection:
    """The values of each selected layer, the layers named one by one, those left out on purpose, and what is to be
    said of the rest."""

    layers: dict[str, dict[str, Any]]
    named: frozenset[str] = frozenset()
    excluded: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


def _layer_types(backbone: nn.Module) -> dict[str, str]:
    """Return the type of every layer without layers of its own, by name."""
    return {name: type(m).__name__ for name, m in backbone.named_modules() if not any(True for _ in m.children())}


def select(entries: Sequence[Mapping[str, Any]], backbone: nn.Module, *, with_norms: bool = False) -> Selection:
    """Return the layers that entries without spaces mean. With norms, batch norms may be named for the layers before
    them.

    Raises:
        UsageError: names or types that match nothing (the nearest is named), all of them at once; nothing is left.
    """
    types, allowed = _layer_types(backbone), {name for name, m in backbone.named_modules() if isinstance(m, WEIGHTED)}
    if with_norms:
        allowed |= {name for name, kind in types.items() if kind in NORM_TYPES}
    found = [p for i, entry in enumerate(entries) for p in _problems(f"config_list.{i}", entry, types, allowed)]
    if found:
        raise UsageError("; ".join(found))
    chosen: dict[str, dict[str, Any]] = {}
    named, excluded, notes = set[str](), set[str](), list[str]()
    for entry in entries:
        layers = _matches(entry, types, allowed)
        notes += _passed_over(entry, types, allowed)
        named |= set(entry.get("op_names") or ())
        for name in layers:
            if entry.get("exclude") is True:
                chosen.pop(name, None)
                excluded.add(name)
            else:
                chosen[name] = {key: value for key, value in entry.items() if key not in SELECTION}
                excluded.discard(name)
    if not chosen:
        why = "exclude every layer that they select" if excluded else "select none that can be compressed"
        raise UsageError(f"config_list: no layer is left to compress: the entries {why}")
    ordered = {name: chosen[name] for name in types if name in chosen}
    return Selection(ordered, frozenset(named), frozenset(excluded), tuple(dict.fromkeys(notes)))


def _matches(entry: Mapping[str, Any], types: Mapping[str, str], allowed: set[str]) -> list[str]:
    if entry.get("op_names"):
        return [name for name in entry["op_names"] if name in allowed]
    wanted = entry.get("op_types") or [DEFAULT]
    return [
        name
        for name, kind in types.items()
        if name in allowed and (kind in wanted or (DEFAULT in wanted and kind not in NORM_TYPES))
    ]


def _problems(where: str, entry: Mapping[str, Any], types: Mapping[str, str], allowed: set[str]) -> Iterator[str]:
    for name in entry.get("op_names") or ():
        if name not in types:
            yield f"{where}.op_names: no layer is named '{name}'{nearest(name, allowed)}"
        elif name not in allowed:
            yield f"{where}.op_names: '{name}' is a {types[name]}, which is not compressed{nearest(name, allowed)}"
    if entry.get("op_names"):
        return
    for kind in entry.get("op_types") or ():
        here = sorted({types[name] for name in allowed})
        if kind not in (DEFAULT, *OLD_TYPES, *types.values()):
            yield f"{where}.op_types: unknown type '{kind}'{nearest(kind, here)}"
        elif kind not in (DEFAULT, *types.values()) and entry.get("exclude") is not True:
            yield f"{where}.op_types: the network has no {kind}; it has {', '.join(here)}"


def _passed_over(entry: Mapping[str, Any], types: Mapping[str, str], allowed: set[str]) -> Iterator[str]:
    """Types that are in the network and in the grammar, and that nothing here compresses."""
    for kind in () if entry.get("op_names") else entry.get("op_types") or ():
        if kind in types.values() and not any(types[name] == kind for name in allowed):
            yield f"layers of type {kind} are left as they are: only convolutions and Linear are compressed"
