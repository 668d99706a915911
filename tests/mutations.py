"""Hostile files made from valid ones: damage by chance, and the work of somebody who knows the format.

`mutated(content, form, draw)` changes a file in one way that `draw` picks. Damage in bytes comes in every form; in a
text of values one of them, or a key, is changed as well. `LETHAL` are the changes that no reader may take whatever they
stand for.
"""

import json
import random
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nacdeploy.base.errors import NacdeployError, UnexpectedError

DEEP = 100_000
_DEEP_MARK, _HUGE_MARK = "@deep@", "@huge@"
# Values that no record may hold, wherever they stand; then values that are of another type, or out of any range.
LETHAL: tuple[Any, ...] = (2**63, -(2**70), float("nan"), float("inf"), _HUGE_MARK, "\0", "a\ud800", _DEEP_MARK)
ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 5.5, 10**12, 1e308, "", "@@@", "../../x", "/x", "x" * 3000, [], {}, [[]], {"a": 1}),
    *("evil.py:make", "evil.py", "evil", "evil:make"),  # code that only a record names
)
# What nobody foresaw when it is raised, also where it hides behind a line of ours.
FAULTS = (
    AttributeError,
    AssertionError,
    IndexError,
    KeyError,
    NameError,
    RecursionError,
    TypeError,
    ZeroDivisionError,
    MemoryError,
    StopIteration,
)


@dataclass(frozen=True)
class Mutation:
    """A changed file, how it was changed, whether no reader may take it, and whether its bytes alone were changed, as
    by chance, so that a hash detects it."""

    content: bytes
    name: str
    is_lethal: bool = False
    is_damage: bool = False


def mutated(content: bytes, form: str, draw: random.Random, other: bytes = b"") -> Mutation:
    """Return a file of a form (`json`, `jsonl`, `toml`, `yaml`, `text`, `container`, `safetensors`, `bytes`) changed in
    one way; `other` is a file of another kind, to stand in its place."""
    ways: list[Callable[..., Mutation]] = [_damaged, _cut_off, _replaced]
    ways += {"json": [_tree] * 6, "jsonl": [_row] * 6}.get(form, [])
    ways += {"toml": [_line] * 6, "yaml": [_line] * 6, "text": [_word] * 6}.get(form, [])
    ways += {"container": [_container] * 6, "safetensors": [_safetensors] * 6}.get(form, [])
    way = draw.choice(ways)
    return way(content, draw, other) if way is _replaced else way(content, draw)


def fault(error: BaseException) -> str | None:
    """Return why an exception is a traceback, or was one before a handler caught it; None for a line on purpose."""
    if not isinstance(error, NacdeployError):
        return f"{type(error).__name__}: {error}"
    if isinstance(error, UnexpectedError):
        return f"unexpected: {error}"
    if "\n" in str(error).strip():
        return f"more than a line: {error}"
    cause = error.__cause__
    if isinstance(cause, FAULTS) and not isinstance(cause, RecursionError):
        return f"caught by a net: {type(cause).__name__}: {cause}: {error}"
    return None


def _damaged(content: bytes, draw: random.Random) -> Mutation:
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 3, 40))):
        if changed:
            changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return Mutation(bytes(changed), "bits flipped", is_damage=True)


def _cut_off(content: bytes, draw: random.Random) -> Mutation:
    return Mutation(content[: draw.randrange(len(content) or 1)], "cut off", is_damage=True)


