"""MUSCO's layer configurations as YAML: generated, read with every error at once, and written.

A file maps a layer to null (the layer stays whole) or to the format of its decomposition and the source of its ranks.
An entry of a template that was not filled in counts as null.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from nacdeploy.base.errors import UsageError, nearest, unknown
from nacdeploy.base.outside import doors
from nacdeploy.strategies.operators.decompose.layer_settings import (
    EVBMF,
    RATE,
    LayerSetting,
    own_format,
    passes,
    rank_problems,
)
from nacdeploy.strategies.operators.decompose.settings import DecomposeTable
from nacdeploy.surgery.low_rank import decomposition, low_rank
from nacdeploy.surgery.low_rank.ranks import CP3, CP4, FORMATS

FORMAT, SELECTION, BY_HAND, REDUCTION, WEAKENING, PASS = (
    "decomposition",
    "rank_selection",
    "manual_rank",
    "param_reduction_rate",
    "vbmf_weakenen_factor",
    "curr_compr_iter",
)
KEYS = (FORMAT, SELECTION, BY_HAND, REDUCTION, WEAKENING, PASS)
# what MUSCO's own text calls the same
ALIASES = {"parameter_reduction_rate": REDUCTION, "param_reduction": REDUCTION}
VBMF, PARAM_REDUCTION, MANUAL = "vbmf", "param_reduction", "manual"
SELECTIONS = (VBMF, PARAM_REDUCTION, MANUAL)
DEFAULT_WEAKENING, DEFAULT_RATE = 0.8, 2.0
NONE, TEMPLATE = "none", "template"
KINDS = (NONE, VBMF, PARAM_REDUCTION, TEMPLATE)

Entry = dict[str, Any]


def generated(layers: Mapping[str, nn.Module], kind: str) -> dict[str, Entry | None]:
    """Return a configuration of a kind for all layers: `none`, `vbmf`, `param_reduction`, or a `template` to fill in.

    Depthwise and grouped convolutions are null.

    Raises:
        UsageError: an unknown kind.
    """
    if kind not in KINDS:
        raise unknown("configuration type", kind, KINDS)
    empty: Entry = {**dict.fromkeys(KEYS), PASS: 0}
    filled: dict[str, Entry] = {
        TEMPLATE: empty,
        VBMF: {**empty, SELECTION: VBMF, WEAKENING: DEFAULT_WEAKENING},
        PARAM_REDUCTION: {**empty, SELECTION: PARAM_REDUCTION, REDUCTION: DEFAULT_RATE},
    }
    return {name: _generated(layer, filled[kind]) if kind != NONE else None for name, layer in layers.items()}


def text(config: Mapping[str, Entry | None]) -> str:
    """Print a configuration as YAML."""
    return yaml.safe_dump(dict(config), sort_keys=False)


def read(path: Path, layers: Mapping[str, nn.Module], table: DecomposeTable) -> dict[str, LayerSetting]:
    """Read the settings of the layers that a file names and does not leave whole.

    Raises:
        UsageError: the file is missing or no YAML, or has errors, all of which are named.
    """
    try:
        config = doors.parsed(doors.read_text(path), str(path), "YAML", _loaded)
    except OSError as error:
        raise UsageError(f"{path} is not readable YAML: {' '.join(str(error).split())}") from error
    return settings(config, layers, table, str(path))


def settings(
    config: Any, layers: Mapping[str, nn.Module], table: DecomposeTable, where: str
) -> dict[str, LayerSetting]:
    """Return the settings of a configuration, completed from the table.

    Raises:
        UsageError: the configuration has errors, all of which are named in one line.
    """
    if not isinstance(config, dict):
        raise UsageError(f"{where}: a configuration maps layers to null or to {', '.join(KEYS)}")
    entries = {str(name): _spoken(entry) for name, entry in config.items()}
    problems = [f"{name}: {p}" for name, entry in entries.items() for p in _problems(name, entry, layers)]
    if problems:
        raise UsageError(f"{where}: " + "; ".join(problems))
    return {name: _setting(entry, layers[name], table) for name, entry in entries.items() if _is_filled(entry)}


def _loaded(text: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(" ".join(str(error).split())) from error
    except (TypeError, AttributeError) as error:  # yaml's own, of a key or a tag that stands where none may
        raise ValueError(f"a value that cannot stand there: {error}") from error


class _Loader(yaml.SafeLoader):
    """Safe YAML that also knows tuples, as MUSCO writes ranks."""


_Loader.add_constructor("tag:yaml.org,2002:python/tuple", lambda loader, node: loader.construct_sequence(node))


def _generated(layer: nn.Module, filled: Entry) -> Entry | None:
    if getattr(layer, "groups", 1) > 1:
        return None
    format = own_format(decomposition.shape_of(layer)) if filled[SELECTION] else None
    return {**filled, FORMAT: format}


def _spoken(entry: Any) -> Any:
    """Return an entry with our names of keys in place of MUSCO's other names."""
    if not isinstance(entry, dict):
        return entry
    return {ALIASES.get(str(key), str(key)): value for key, value in entry.items()}


