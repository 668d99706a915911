"""Images that stay on disk: threads decode them on demand, and a cache file keeps them as far as it has room.

The cache is a file without a name, which the system removes with the process, whatever ends it. It is read and written
by position and never mapped, so that it takes no memory of the process.
"""

import hashlib
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from nacdeploy.data.pictures import Place

Decode = Callable[[Place], Tensor]
_PIECE = 64  # images decoded at once where all are


@cache
def threads() -> ThreadPoolExecutor:
    """Return as many decoders as this process has cores: PIL and torch let go of the interpreter while they work."""
    return ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0)), thread_name_prefix="decode")


os.register_at_fork(after_in_child=threads.cache_clear)  # a fork takes no threads with it


class Store:
    """Files, the function that decodes one to pixels `(C, H, W)`, and room for decoded ones."""

    def __init__(self, paths: tuple[Place, ...], shape: tuple[int, int, int], decode: Decode, n_kept: int) -> None:
        self.paths, self.shape, self._decode = paths, shape, decode
        self._n_kept, self._lock = min(n_kept, len(paths)), threading.Lock()
        self._is_kept = bytearray(len(paths))
        self._file: int | None = None

    def fetch(self, indices: Tensor) -> Tensor:
        """Return the pixels of the files at `indices`, int64 `(M,)`: uint8 `(M, C, H, W)`.

        Raises:
            UsageError: a file is no image any more.
        """
        rows = torch.empty((len(indices), *self.shape), dtype=torch.uint8)
        list(threads().map(self._put, indices.tolist(), rows))
        return rows

    def _put(self, index: int, row: Tensor) -> None:
        """Fill one row."""
        if self._is_kept[index] and self._file is not None:
            os.preadv(self._file, [row.numpy().data], index * row.numel())
            return
        row.numpy()[:] = self._decode(self.paths[index]).numpy()  # threads are not in the caller's inference mode
        if index < self._n_kept:
            self._keep(index, row)

    def _keep(self, index: int, row: Tensor) -> None:
        """Write a row into the cache; a disk that is full ends the cache, not the run."""
        try:
            with self._lock:
                if self._file is None:
                    with tempfile.TemporaryFile(prefix="nacdeploy-images-") as opened:
                        self._file = os.dup(opened.fileno())
            n_written = os.pwrite(self._file, row.numpy().data, index * row.numel())
        except OSError:
            self._n_kept = 0
            return
        self._is_kept[index] = n_written == row.numel()

    def __del__(self) -> None:
        if getattr(self, "_file", None) is not None:
            os.close(self._file)  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class FilePictures:
    """Some files of a store, in an order, with the interface of a tensor `(N, C, H, W)` (`sets.Pictures`).

    Attributes:
        at_files: the files by their place in the store, int64 `(N,)`.
        channels: the channels of an image; grey images are repeated.
        recipe: the way from files to pixels, in words: part of the identity of the images.
    """

    store: Store
    at_files: Tensor
    channels: int
    recipe: str = field(default="")

    @property
    def shape(self) -> torch.Size:
        """`(N, C, H, W)`."""
        return torch.Size((len(self.at_files), self.channels, *self.store.shape[1:]))

    def __getitem__(self, at: slice) -> Tensor:
        return self._fetched(self.at_files[at])

    def split(self, size: int) -> Iterator[Tensor]:
        """Yield all images in order, `size` at once."""
        return (self._fetched(part) for part in self.at_files.split(size))

    def at(self, indices: Tensor) -> "FilePictures":
        """Return the images at `indices`, int64 `(M,)`, not decoded."""
        return replace(self, at_files=self.at_files[indices])

    def decoded(self, indices: Tensor) -> Tensor:
        """Return the images at `indices`, int64 `(M,)`, decoded."""
        return self._fetched(self.at_files[indices])

    def in_channels(self, n_channels: int) -> "FilePictures":
        """Return grey images repeated as `n_channels` equal channels."""
        return replace(self, channels=n_channels)

    def content(self) -> Iterator[bytes]:
        """Yield the recipe, and the sha256 of every file in order."""
        yield f"{self.recipe} {tuple(self.shape)}".encode()
        paths = [self.store.paths[i] for i in self.at_files.tolist()]
        yield from threads().map(_digest, paths)

    def _fetched(self, indices: Tensor) -> Tensor:
        return self.store.fetch(indices).expand(-1, self.channels, -1, -1)


def _digest(path: Place) -> bytes:
    if not isinstance(path, Path):
        return hashlib.sha256(path.read_bytes()).digest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
