"""The door that every file from elsewhere comes through: a regular file, no larger than declared, plain data.

`LIMITS` is the one table of limits. A limit that is too low for a file of yours is raised by name:
`NACDEPLOY_LIMITS="record_mib=256"`, or `limits = "record_mib=256"` in nacdeploy.toml.
"""

import json
import os
import re
import stat
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol

from nacdeploy.base.errors import UsageError, unknown

VARIABLE = "NACDEPLOY_LIMITS"
_MIB = 2**20
_SPOILT = re.compile("[\0\ud800-\udfff]")  # what no file name, no UTF-8 and no C string can hold
_LARGEST = 2**63


class Stream(Protocol):
    """A source that is read in pieces.

    >>> from io import BytesIO
    >>> stream: Stream = BytesIO(b"content")
    >>> stream.read(3), stream.read(9)
    (b'con', b'tent')
    """

    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True)
class Limits:
    """The limits of a file, by key.

    Attributes:
        record_mib: a JSON record or a journal.
        text_kib: a file that people write: TOML, YAML, rules, class names.
        values: the values in a record.
        depth: how deep they may be nested.
        weights_mib: a file of weights, or of a graph.
        unpacked_mib: the unpacked size of compressed data of any size; more is taken up to `unpacked_ratio` times that
            size.
        unpacked_ratio: see `unpacked_mib`.
        pattern_steps: the steps of all patterns of a rule file on one name, at worst.
        chain: the letters of a chain, and their parameters, as characters.
        pixels: the pixels of an image, of all channels.
        network_pixels: the same of the images that a network takes by its record.
        network_mib: the weights of a network that a record describes; more is taken up to `network_ratio` times the
            weights that lie beside it.
        network_ratio: see `network_mib`.
    """

    record_mib: float = 64
    text_kib: float = 512
    values: float = 2e6
    depth: float = 64
    weights_mib: float = 65536
    unpacked_mib: float = 256
    unpacked_ratio: float = 256
    pattern_steps: float = 2e6
    chain: float = 10_000
    pixels: float = 2e8
    network_pixels: float = 2**24
    network_mib: float = 384
    network_ratio: float = 64


_raised: dict[str, float] = {}  # by nacdeploy.toml


def limits() -> Limits:
    """Return the limits in force.

    Raises:
        UsageError: the variable names no limit, or holds no number.
    """
    return replace(Limits(), **{**_raised, **_parsed(os.environ.get(VARIABLE, ""), VARIABLE)})


def raise_limits(text: str, where: str) -> None:
    """Take limits from a user's own file of options.

    Raises:
        UsageError: it names no limit, or holds no number.
    """
    _raised.update(_parsed(text, where))


def _parsed(text: str, where: str) -> dict[str, float]:
    known = {field.name for field in fields(Limits)}
    found: dict[str, float] = {}
    for part in filter(None, re.split(r"[\s,]+", text)):
        key, _, value = part.partition("=")
        if key not in known:
            raise unknown(f"limit in {where}", key, known)
        try:
            found[key] = float(value)
        except ValueError as error:
            raise UsageError(f"{where}: '{part}' is no limit such as record_mib=256") from error
    return found


def above(what: str, size: str, key: str) -> UsageError:
    """Return the error for a file above its limit."""
    return UsageError(f"{what} {size}, more than the limit {key}={getattr(limits(), key):g} of files; {raising(key)}")


def raising(key: str) -> str:
    """Return the advice that raises a limit."""
    return f"if it is yours, raise it: {VARIABLE}={key}=N"


def read_bytes(path: Path, key: str = "weights_mib") -> bytes:
    """Read a regular file within the limit of that key.

    Raises:
        UsageError: it is no regular file (a device, a pipe, a folder), or larger.
        OSError: it cannot be read.
    """
    most = _n_bytes(key)
    if not stat.S_ISREG(path.stat().st_mode):  # asked before: opening a pipe waits for its other end
        raise UsageError(f"{path} is no regular file; give a file")
    with path.open("rb") as file:
        content = file.read(int(most) + 1) if most < os.fstat(file.fileno()).st_size else file.read()
    if len(content) > most:
        raise above(str(path), f"has more than {most:g} bytes", key)
    return content