def _is_filled(entry: Any) -> bool:
    return bool(entry) and any(entry.get(key) is not None for key in (FORMAT, SELECTION))


def _format(entry: Entry, layer: nn.Module) -> str:
    return entry.get(FORMAT) or own_format(decomposition.shape_of(layer))


def _setting(entry: Entry, layer: nn.Module, table: DecomposeTable) -> LayerSetting:
    format, selection = _format(entry, layer), entry[SELECTION]
    by_hand = passes(entry[BY_HAND], format)[entry.get(PASS) or 0 :] if selection == MANUAL else ()
    return LayerSetting(
        format,
        RATE if selection == PARAM_REDUCTION else EVBMF,
        by_hand,
        _or(entry.get(WEAKENING), DEFAULT_WEAKENING),
        _or(entry.get(REDUCTION), DEFAULT_RATE),
        min_rank=table.min_rank,
    )


def _or(given: float | None, default: float) -> float:
    return default if given is None else float(given)


def _problems(name: str, entry: Any, layers: Mapping[str, nn.Module]) -> Iterator[str]:
    """Describe what is wrong with one entry."""
    if name not in layers:
        yield f"no layer has this name{nearest(name, layers)}"
    if entry is not None and not isinstance(entry, dict):
        yield f"null or a table of {', '.join(KEYS)}, not {entry!r}"
        return
    yield from (f"unknown key '{key}'{nearest(key, KEYS)}" for key in entry or {} if key not in KEYS)
    if entry is None or not _is_filled(entry):
        return
    yield from (f"{key} {problem}" for key, problem in _bad_values(entry))
    if name in layers:
        yield from _unfit(name, entry, layers[name])


def _bad_values(entry: Entry) -> Iterator[tuple[str, str]]:
    """Yield the keys of a filled entry with a value that the key does not take."""
    for key, check in _CHECKS.items():
        value = entry.get(key)
        if (value is not None or key == SELECTION) and not check.holds(value):
            yield key, f"is {check.text}, not {value!r}"
    if entry.get(SELECTION) == MANUAL and not entry.get(BY_HAND):
        yield BY_HAND, "is needed for rank_selection manual: a list with the ranks of each pass"
    if entry.get(SELECTION) == VBMF and entry.get(FORMAT) in (CP3, CP4):
        yield SELECTION, f"vbmf finds no rank of {entry[FORMAT]}: take param_reduction or manual"


def _unfit(name: str, entry: Entry, layer: nn.Module) -> Iterator[str]:
    """Describe where a well-formed entry does not fit its layer."""
    if entry.get(FORMAT) not in (None, *FORMATS):
        return
    format = _format(entry, layer)
    with low_rank.structure_only():
        reason = low_rank.why_not(low_rank.whole(layer), format)
    if reason is not None:
        yield f"{reason}; {own_format(decomposition.shape_of(layer))} or null would fit"
    elif entry.get(SELECTION) == MANUAL and _CHECKS[BY_HAND].holds(entry.get(BY_HAND)):
        by_hand, n_done = passes(entry[BY_HAND], format), entry.get(PASS) or 0
        yield from rank_problems(name, by_hand, decomposition.shape_of(layer), format)
        if isinstance(n_done, int) and n_done >= len(by_hand):
            yield f"{BY_HAND} holds {len(by_hand)} passes, and {PASS} says that {n_done} are done"


@dataclass(frozen=True)
class _Check:
    """The values of a key, in words and as a test."""

    text: str
    holds: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_rank(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _are_ranks(value: Any) -> bool:
    """Tell whether a value is a list of ranks, or of lists of ranks."""
    if not isinstance(value, list | tuple) or not value:
        return False
    return all(_is_rank(e) or (isinstance(e, list | tuple) and bool(e) and all(map(_is_rank, e))) for e in value)


_CHECKS = {
    FORMAT: _Check(f"one of {', '.join(FORMATS)}", lambda value: value in FORMATS),
    SELECTION: _Check(f"one of {', '.join(SELECTIONS)}", lambda value: value in SELECTIONS),
    BY_HAND: _Check("a list of ranks of at least 1, or of lists of them", _are_ranks),
    REDUCTION: _Check("a number above 1", lambda value: _is_number(value) and value > 1),
    WEAKENING: _Check("a number from 0 to 1", lambda value: _is_number(value) and 0 <= value <= 1),
    PASS: _Check("the number of passes done, 0 or more", lambda value: value == 0 or _is_rank(value)),
}
