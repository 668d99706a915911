"""The container: a magic word, a JSON header and raw bytes. No pickle; every tensor has its checksum and is read alone.

    bytes 0-7    NACCODE and the version, one byte
    bytes 8-15   length of the header, unsigned, little-endian
    bytes 16-19  crc32 of the header
    then         the header (JSON), then the parts of all entries, in the header's order

The container holds files. A file is a text with holes: its tensors are cut out and coded, and the rest is kept
unchanged, so that decoding restores the file byte for byte.
"""

import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from nacdeploy.base import records
from nacdeploy.base.errors import NacdeployError, UsageError
from nacdeploy.base.outside import doors
from nacdeploy.coding import codec, headers
from nacdeploy.coding.codec import ITEM_BYTES, Coded, Rule, Tensor
from nacdeploy.coding.distinct import Codes
from nacdeploy.coding.sizes import HUFFMAN, PLAIN

MAGIC, VERSION = b"NACCODE", 1
_PREAMBLE = struct.Struct("<7sBQI")


@dataclass(frozen=True)
class Entry:
    """One tensor of a file, cut out at `start`: its coding, the number of bytes of each part, and the checksum of all
    parts."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    method: str
    parts: tuple[int, ...]
    crc32: int
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def n_elements(self) -> int:
        return prod(self.shape)

    @property
    def n_bytes(self) -> int:
        return sum(self.parts)


@dataclass(frozen=True)
class FileEntry:
    """One file: the bytes between its tensors (an entry of bytes), and the tensors in the order of their places."""

    path: str
    n_bytes: int
    rest: Entry
    tensors: tuple[Entry, ...]

    def entries(self) -> Iterator[Entry]:
        """Yield the rest, then the tensors: the order of their parts in the container."""
        yield self.rest
        yield from self.tensors


@dataclass(frozen=True)
class Header:
    """The content of a container."""

    files: tuple[FileEntry, ...]


@dataclass(frozen=True)
class Cut:
    """A file for `write`: the file's bytes, and its tensors by the position of their first byte."""

    path: str
    data: bytes
    tensors: tuple[tuple[int, Tensor], ...] = ()

    def rest(self) -> bytes:
        """Return the bytes between the tensors."""
        parts, end = [], 0
        for start, tensor in self.tensors:
            parts.append(self.data[end:start])
            end = start + len(tensor.data)
        return b"".join((*parts, self.data[end:]))


def write(path: Path, files: list[Cut], rules: Mapping[str, Rule] | None = None) -> Header:
    """Write a container, whole or not at all.

    `rules` are the codings of tensors by name; every other tensor gets its smallest coding.

    Raises:
        NacdeployError: a rule asks for codes that its tensor does not have, the file cannot be written, or it could not
            be read again.
    """
    entries, parts = [], []
    for file in files:
        coded = _coded(file, rules or {})
        entries.append(_file_entry(file, coded))
        parts += [part for each in coded for part in each.parts]
    header = Header(tuple(entries))
    text = json.dumps(records.to_data(header), separators=(",", ":")).encode()
    _header(text, path, sum(map(len, parts)))  # what `decode` would refuse is not written
    preamble = _PREAMBLE.pack(MAGIC, VERSION, len(text), zlib.crc32(text))
    records.write_bytes(path, [preamble, text, *parts])
    return header


def _coded(file: Cut, rules: Mapping[str, Rule]) -> list[Coded]:
    """Code the rest and the tensors of a file, and decode each again to check that nothing is lost."""
    rest = file.rest()
    first, _ = codec.encode(Tensor("", "U8", (len(rest),), rest), Rule())
    coded, like = [first], dict[str, Codes]()
    for _, tensor in file.tensors:
        found, codes = codec.encode(tensor, rules.get(tensor.name, Rule()), like)
        if codec.decode(found, tensor, {name: each.codes for name, each in like.items()}) != tensor.data:
            raise NacdeployError(f"'{tensor.name}' of {file.path} does not survive its coding: please report this")
        if codes is not None and found.method in (HUFFMAN, PLAIN):
            like[tensor.name] = codes
        coded.append(found)
    return coded


def _file_entry(file: Cut, coded: list[Coded]) -> FileEntry:
    rest = Tensor("", "U8", (len(file.rest()),), b"")
    placed = [(0, rest), *file.tensors]
    rows = [
        Entry(t.name, t.dtype, t.shape, start, c.method, tuple(map(len, c.parts)), c.crc32, c.details)
        for (start, t), c in zip(placed, coded, strict=True)
    ]
    return FileEntry(file.path, len(file.data), rows[0], tuple(rows[1:]))


