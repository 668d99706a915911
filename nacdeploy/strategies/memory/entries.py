"""Entries of a store: plain data by kind and key, as compressed JSON with its own hash, so that damage is noticed."""

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import zstandard

from nacdeploy.base import records
from nacdeploy.base.errors import NacdeployError, UsageError
from nacdeploy.base.outside import doors
from nacdeploy.base.progress import Say
from nacdeploy.strategies.memory.store import Store

SCHEMA_VERSION = 2
T = TypeVar("T")
# What other or foreign data may raise in whoever reads them.
_MISREAD = (NacdeployError, KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError)


class DamagedError(Exception):
    """The content of a store is not what was written; `keys` are the files to drop with the entry."""

    def __init__(self, reason: str, *keys: str) -> None:
        super().__init__(reason)
        self.keys = keys


class Entries:
    """The entries of a store. A damaged entry, or one whose files were evicted, is deleted and reported."""

    def __init__(self, store: Store, say: Say) -> None:
        self._store, self._say = store, say

    def read(
        self,
        kind: str,
        key: str,
        use: Callable[[Any], T],
        needs: Callable[[Any], Sequence[str]] = lambda data: (),
    ) -> T | None:
        """Return the result of `use` on an entry's data, or None without a usable entry.

        `needs` names the files that the entry needs. The entry is marked as used first, its files after it.
        """
        name = entry_name(kind, key)
        data = self._store.get(name)
        if data is None:
            return None
        try:
            plain = _unpacked(data, kind, key)
            needed = list(needs(plain))
            gone = self._store.touch([name, *needed]).intersection(needed)
            if gone:
                raise DamagedError(f"{min(gone)} is gone")
            return use(plain)
        except (DamagedError, *_MISREAD) as error:
            self._say(f"the cache's {name} is of no use ({error}): dropped, and made again where it is needed")
            for lost in (name, *getattr(error, "keys", ())):
                self._store.drop(lost)
            return None

    def write(self, kind: str, key: str, data: Any, needed: Sequence[str] = ()) -> bool:
        """Write plain data as an entry that needs other files; return whether it is kept."""
        is_kept = self._store.put(entry_name(kind, key), _packed(data, kind, key), keep=needed)
        self._store.touch(needed)
        return is_kept


def entry_name(kind: str, key: str) -> str:
    """Return the key of an entry in its store; every schema has its own."""
    return f"{kind}-{records.sha256_data([SCHEMA_VERSION, key])[:32]}.json.zst"


def _packed(data: Any, kind: str, key: str) -> bytes:
    entry = {"schema": SCHEMA_VERSION, "sha256": records.sha256_data([kind, key, data]), "data": data}
    return zstandard.ZstdCompressor(level=9).compress(json.dumps(entry, separators=(",", ":")).encode())


def _unpacked(data: bytes, kind: str, key: str) -> Any:
    try:
        text = doors.unpacked(zstandard.ZstdDecompressor().stream_reader(data), len(data), "it")
        entry = doors.json_of(text, "it")
    except (zstandard.ZstdError, UsageError) as error:
        raise DamagedError("it is no JSON that was written here") from error
    if not isinstance(entry, dict) or entry.get("schema") != SCHEMA_VERSION:
        schema = entry.get("schema") if isinstance(entry, dict) else None
        raise DamagedError(f"it is of schema {schema}, and {SCHEMA_VERSION} is known here")
    if entry.get("sha256") != records.sha256_data([kind, key, entry.get("data")]):
        raise DamagedError("its content does not have its hash")
    return entry["data"]
