"""The form of a container's header: the numbers for decoding tensors, checked before any memory is taken.

A header comes from anybody. Every count in it is checked against its tensor and against the bytes that are there. The
files to restore, and their names, are known before the first of them is written.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import Field

from nacdeploy.base import records
from nacdeploy.base.errors import NacdeployError, UsageError
from nacdeploy.base.outside import doors
from nacdeploy.coding.run_lengths import MAX_BITS

Count = Annotated[int, Field(ge=0)]
Width = Annotated[int, Field(ge=0, le=MAX_BITS)]
_WIDEST = 8 * 2**40  # bytes; no tensor is larger
_LONGEST_NAME = 255  # of a part of a path, by most file systems


@dataclass(frozen=True)
class Stored:
    """Details of bytes that are kept as they are, or through zstd."""

    n_bytes: Count
    item_bytes: Literal[1, 2, 4, 8] = 1


@dataclass(frozen=True)
class Constant:
    """Details of a tensor of one value: none."""


@dataclass(frozen=True)
class LookedUp:
    """Details of a function of another tensor's codes."""

    of: str
    item_bytes: Literal[1, 2, 4, 8]


@dataclass(frozen=True, kw_only=True)
class CodedAs:
    """Details of codes and zero runs."""

    n: Count
    n_values: Count
    width: Width
    shift: Literal[0, 1]
    item_bytes: Literal[1, 2, 4, 8]
    run_bits: Width
    runs: Literal["huffman", "plain"]
    n_runs: Count
    bits: Annotated[int, Field(ge=1, le=16)] = 1
    int_bits: Annotated[int, Field(ge=-1100, le=1100)] = 0


# By method: the details, and the number of parts.
_METHODS: dict[str, tuple[type, int]] = {
    **dict.fromkeys(("raw", "zstd", "planes"), (Stored, 1)),
    "constant": (Constant, 1),
    "lookup": (LookedUp, 1),
    **dict.fromkeys(("huffman", "plain", "fixed_point"), (CodedAs, 5)),
}


def check_entry(
    method: str, details: Mapping[str, Any], shape: tuple[int, ...], item_bytes: int, parts: tuple[int, ...]
) -> None:
    """Check what a header says of one tensor, or of the rest of a file.

    Raises:
        UsageError: the numbers contradict each other.
    """
    if method not in _METHODS:
        raise UsageError(f"its coding '{method[:40]}' is not known")
    kind, n_parts = _METHODS[method]
    found: Any = records.from_data(kind, dict(details), "its coding")
    n = prod(shape)
    if any(length < 0 for length in shape) or n * item_bytes > _WIDEST:
        raise UsageError(f"it has the shape {shape}")
    if len(parts) != n_parts or any(part < 0 for part in parts):
        raise UsageError(f"it has {len(parts)} parts, of {parts} bytes")
    if isinstance(found, Stored) and found.n_bytes != n * item_bytes:
        raise UsageError(f"it has {found.n_bytes} bytes, and its shape {shape} takes {n * item_bytes}")
    if isinstance(found, CodedAs):
        _check_codes(found, n, method)


def _check_codes(found: CodedAs, n: int, method: str) -> None:
    """Check the number of codes and of runs against the number of elements."""
    if found.n != n or found.n_values > n or (not found.run_bits and found.n_values != n):
        raise UsageError(f"it has {found.n_values} codes for {n} elements")
    if found.run_bits == 1 or found.n_runs > n or (not found.run_bits and found.n_runs):
        raise UsageError(f"it has {found.n_runs} runs of {found.run_bits} bits for {n} elements")
    if method == "fixed_point" and found.width != found.bits:
        raise UsageError(f"it has codes of {found.width} bits for numbers of {found.bits}")


def check_names(names: Iterable[str], where: str) -> None:
    """Check that files can be restored under these names into one folder, none in the place of another.

    Raises:
        NacdeployError: one stands twice, lies outside the folder, is a folder of another, or cannot be a name.
    """
    taken: set[str] = set()
    folders: set[str] = set()
    for name in names:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise NacdeployError(f"{where} names '{name[:200]}', which lies outside the folder to write")
        if str(path) != name or name in ("", ".") or any(len(p.encode()) > _LONGEST_NAME for p in path.parts):
            raise NacdeployError(f"{where} names a file {name[:60]!a}, and none can be called so")
        if name in taken:
            raise NacdeployError(f"{where} names '{name[:200]}' twice, and one would be lost")
        taken.add(name)
        folders |= {str(parent) for parent in path.parents}
    if both := taken & folders:
        raise NacdeployError(f"{where} names '{min(both)[:200]}' as a file and as a folder")


def check_total(n_bytes: int, n_packed: int, where: str) -> None:
    """Check the size of the restored files.

    Raises:
        UsageError: more than the limit of what compressed data may become.
    """
    if n_bytes > doors.unpacked_limit(n_packed):
        raise doors.above(where, f"becomes {n_bytes} bytes", "unpacked_mib")