def _replaced(content: bytes, draw: random.Random, other: bytes) -> Mutation:
    at = draw.randrange(len(content) or 1)
    return draw.choice(
        (
            Mutation(b"", "empty"),
            Mutation(other, "another kind"),
            Mutation(b"[" * DEEP, "brackets"),
            Mutation(b'{"a":' * DEEP, "objects"),
            Mutation(b"a = " + b"[" * DEEP, "arrays of TOML"),
            Mutation(content[:at] + bytes(64) + content[at:], "zeros within", is_damage=True),
            Mutation(content[:at] + content[at // 2 :], "a part twice", is_damage=True),
            Mutation(b"\xff\xfe" + content, "another encoding"),
            Mutation(content + content, "twice"),
        )
    )


def _tree(content: bytes, draw: random.Random) -> Mutation:
    changed, name, is_lethal = tree(json.loads(content), draw)
    return Mutation(written(changed).encode(), name, is_lethal)


def _row(content: bytes, draw: random.Random) -> Mutation:
    lines = content.splitlines(keepends=True)
    at = draw.randrange(len(lines))
    changed, name, is_lethal = tree(json.loads(lines[at]), draw)
    lines[at] = written(changed, indent=None).encode() + b"\n"
    is_torn = at == len(lines) - 1  # the last line of a journal may be half of one
    return Mutation(b"".join(lines), f"row {at}: {name}", is_lethal and not is_torn)


def tree(data: Any, draw: random.Random) -> tuple[Any, str, bool]:
    """Return plain data with one value or key changed, the kind of change, and whether no reader may take them."""
    if not isinstance(data, dict | list) or not data:
        return draw.choice(LETHAL), "all of it", True
    owner, key = _place(data, draw)
    if isinstance(owner, dict) and draw.random() < 0.25:
        way = draw.choice(("unknown", "lost", "misspelt", "schema"))
        if way == "unknown":
            owner["unknwon"] = 1
        elif way == "lost":
            del owner[key]
        elif way == "misspelt":
            owner[f"{key}x"] = owner.pop(key)
        elif isinstance(data, dict) and "schema" in data:
            data["schema"] = 99
        return data, f"key {key} {way}", way == "schema" and isinstance(data, dict) and data.get("schema") == 99
    value = draw.choice((*LETHAL, *ODD, *ODD))
    owner[key] = value
    return data, f"{key} is {str(value)[:20]!a}", any(value is each for each in LETHAL)


def _place(data: Any, draw: random.Random) -> tuple[Any, Any]:
    """An object or list of plain data and one of its keys; the deeper ones as likely as the others."""
    owner = data
    while True:
        key = draw.choice(list(owner) if isinstance(owner, dict) else range(len(owner)))
        inner = owner[key]
        if not isinstance(inner, dict | list) or not inner or draw.random() < 0.15:
            return owner, key
        owner = inner


def written(data: Any, indent: int | None = 1) -> str:
    """Return JSON that nobody should write: also with non-numbers, and with endless nesting."""
    text = json.dumps(data, indent=indent)
    return text.replace(f'"{_DEEP_MARK}"', "[" * DEEP + "]" * DEEP).replace(f'"{_HUGE_MARK}"', "1e999")


_LITERALS = (
    *(
        "nan",
        "-inf",
        "9" * 40,
        "-1",
        "0",
        "1e308",
        '"\\u0000"',
        '""',
        '"@@@"',
        "true",
        "[]",
        "{}",
        "[[1]]",
        "1979-05-27",
    ),
    *("[" * DEEP, '"' + "x" * 3000 + '"', "0x7fffffffffffffffff", "&a [*a, *a]", "!!python/object:os.system x"),
)


def _line(content: bytes, draw: random.Random) -> Mutation:
    """Return a line of TOML or YAML with another value, another key, twice, or gone."""
    lines = content.decode().splitlines()
    at = draw.choice([i for i, line in enumerate(lines) if line.strip()] or [0])
    key, mark, _ = (
        re.split(r"([=:]\s?)", lines[at], maxsplit=1) if re.search("[=:]", lines[at]) else (lines[at], "", "")
    )
    value = draw.choice(_LITERALS)
    changed = draw.choice((f"{key}{mark}{value}",) * 5 + (f"{key}x{mark}{value}", f"{lines[at]}\n{lines[at]}", ""))
    return Mutation("\n".join([*lines[:at], changed, *lines[at + 1 :], ""]).encode(), f"line {at}: {changed[:30]}")


def _word(content: bytes, draw: random.Random) -> Mutation:
    """Return a text with one word replaced."""
    words = re.split(r"(\s+)", content.decode())
    at = draw.randrange(0, len(words), 2)
    value = draw.choice(("nan", "inf", "1e308", "9" * 40, "-1", "0", "", "(a+)+$", "[", "\0", "x" * 3000, "1,2,3", "*"))
    return Mutation("".join([*words[:at], value, *words[at + 1 :]]).encode(), f"word {at} is {value[:20]}")


def _container(content: bytes, draw: random.Random) -> Mutation:
    """Return a container whose header is another one, with the right length and checksum."""
    start = struct.calcsize("<7sBQI")
    length = int.from_bytes(content[8:16], "little")
    changed, name, is_lethal = tree(json.loads(content[start : start + length]), draw)
    text = written(changed, indent=None).encode()
    preamble = struct.pack("<7sBQI", content[:7], content[7], len(text), zlib.crc32(text))
    return Mutation(preamble + text + content[start + length :], name, is_lethal)


def _safetensors(content: bytes, draw: random.Random) -> Mutation:
    length = int.from_bytes(content[:8], "little")
    changed, name, _ = tree(json.loads(content[8 : 8 + length]), draw)
    text = written(changed, indent=None).encode()
    return Mutation(len(text).to_bytes(8, "little") + text + content[8 + length :], name)