class Reader:
    """An open container: reads one tensor, or one file, at a time.

    Raises:
        NacdeployError: the file is no container, is of another version, or its length contradicts its header.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO = _opened(path)
        try:
            self.header, self._offsets = self._read_header()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def file(self, entry: FileEntry) -> bytes:
        """Return a file, byte for byte."""
        rest, codes = self._decoded(entry.rest, {}), dict[str, NDArray[np.integer]]()
        parts, end, done = [], 0, 0
        referred = {row.details["of"] for row in entry.tensors if row.method == codec.LOOKUP}
        for row in entry.tensors:
            n_between = row.start - end
            data = self._decoded(row, codes, keep=row.name in referred)
            parts += [rest[done : done + n_between], data]
            done, end = done + n_between, row.start + len(data)
        whole = b"".join((*parts, rest[done:]))
        if len(whole) != entry.n_bytes:
            raise NacdeployError(f"{self.path} is damaged: {entry.path} has {len(whole)} bytes, not {entry.n_bytes}")
        return whole

    def tensor(self, entry: FileEntry, name: str) -> bytes:
        """Return one tensor's bytes; no other tensor is read, but for the one whose codes it shares."""
        rows = {row.name: row for row in entry.tensors}
        if name not in rows:
            raise NacdeployError(f"{self.path} holds no tensor '{name}' in {entry.path}")
        codes = dict[str, NDArray[np.integer]]()
        if rows[name].method == codec.LOOKUP:
            self._decoded(rows[rows[name].details["of"]], codes, keep=True)
        return self._decoded(rows[name], codes)

    def _decoded(self, row: Entry, codes: dict[str, NDArray[np.integer]], keep: bool = False) -> bytes:
        coded = Coded(row.method, row.details, self._parts(row))
        tensor = Tensor(row.name, row.dtype, row.shape, b"")
        try:
            if keep:
                codes[row.name] = codec.decode_codes(coded)
            return codec.decode(coded, tensor, codes)
        except ValueError as error:
            raise NacdeployError(f"{self.path} is damaged: '{row.name}' cannot be decoded ({error})") from error

    def _parts(self, row: Entry) -> tuple[bytes, ...]:
        self._file.seek(self._offsets[id(row)])
        parts = tuple(self._file.read(n) for n in row.parts)
        if zlib.crc32(b"".join(parts)) != row.crc32:
            raise NacdeployError(f"{self.path} is damaged: the checksum of '{row.name or 'a file'}' is another")
        return parts

    def _read_header(self) -> tuple[Header, dict[int, int]]:
        preamble = self._file.read(_PREAMBLE.size)
        if len(preamble) < _PREAMBLE.size or preamble[:7] != MAGIC:
            raise NacdeployError(f"{self.path} is no container of 'nacdeploy encode', or its beginning is lost")
        _, version, length, crc32 = _PREAMBLE.unpack(preamble)
        if version != VERSION:
            raise NacdeployError(f"{self.path} is a container of version {version}; this nacdeploy reads {VERSION}")
        n_bytes = self.path.stat().st_size
        text = self._file.read(min(length, n_bytes))
        if zlib.crc32(text) != crc32:
            raise NacdeployError(f"{self.path} is damaged: the checksum of its header is another; copy it again")
        header = _header(text, self.path, n_bytes)
        offsets, end = {}, _PREAMBLE.size + length
        for row in (row for file in header.files for row in file.entries()):
            offsets[id(row)] = end
            end += row.n_bytes
        if end != n_bytes:
            raise NacdeployError(f"{self.path} has {n_bytes} bytes instead of {end}: it was cut off; copy it again")
        return header, offsets


def _header(text: bytes, path: Path, n_packed: int) -> Header:
    """Read the header of a container and check every number in it.

    Raises:
        NacdeployError: it is none, or what it says cannot be.
    """
    where = f"the header of {path}"
    header: Header = records.from_data(Header, doors.json_of(text, where), where)
    headers.check_names((file.path for file in header.files), str(path))
    for file in header.files:
        _check_places(file, path)
        for row in file.entries():
            try:
                headers.check_entry(row.method, row.details, row.shape, ITEM_BYTES.get(row.dtype, 0), row.parts)
            except UsageError as error:
                raise UsageError(f"{where}: '{row.name[:80]}' of {file.path}: {error}") from error
    headers.check_total(sum(file.n_bytes for file in header.files), n_packed, str(path))
    return header


def _check_places(file: FileEntry, path: Path) -> None:
    """Check that the tensors of a file lie in it one after the other, and that tensors and rest fill the file."""
    end, coded = 0, dict[str, int]()
    for row in file.tensors:
        n_bytes = row.n_elements * ITEM_BYTES.get(row.dtype, 0)
        if row.start < end or not n_bytes or row.name in coded:
            raise UsageError(f"the header of {path}: '{row.name[:80]}' of {file.path} stands where none can")
        of = row.details.get("of")
        if row.method == codec.LOOKUP and coded.get(str(of)) != row.n_elements:
            raise UsageError(
                f"the header of {path}: '{row.name[:80]}' of {file.path} refers to what is no tensor of codes"
            )
        coded[row.name] = row.n_elements if row.method in (HUFFMAN, PLAIN) else -1
        end = row.start + n_bytes
    n_rest = file.rest.n_elements
    n_tensors = sum(row.n_elements * ITEM_BYTES[row.dtype] for row in file.tensors)
    if end > file.n_bytes or n_rest + n_tensors != file.n_bytes or file.rest.dtype != "U8":
        raise UsageError(
            f"the header of {path}: {file.path} has {file.n_bytes} bytes, and its parts {n_rest + n_tensors}"
        )


def _opened(path: Path) -> BinaryIO:
    try:
        doors.check_file(path)
        return path.open("rb")
    except OSError as error:
        raise NacdeployError(f"{path} cannot be read: {error.strerror}") from error
