"""Records for machines: frozen dataclasses to and from JSON, written atomically, with hashes.

A file is written under a temporary name beside its place and then renamed, so that no reader sees half a file and a
failure (a full disk, a kill) leaves the previous file; `folders` does the same for folders.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from nacdeploy.base.errors import UsageError, nearest
from nacdeploy.base.folders import cannot_write
from nacdeploy.base.folders import check_writable as check_writable
from nacdeploy.base.folders import new_directory as new_directory
from nacdeploy.base.outside import doors
from nacdeploy.base.scores import SCHEMAS

SCHEMA_VERSION = SCHEMAS[0]

T = TypeVar("T")


def _adapter(kind: Any) -> Any:
    return _built_adapter(kind)


@cache
def _built_adapter(kind: Any) -> Any:
    from pydantic import ConfigDict, TypeAdapter

    for each in _dataclasses(kind, set()):
        if not hasattr(each, "__pydantic_config__"):
            each.__pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)
    return TypeAdapter(kind)


def _dataclasses(kind: Any, seen: set[Any]) -> Iterator[Any]:
    """Yield the dataclasses in a type."""
    if isinstance(kind, type) and is_dataclass(kind) and kind not in seen:
        seen.add(kind)
        yield kind
        for hint in get_type_hints(kind).values():
            yield from _dataclasses(hint, seen)
    for part in get_args(kind):
        yield from _dataclasses(part, seen)


def to_data(record: Any) -> Any:
    """Convert a frozen dataclass to plain JSON-able data."""
    return _adapter(type(record)).dump_python(record, mode="json")


def from_data(kind: type[T], data: Any, where: str = "record") -> T:
    """Build a frozen dataclass from plain data: the inverse of `to_data`.

    Raises:
        UsageError: the data do not have the fields or types of `kind`; unknown keys are named.
    """
    from pydantic import ValidationError

    try:
        return _adapter(kind).validate_python(data)
    except ValidationError as error:
        problems = "; ".join(_explain(problem, kind) for problem in error.errors()[:5])
        name = getattr(kind, "__name__", str(kind))
        raise UsageError(f"{where} is not a valid {name}: {problems}") from error


def _explain(problem: Any, kind: Any) -> str:
    where = ".".join(map(str, problem["loc"]))
    if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        known = _keys_of(kind, problem["loc"][:-1])
        return f"unknown key '{where}'{nearest(str(problem['loc'][-1]), known) if known else ''}"
    return f"{where}: {problem['msg']}"


def _keys_of(kind: Any, path: tuple[Any, ...]) -> list[str]:
    """Return the keys of the record at a path within another; none if its type is not stated."""
    for key in path:
        kind = get_type_hints(kind).get(str(key)) if is_dataclass(kind) else None
    return list(kind.__dataclass_fields__) if is_dataclass(kind) else []


def read_text(path: Path) -> str:
    """Read a text file that people write (see `doors.read_text`).

    Raises:
        OSError: the file cannot be read.
        UsageError: the file is no regular file, too large, or not UTF-8.
    """
    return doors.read_text(path)


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        UsageError: the file is not there or is not JSON within the limits.
    """
    try:
        return doors.json_of(doors.read_text(path, "record_mib"), str(path))
    except FileNotFoundError as error:
        raise UsageError(f"{path} does not exist") from error
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} is not readable JSON ({error})") from error


def read(kind: type[T], path: Path) -> T:
    """Read the frozen dataclass in a JSON file.

    Raises:
        UsageError: the file is not there, is not JSON, does not have the fields or types of `kind`, or is of a schema
            that this version does not know.
    """
    data = read_json(path)
    check_schema(kind, data, path)
    return from_data(kind, data, where=str(path))


def check_schema(kind: Any, data: Any, path: Path) -> None:
    """Check the schema number of a record that holds one.

    Raises:
        UsageError: this version does not read that schema.
    """
    if "schema" not in getattr(kind, "__dataclass_fields__", {}) or not isinstance(data, dict):
        return
    schema = data.get("schema", SCHEMA_VERSION)
    if isinstance(schema, bool) or schema not in SCHEMAS:
        raise UsageError(f"{path} has schema {schema!r}; this nacdeploy reads {SCHEMAS[0]} to {SCHEMAS[-1]}")


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all.

    Raises:
        NacdeployError: the directory is not writable or full.
    """
    write_bytes(path, [text.encode()])


def write_bytes(path: Path, parts: Iterable[bytes]) -> None:
    """Write a file of some parts whole or not at all.

    Raises:
        NacdeployError: the directory is not writable or full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".nacdeploy-{path.name[:60]}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.writelines(parts)
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise cannot_write(path, error) from error


def write_json(path: Path, data: Any) -> None:
    """Write plain data or a frozen dataclass as JSON, whole or not at all."""
    write_text(path, _json_text(data))


def json_bytes(data: Any) -> bytes:
    """Encode plain data or a frozen dataclass as the content of a JSON file."""
    return _json_text(data).encode()


def _json_text(data: Any) -> str:
    plain = to_data(data) if hasattr(data, "__dataclass_fields__") else data
    return json.dumps(plain, indent=1, sort_keys=False, allow_nan=False) + "\n"


def is_file(path: Path) -> bool:
    """Tell whether a file is there; a text that cannot be a path (too long, with NUL) names none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def exists(path: Path) -> bool:
    """Tell whether something is there; a text that cannot be a path names nothing."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def sha256_file(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hex."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_data(data: Any) -> str:
    """Return the sha256 of plain data in canonical JSON (sorted keys, no spaces), in hex."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