def check_file(path: Path, key: str = "weights_mib") -> None:
    """Check like `read_bytes`, for a file that other code opens.

    Raises:
        UsageError: it is no regular file, or larger.
        OSError: it is not there.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise UsageError(f"{path} is no regular file; give a file")
    if found.st_size > _n_bytes(key):
        raise above(str(path), f"has {found.st_size} bytes", key)


def _n_bytes(key: str) -> float:
    return getattr(limits(), key) * (1024 if key.endswith("_kib") else _MIB)


def read_text(path: Path, key: str = "text_kib") -> str:
    """Read a text file, without the byte order mark that Windows' editors put in front.

    Raises:
        UsageError: it is no regular file, larger than the limit of `key`, or not UTF-8.
        OSError: it cannot be read.
    """
    try:
        return read_bytes(path, key).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text ({error})") from error


def unpacked(stream: Stream, n_packed: int, where: str, n_bytes: int | None = None) -> bytes:
    """Unpack a stream of compressed data in pieces; `n_bytes` is the size that the data state.

    Raises:
        UsageError: it becomes more than it says, or more than the limit.
    """
    most = unpacked_limit(n_packed)
    if n_bytes is not None and n_bytes > most:
        raise above(where, f"says that it unpacks to {n_bytes} bytes", "unpacked_mib")
    most = most if n_bytes is None else n_bytes
    parts, n = [], 0
    while part := stream.read(_MIB):
        parts.append(part)
        n += len(part)
        if n > most:
            if n_bytes is not None:
                raise UsageError(f"{where} unpacks to more than the {n_bytes} bytes that it says")
            raise above(where, f"unpacks to more than {most:g} bytes", "unpacked_mib")
    return b"".join(parts)


def unpacked_limit(n_packed: int) -> float:
    """Return the number of bytes that compressed data of a size may become."""
    now = limits()
    return max(now.unpacked_mib * _MIB, now.unpacked_ratio * n_packed)


def check_pixels(n_pixels: int, where: str, key: str = "pixels") -> None:
    """Check the size of an image, of all its channels, before it takes memory.

    Raises:
        UsageError: it is larger than the limit.
    """
    if n_pixels > getattr(limits(), key):
        raise above(where, f"has images of {n_pixels} pixels in all channels", key)


def json_of(content: bytes | str, where: str) -> Any:
    """Return the plain data of JSON: finite numbers that fit 64 bits, writable names, no deeper than the limit.

    Raises:
        UsageError: it is none.
    """
    return parsed(content, where, "JSON", lambda text: json.loads(text, **_STRICT))


def toml_of(content: str, where: str) -> dict[str, Any]:
    """Return the plain data of TOML, within the bounds of `json_of`.

    Raises:
        UsageError: it is none.
    """
    found: dict[str, Any] = parsed(content, where, "TOML", tomllib.loads)
    return found


def parsed(content: bytes | str, where: str, form: str, parse: Callable[[Any], Any]) -> Any:
    """Return the plain data that `parse` makes of text, within the limits.

    Raises:
        UsageError: it is no such text, or not within the limits.
    """
    with _readable(where, form):
        marks = (b",", b"[", b"{", b"\n-") if isinstance(content, bytes) else (",", "[", "{", "\n-")
        if sum(map(content.count, marks)) > limits().values:  # type: ignore[arg-type]
            raise above(where, "holds too many values", "values")
        if form == "YAML" and _depth(str(content)) > limits().depth:  # its reader takes seconds to find it out
            raise above(where, "is nested too deeply", "depth")
        found = parse(content)
        check_plain(found, where)
    return found


def _depth(text: str) -> int:
    """Return how deep brackets are nested in a text."""
    depth = most = 0
    for bracket in re.findall(r"[\[\]{}]", text):
        depth = max(0, depth + (1 if bracket in "[{" else -1))
        most = max(most, depth)
    return most


@contextmanager
def _readable(where: str, form: str) -> Iterator[None]:
    try:
        yield
    except RecursionError as error:
        raise above(where, "is nested too deeply", "depth") from error
    except ValueError as error:
        raise UsageError(f"{where} is not readable {form}: {' '.join(str(error).split())[:200]}") from error


def check_plain(data: Any, where: str) -> None:
    """Check that plain data can be written, printed and computed with.

    Raises:
        UsageError: they are nested too deeply, too many, or hold a name or number that no record can.
    """
    now, n_left, depth = [data], limits().values, 0
    while now:
        depth, n_left = depth + 1, n_left - len(now)
        if depth > limits().depth:
            raise above(where, "is nested too deeply", "depth")
        if n_left < 0:
            raise above(where, "holds too many values", "values")
        inner: list[Any] = []
        for each in now:
            kind = type(each)
            if kind is dict:
                inner += each.keys()
                inner += each.values()
            elif kind is list or kind is tuple:
                inner += each
            elif kind is not int or not -_LARGEST <= each < _LARGEST:  # most are small integers
                _check_value(each, where)
        now = inner


def _check_value(value: Any, where: str) -> None:
    if isinstance(value, str):
        if _SPOILT.search(value):
            raise UsageError(f"{where} holds a text with NUL or half a character, {value[:40]!a}; nothing is called so")
    elif isinstance(value, bool):
        return
    elif isinstance(value, int):
        if not -_LARGEST <= value < _LARGEST:
            raise UsageError(f"{where} holds an integer of {value.bit_length()} bits; 64 are possible")
    elif isinstance(value, float) and not -float("inf") < value < float("inf"):
        raise UsageError(f"{where} holds {value}, which is no finite number")


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is no finite number")


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object with unique keys: of two equal keys the last would count, but readers see the first."""
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:60]!a} stands twice")
    return found


_STRICT: dict[str, Any] = {
    "parse_constant": _no_constant,
    "object_pairs_hook": _without_twins,
}
