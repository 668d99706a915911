"""An artifact as one tar: the same artifact gives the same bytes, and anybody's tar is read without harm.

A tar holds the manifest and the files that it names, in a fixed order, under one folder, with no owner, mode or time of
the copy at hand. It is not compressed, so that its size bounds what unpacks. Files that the manifest does not name have
no checksum; they are left out.
"""

import hashlib
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from nacdeploy.base.errors import NacdeployError, UsageError
from nacdeploy.base.outside import doors
from nacdeploy.exporters.artifacts import artifact
from nacdeploy.exporters.artifacts.artifact import MANIFEST, Manifest

TOP = "artifact"
_BLOCK, _RECORD, _PIECE = tarfile.BLOCKSIZE, tarfile.RECORDSIZE, 2**20
_MOST_FILES = 10_000


def parts(folder: Path, manifest: Manifest) -> Iterator[bytes]:
    """Yield the bytes of a tar in pieces; every file is held against its hash once more on the way.

    Raises:
        NacdeployError: a file has changed since the artifact was checked, or has a name that no plain tar holds.
    """
    n_bytes = 0
    for name in names(manifest):
        size = (folder / name).stat().st_size
        yield _header(name, size)
        yield from _content(folder / name, size, manifest.files.get(name))
        yield bytes(-size % _BLOCK)
        n_bytes += _BLOCK + size + -size % _BLOCK
    end = 2 * _BLOCK
    yield bytes(end + -(n_bytes + end) % _RECORD)


def names(manifest: Manifest) -> tuple[str, ...]:
    """Return the names of the files that are shipped: the manifest, then all that it names."""
    return MANIFEST, *sorted(manifest.files)


def left_out(folder: Path, manifest: Manifest) -> tuple[str, ...]:
    """Return the names of files in an artifact's folder that its manifest does not name."""
    return tuple(sorted(_files(folder) - {*names(manifest)}))


def unpack(path: Path, folder: Path) -> Path:
    """Unpack a tar of an artifact into an empty folder, and return the artifact's folder in it.

    Raises:
        UsageError: it is no tar of plain files, leads out of the folder, or holds no artifact or more than one.
        NacdeployError: it is cut short.
    """
    doors.check_file(path)
    with path.open("rb") as file:
        for name, size in _members(file, path):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            with (folder / name).open("xb") as place:
                _copy(file, place, size)
    roots = [each for each in (folder, *sorted(folder.iterdir())) if artifact.is_artifact(each)]
    if len(roots) != 1:
        found = "no artifact" if not roots else "more than one artifact"
        raise UsageError(f"{path} holds {found}; give the tar that 'nacdeploy package' wrote")
    return roots[0]


def check_complete(folder: Path, root: Path, manifest: Manifest, path: Path) -> None:
    """Check that an unpacked tar holds nothing but the artifact: what the manifest does not name has no hash.

    Raises:
        UsageError: it holds more; the text names it.
    """
    known = {(root / name).relative_to(folder).as_posix() for name in names(manifest)}
    if more := sorted(_files(folder) - known):
        raise UsageError(f"{path} holds '{more[0][:200]}', which its {MANIFEST} does not name: it has no hash")


def _header(name: str, size: int) -> bytes:
    about = tarfile.TarInfo(f"{TOP}/{name}")  # no owner, time 0 and mode 644, whatever the file at hand has
    about.size = size
    header = about.tobuf(tarfile.GNU_FORMAT)
    if len(header) != _BLOCK:
        raise NacdeployError(f"the name '{name[:200]}' is too long for a tar; give the file a name of 80 letters")
    return header


def _content(path: Path, size: int, expected: str | None) -> Iterator[bytes]:
    digest, n_read = hashlib.sha256(), 0
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
            n_read += len(piece)
            yield piece
    if n_read != size or expected not in (None, digest.hexdigest()):
        raise NacdeployError(f"{path} has changed while it was packed; run the command again")


@dataclass
class _Seen:
    """The files of a tar so far, and the folders that they lie in."""

    path: Path
    files: set[PurePosixPath] = field(default_factory=set)
    folders: set[PurePosixPath] = field(default_factory=set)

    def add(self, text: str) -> str:
        """Return the name of the next file, below the folder that it is unpacked into."""
        name = PurePosixPath(text)
        if name.is_absolute() or ".." in name.parts or not name.parts or "\\" in text or not text.isprintable():
            raise UsageError(f"{self.path} names {text[:200]!a}, which lies outside the artifact")
        if name in self.files or name in self.folders or not self.files.isdisjoint(name.parents):
            raise UsageError(f"{self.path} holds '{text[:200]}' twice, and readers differ in which one they see")
        if len(self.files) == _MOST_FILES:
            raise UsageError(f"{self.path} holds more than {_MOST_FILES} files, which is no artifact")
        self.files.add(name)
        self.folders.update(name.parents)
        return name.as_posix()


def _members(file: BinaryIO, path: Path) -> Iterator[tuple[str, int]]:
    """Yield the names and sizes of the files of a tar, with the stream at the first byte of each.

    Headers are read one block at a time: no header makes this read or allocate what it says.
    """
    seen, position, n_bytes = _Seen(path), 0, path.stat().st_size
    while (block := file.read(_BLOCK)) != bytes(_BLOCK):
        about = _about(block, path)
        position += _BLOCK
        if not 0 <= about.size <= n_bytes - position:
            raise NacdeployError(f"{path} is cut short: '{about.name[:200]}' ends behind it; copy it again")
        if not about.isdir():
            yield seen.add(about.name), about.size
        position += about.size + -about.size % _BLOCK
        file.seek(position)
    while piece := file.read(_PIECE):
        if piece.strip(b"\0"):
            raise UsageError(f"{path} holds something behind its end, which readers see or not; package it again")


def _about(block: bytes, path: Path) -> tarfile.TarInfo:
    if len(block) < _BLOCK:
        raise NacdeployError(f"{path} is cut short, or no tar; copy it again, or write it by 'nacdeploy package'")
    try:
        about = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
    except (tarfile.HeaderError, ValueError) as error:
        raise UsageError(f"{path} is no tar, or damaged; give the tar that 'nacdeploy package' wrote") from error
    if about.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE):
        raise UsageError(
            f"{path} holds {about.name[:200]!a}, which is no plain file (a link, a device, an extension of tar); "
            "package the artifact by 'nacdeploy package'"
        )
    return about


def _copy(file: BinaryIO, place: BinaryIO, size: int) -> None:
    while size:
        piece = file.read(min(size, _PIECE))
        if not piece:
            raise NacdeployError("the tar has become shorter while it was read; run the command again")
        place.write(piece)
        size -= len(piece)


def _files(folder: Path) -> set[str]:
    return {each.relative_to(folder).as_posix() for each in folder.rglob("*") if not each.is_dir()}
