"""The places of a store's bytes: a folder of this machine, or any location that fsspec knows (`s3://...`, `memory://`).

A reader never sees half a file. A folder's file is written beside its place and renamed; an object store's put is
atomic by itself; elsewhere a torn file fails the hash that its reader checks. Nothing is locked, so that a process may
be killed at any point: it leaves only a file under a temporary name, which is removed once it is old.
"""

import os
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

PARTIAL = ".partial"
OLD_S = 3600
# The names under which file systems of fsspec tell when a file was written.
_WRITTEN = ("mtime", "LastModified", "last_modified", "updated", "modified", "created")


@dataclass(frozen=True)
class Item:
    """A file by its key, its size, and the time of its last use, in ns since the epoch."""

    key: str
    n_bytes: int
    used_ns: int


class Location(Protocol):
    """Files by key. Every method but `remove` raises OSError if the place cannot be reached or written.

    >>> place: Location = Folder.open(Path("memory-of-a-search").absolute())
    >>> place.write("entry", b"values")
    >>> place.read("entry"), [(item.key, item.n_bytes) for item in place.items()]
    (b'values', [('entry', 6)])
    >>> place.touch(["entry", "evicted"])
    {'evicted'}
    """

    @property
    def name(self) -> str: ...
    def read(self, key: str) -> bytes: ...
    def write(self, key: str, data: bytes) -> None: ...
    def remove(self, key: str) -> None: ...
    def touch(self, keys: Iterable[str]) -> set[str]: ...
    def items(self) -> list[Item]: ...


@dataclass(frozen=True)
class Folder:
    """Files of a folder; a file's time is the time of its last use."""

    root: Path

    @classmethod
    def open(cls, root: Path) -> "Folder":
        root.mkdir(parents=True, exist_ok=True)
        place = cls(root)
        place._sweep()
        return place

    @property
    def name(self) -> str:
        return str(self.root)

    def read(self, key: str) -> bytes:
        return (self.root / key).read_bytes()

    def write(self, key: str, data: bytes) -> None:
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{PARTIAL}")
        try:
            with temporary.open("xb") as file:
                file.write(data)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def remove(self, key: str) -> None:
        (self.root / key).unlink(missing_ok=True)

    def touch(self, keys: Iterable[str]) -> set[str]:
        """Mark files as used now, each later than the one before; return the missing ones."""
        gone, latest_ns = set(), 0
        for key in keys:
            try:
                # never back in time: the clocks of the machines that share a folder may differ
                latest_ns = max(time.time_ns(), latest_ns + 1, (self.root / key).stat().st_mtime_ns + 1)
                os.utime(self.root / key, ns=(latest_ns, latest_ns))
            except FileNotFoundError:
                gone.add(key)
            except PermissionError:  # another user's file: its own uses keep it
                continue
        return gone

    def items(self) -> list[Item]:
        return [Item(name, stat.st_size, stat.st_mtime_ns) for name, stat in self._files()]

    def _files(self) -> Iterator[tuple[str, os.stat_result]]:
        with os.scandir(self.root) as found:
            for file in found:
                try:
                    if file.is_file(follow_symlinks=False):
                        yield file.name, file.stat()
                except FileNotFoundError:  # another process was faster
                    continue

    def _sweep(self) -> None:
        """Remove the temporary files of killed processes, once no process can still be writing them."""
        for name, stat in self._files():
            if name.startswith(".") and name.endswith(PARTIAL) and time.time() - stat.st_mtime > OLD_S:
                with suppress(OSError):  # another user's, or a folder that can only be read
                    (self.root / name).unlink(missing_ok=True)


class Remote:
    """Objects below a URL of fsspec. Objects cannot be touched in general: their last use is the age of an empty object
    of the same key below `used/`."""

    def __init__(self, url: str, files: Any, root: str) -> None:
        self.name = url
        self._files, self._root = files, root.rstrip("/")

    @classmethod
    def open(cls, url: str) -> "Remote":
        import fsspec

        with _as_os_error():
            files, root = fsspec.core.url_to_fs(url)
            place = cls(url, files, root)
            files.makedirs(place._path("used"), exist_ok=True)
        place.items()
        return place

    def read(self, key: str) -> bytes:
        with _as_os_error():
            return self._files.cat_file(self._path(key))

    def write(self, key: str, data: bytes) -> None:
        with _as_os_error():
            self._files.pipe_file(self._path(key), data)

    def remove(self, key: str) -> None:
        for path in (self._path(key), self._path(f"used/{key}")):
            with _as_os_error():
                if self._files.exists(path):
                    self._files.rm_file(path)

    def touch(self, keys: Iterable[str]) -> set[str]:
        """Mark objects as used now; return the missing ones."""
        wanted = list(keys)
        with _as_os_error():
            there = [key for key in wanted if self._files.exists(self._path(key))]
            if there:
                self._files.pipe({self._path(f"used/{key}"): b"" for key in there})
        return set(wanted) - set(there)

    def items(self) -> list[Item]:
        with _as_os_error():
            self._files.invalidate_cache()
            found = self._files.find(self._path(""), detail=True)
        by_key = {path.rstrip("/").removeprefix(self._path("")).lstrip("/"): info for path, info in found.items()}
        used = {key.removeprefix("used/"): _written_ns(info) for key, info in by_key.items() if key.startswith("used/")}
        return [
            Item(key, int(info.get("size") or 0), max(_written_ns(info), used.get(key, 0)))
            for key, info in by_key.items()
            if "/" not in key
        ]

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"


def _written_ns(info: dict[str, Any]) -> int:
    value = next((info[name] for name in _WRITTEN if info.get(name) is not None), 0)
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    return int((value.timestamp() if isinstance(value, datetime) else value) * 1e9)


@contextmanager
def _as_os_error() -> Iterator[None]:
    """Turn the errors of a file system's own client, of any class, into OSError, which callers know."""
    try:
        yield
    except (OSError, ImportError):
        raise
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {error}") from error
