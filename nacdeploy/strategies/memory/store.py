"""Bytes by key within a budget, for several processes at once; the least recently used go first.

The store knows one fact about its content: readers touch a file first, its dependencies second, so eviction (oldest
first) removes a file before anything it depends on. A write that fails is reported once and costs time, never the run.
Keys are names of entries (`.json.zst`) and of the files they need (`.safetensors`); files of other names are ignored.
"""

import re
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

from nacdeploy.base.errors import NacdeployError
from nacdeploy.base.progress import Say, nobody
from nacdeploy.strategies.memory.places import Folder, Item, Location, Remote

_OURS = re.compile(r"[a-z]+-[0-9a-f]{32}\.(json\.zst|safetensors)")
_FULL_FRACTION = 0.9  # what an eviction leaves of the budget, so that not every write evicts
_BLIND_FRACTION = 0.01  # what a process writes at most before it looks at what the others wrote


class Store:
    """At most `budget_bytes` at one place. Made by `Store.open`, from any process that shares the store."""

    def __init__(self, place: Location, budget_bytes: int, say: Say) -> None:
        self._place, self._budget_bytes, self._say = place, budget_bytes, say
        self._said: set[str] = set()
        self._n_bytes = self._n_blind_bytes = 0
        self._is_listed = False

    @classmethod
    def open(cls, location: Path | str, budget_bytes: int, say: Say = nobody) -> "Store":
        """Open the store at a path or a URL of fsspec.

        Raises:
            NacdeployError: the place cannot be made or reached.
        """
        return cls(_open_place(location), budget_bytes, say)

    @property
    def location(self) -> str:
        """The location by which any other process of this machine opens the store."""
        return self._place.name

    def get(self, key: str) -> bytes | None:
        """Return the bytes under a key, or None if there are none or the place cannot be read (reported once)."""
        try:
            return self._place.read(key)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._say_once("read", f"the cache {self.location} cannot be read ({_reason(error)}): going on without it")
            return None

    def put(self, key: str, data: bytes, keep: Collection[str] = ()) -> bool:
        """Write bytes under a key; make room for them, but not by removing `keep`; return whether they are kept now."""
        try:
            if not self._make_room(len(data), keep):
                text = f"the cache's budget of {self._budget_bytes} bytes cannot hold another {len(data)}"
                self._say_once("room", f"{text}: going on without keeping them; a larger search.cache_gib would")
                return False
            self._place.write(key, data)
        except OSError as error:
            text = f"the cache {self.location} cannot be written ({_reason(error)})"
            self._say_once("write", f"{text}: going on without keeping what is new")
            return False
        self._n_bytes += len(data)
        self._n_blind_bytes += len(data)
        return True

    def touch(self, keys: Sequence[str]) -> set[str]:
        """Mark keys as used now, dependencies last; return the missing ones."""
        try:
            return self._place.touch(keys)
        except OSError as error:
            self._say_once("touch", f"the cache {self.location} cannot note what it uses ({_reason(error)})")
            return set()

    def drop(self, key: str) -> None:
        """Remove a key, if it is there and may be removed."""
        try:
            self._place.remove(key)
        except OSError as error:
            self._say_once("drop", f"{key} of the cache {self.location} cannot be removed ({_reason(error)})")

    def items(self) -> list[Item]:
        """Return all files of the store, in the order of eviction."""
        ours = [item for item in self._place.items() if _OURS.fullmatch(item.key)]
        return sorted(ours, key=lambda item: (item.used_ns, item.key.endswith(".safetensors")))

    def _make_room(self, n_bytes: int, keep: Collection[str]) -> bool:
        is_blind = not self._is_listed or self._n_blind_bytes > _BLIND_FRACTION * self._budget_bytes
        if n_bytes > self._budget_bytes:
            return False
        if is_blind or self._n_bytes + n_bytes > self._budget_bytes:
            self._evict(n_bytes, keep)
        return self._n_bytes + n_bytes <= self._budget_bytes

    def _evict(self, n_bytes: int, keep: Collection[str]) -> None:
        """Remove the least recently used files if `n_bytes` more would exceed the budget."""
        items = self.items()
        self._n_bytes, self._n_blind_bytes, self._is_listed = sum(item.n_bytes for item in items), 0, True
        if self._n_bytes + n_bytes <= self._budget_bytes:
            return
        limit = min(self._budget_bytes - n_bytes, _FULL_FRACTION * self._budget_bytes)
        for item in items:
            if self._n_bytes > limit and item.key not in keep:
                with suppress(OSError):  # another user's file
                    self._place.remove(item.key)
                    self._n_bytes -= item.n_bytes

    def _say_once(self, what: str, line: str) -> None:
        if what not in self._said:
            self._said.add(what)
            self._say(line)


def _reason(error: OSError) -> str:
    return error.strerror or " ".join(str(error).split()) or type(error).__name__


def _open_place(location: Path | str) -> Location:
    """Open the place at a path or URL; make it if needed.

    Raises:
        NacdeployError: the place cannot be made or reached; the line says why.
    """
    text = str(location)
    try:
        if text.startswith("file://") or "://" not in text:
            return Folder.open(Path(text.removeprefix("file://")).expanduser().absolute())
        return Remote.open(text)
    except (OSError, ImportError, ValueError) as error:
        reason = " ".join(str(error).split())
        where = "a folder that can be written, or a location of fsspec such as s3://bucket/path"
        raise NacdeployError(f"the cache {text} cannot be opened ({reason}); give --cache {where}") from error
