"""Records for machines: frozen dataclasses to and from JSON, written atomically, with hashes.

A file is written under a temporary name beside its place and then renamed, so that no reader sees half a file and a
failure (a full disk, a kill) leaves the previous file; `folders` does the same for folders.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from nacdeploy.base.errors import UsageError
from nacdeploy.base.folders import cannot_write
from nacdeploy.base.folders import check_writable as check_writable
from nacdeploy.base.folders import new_directory as new_directory

SCHEMA_VERSION = 1

T = TypeVar("T")


def _adapter(kind: Any) -> Any:
    return _built_adapter(kind)


@cache
def _built_adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def to_data(record: Any) -> Any:
    """Convert a frozen dataclass to plain JSON-able data."""
    return _adapter(type(record)).dump_python(record, mode="json")


def from_data(kind: type[T], data: Any, where: str = "record") -> T:
    """Build a frozen dataclass from plain data: the inverse of `to_data`.

    Raises:
        UsageError: the data does not have the fields or types of `kind`.
    """
    from pydantic import ValidationError

    try:
        return _adapter(kind).validate_python(data)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5])
        raise UsageError(f"{where} is not a valid {kind.__name__}: {problems}") from error


def read_text(path: Path) -> str:
    """Read a text file, without the byte order mark that Windows' editors put in front.

    Raises:
        OSError, UnicodeDecodeError: the file cannot be read, or is not UTF-8.
    """
    return path.read_text(encoding="utf-8-sig")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        UsageError: the file is not there or is not JSON.
    """
    try:
        return json.loads(read_text(path))
    except FileNotFoundError as error:
        raise UsageError(f"{path} does not exist") from error
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} is not readable JSON ({error})") from error


def read(kind: type[T], path: Path) -> T:
    """Read the frozen dataclass in a JSON file.

    Raises:
        UsageError: the file is not there, is not JSON or does not have the fields or types of `kind`.
    """
    return from_data(kind, read_json(path), where=str(path))


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
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
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
    """Tell whether a file is there; a text too long to be a path names none."""
    try:
        return path.is_file()
    except OSError:
        return False


def sha256_file(path: Path) -> str:
    """The sha256 of a file's bytes, in hex."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_data(data: Any) -> str:
    """The sha256 of plain data in canonical JSON (sorted keys, no spaces), in hex."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
