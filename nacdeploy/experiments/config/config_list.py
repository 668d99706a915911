"""What is wrong with the entries of a config_list, and with the keys for the whole run beside it."""

from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from nacdeploy.base.errors import nearest
from nacdeploy.experiments.config import space
from nacdeploy.experiments.config.contradictions import contradictions
from nacdeploy.experiments.config.vocabulary import QUANT_BITS, SELECTION, Words


def entries_problems(entries: Any, words: Words) -> list[str]:
    """The problems of a whole config_list, contradictions included."""
    if not isinstance(entries, list) or not entries:
        return [f"compression.config_list: {entries!r} must be a list of entries"]
    found = [p for i, entry in enumerate(entries) for p in _entry_problems(f"config_list.{i}", entry, words)]
    if all(isinstance(entry, dict) for entry in entries):
        found += contradictions(entries, words)
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
            yield from _bits_problems(f"{where}.{key}", value)
        elif key in known:
            yield from _value_problems(f"{where}.{key}", known[key], value, key not in SELECTION)
    if entry.get("exclude") is not True:
        yield from (f"{where}: '{key}' is missing" for key in words.required if key not in entry)


def run_problems(where: str, key: str, value: Any, words: Words) -> Iterator[str]:
    """The problems of a key for the whole run, which stands at `where`."""
    if key not in words.per_run:
        hint = " (it stands in an entry of config_list)" if key in words.per_layer else nearest(key, words.per_run)
        yield f"{where}: unknown key '{key}' of '{words.name}'{hint}"
        return
    if space.is_space(value) and where != "compression":
        yield f"{where}.{key}: it holds for the whole run: give its range beside config_list"
    yield from _value_problems(f"{where}.{key}", words.per_run[key], value, True)


def _bits_problems(where: str, value: Any) -> Iterator[str]:
    """A number of weight bits, or one by quant_type."""
    if isinstance(value, dict) and not space.is_space(value):
        for kind, bits in value.items():
            if kind not in QUANT_BITS:
                yield f"{where}: unknown quant_type '{kind}'{nearest(kind, QUANT_BITS)}"
            else:
                yield from _value_problems(f"{where}.{kind}", QUANT_BITS[kind], bits, True)
    else:
        yield from _value_problems(where, QUANT_BITS["weight"], value, True)


def _value_problems(where: str, kind: Any, value: Any, may_be_space: bool) -> list[str]:
    if space.is_space(value) and may_be_space:
        return space.problems(where, value, lambda single: _mismatch(kind, single))
    problem = _mismatch(kind, value)
    return [f"{where}: {problem}"] if problem else []


def _mismatch(kind: Any, value: Any) -> str | None:
    """What is wrong with one value for a key, None where nothing is."""
    try:
        _adapter(kind).validate_python(value, strict=True)
    except ValidationError as error:
        return f"{error.errors()[0]['msg']} (given: {value!r})"
    return None


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(Annotated[kind, Field(allow_inf_nan=False)] if kind is float else kind)
