"""Named tensors in a store: each distinct tensor is held once, and verified by its hash whenever it is read.

The new tensors of a state or a training go into one safetensors file. A tensor that is held already is named, not
written; a tensor that surgery cut out of a held one is the indices of the cut; a tensor near to a held one is an exact
difference to it, if that is smaller; every other tensor is whole. A source names everything that restores a tensor, at
most `MAX_DEPTH` tensors deep, so that no other entry is needed.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from nacdeploy.strategies.memory import difference
from nacdeploy.strategies.memory.difference import Cut, digest
from nacdeploy.strategies.memory.entries import DamagedError
from nacdeploy.strategies.memory.store import Store

MAX_DEPTH = 4
MIN_DIFFERENCE_BYTES = 1024
_WORTH_FRACTION = 0.9  # of a tensor's bytes: a difference that takes more is not worth its time
_N_KNOWN = 2048  # about ten states of a ResNet34
_ABOUT = {"format": "nacdeploy cache: tensors, and uint8 differences to what the entries name"}


@dataclass(frozen=True)
class Stored:
    """The way to restore a tensor.

    It is `name` in a file; or it is `cut` out of `base` and changed by the difference that `name` of a file holds, if
    there is a file.
    """

    digest: str
    file: str = ""
    name: str = ""
    base: "Stored | None" = None
    cut: Cut = ()

    def line(self) -> Iterator["Stored"]:
        """Yield the source and the sources that it needs, one after the other."""
        yield self
        if self.base is not None:
            yield from self.base.line()


Manifest = dict[str, Stored]


@dataclass(frozen=True)
class Near:
    """A held tensor and the indices of it that surgery kept."""

    source: Stored
    tensor: Tensor
    cut: Cut


def keys_of(manifest: Manifest) -> list[str]:
    """Return the keys of all files that a manifest needs, dependencies last."""
    depths: dict[str, int] = {}
    for source in manifest.values():
        for depth, one in enumerate(source.line()):
            if one.file:
                depths[one.file] = max(depth, depths.get(one.file, 0))
    return [_key(file) for file in sorted(depths, key=lambda file: depths[file])]


def manifest_data(manifest: Manifest) -> dict[str, Any]:
    """Convert a manifest to plain JSON-able data."""
    return {name: _source_data(source) for name, source in manifest.items()}


def manifest_from_data(data: Mapping[str, Any]) -> Manifest:
    """Build a manifest from plain data: the inverse of `manifest_data`."""
    return {name: _source_from_data(source) for name, source in data.items()}


class Tensors:
    """The tensors of a store, and the subset that this process knows to be held."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: OrderedDict[str, Stored] = OrderedDict()

    def write(
        self, values: Mapping[str, Tensor], near: Mapping[str, Tensor], cuts: Mapping[str, Cut] | None = None
    ) -> Manifest | None:
        """Write named tensors; return how each is restored, or None if they cannot be kept.

        `near` are tensors that may be held, and are near to the tensors of the same name or to `cuts` of them.
        """
        digests = {name: digest(tensor) for name, tensor in values.items()}
        before = {name: digest(tensor) for name, tensor in near.items() if name in values}
        kept = cuts or {}
        for _ in range(3):  # what was known to be held may have been evicted: once more without it
            held = {n: Near(self._known[d], near[n], kept.get(n, ())) for n, d in before.items() if d in self._known}
            manifest, payload, own = self._encoded(values, digests, held)
            needed = keys_of(manifest)
            gone = self._store.touch([key for key in needed if key != own])
            if not gone:
                is_kept = not payload or self._store.put(own, payload, keep=needed)
                return self.note(manifest) if is_kept else None
            self._forget(gone)
        return None

    def read(self, manifest: Manifest) -> dict[str, Tensor]:
        """Read the tensors, bit by bit as they were written.

        Raises:
            DamagedError: a file is gone, or its tensors are not what was written.
        """
        found: dict[str, Tensor] = {}
        files: dict[str, dict[str, Tensor]] = {}
        values = {name: self._restored(source, found, files) for name, source in manifest.items()}
        self.note(manifest)
        return values

    def note(self, manifest: Manifest) -> Manifest:
        """Note that the tensors of a manifest are held."""
        for source in manifest.values():
            for one in source.line():
                self._known[one.digest] = one
                self._known.move_to_end(one.digest)
        while len(self._known) > _N_KNOWN:
            self._known.popitem(last=False)
        return manifest

    def _forget(self, keys: set[str]) -> None:
        for known, source in list(self._known.items()):
            if any(_key(one.file) in keys for one in source.line()):
                del self._known[known]

    def _encoded(
        self, values: Mapping[str, Tensor], digests: Mapping[str, str], held: Mapping[str, Near]
    ) -> tuple[Manifest, bytes, str]:
        """Return the source of each tensor, and the file of tensors that are not held yet (empty if all are), with
        its key."""
        sources: dict[str, Stored] = {}
        new: dict[str, Tensor] = {}
        for name, tensor in values.items():
            own = digests[name]
            if own not in sources:
                sources[own] = self._known.get(own) or _source(name, tensor, own, held.get(name), new)
        payload = save(new, _ABOUT) if new else b""
        file = hashlib.sha256(payload).hexdigest()[:32]
        for name in new:
            sources[digests[name]] = replace(sources[digests[name]], file=file)
        return {name: sources[own] for name, own in digests.items()}, payload, _key(file)

    def _restored(self, source: Stored, found: dict[str, Tensor], files: dict[str, dict[str, Tensor]]) -> Tensor:
        if source.digest not in found:
            base = None if source.base is None else self._restored(source.base, found, files)
            value = None if base is None else difference.cut(base, source.cut)
            if source.file:
                value = self._stored(source, value, files)
            if value is None or digest(value) != source.digest:
                raise DamagedError("a tensor is not what was written", *([_key(source.file)] if source.file else []))
            found[source.digest] = value
        return found[source.digest]

    def _stored(self, source: Stored, base: Tensor | None, files: dict[str, dict[str, Tensor]]) -> Tensor:
        key = _key(source.file)
        try:
            if source.file not in files:
                files[source.file] = self._tensors_of(key)
            payload = files[source.file][source.name]
            return payload if base is None else difference.restored(payload.numpy().tobytes(), base)
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            raise DamagedError(f"{key} is damaged: {error}", key) from error

    def _tensors_of(self, key: str) -> dict[str, Tensor]:
        data = self._store.get(key)
        if data is None:
            raise DamagedError(f"{key} is gone")
        return load(data)


def _source(name: str, tensor: Tensor, own: str, near: Near | None, new: dict[str, Tensor]) -> Stored:
    """Return the source of a tensor that is not held; put the parts to write among `new`, in a file to be written."""
    if near is not None and sum(1 for _ in near.source.line()) < MAX_DEPTH:
        base, kept, start = near.source, near.cut, difference.cut(near.tensor.detach().cpu(), near.cut)
        if base.base is not None and not base.file:  # a cut of a cut is one cut of what is held
            base, kept = base.base, difference.composed(base.cut, kept)
        if kept and digest(start) == own:
            return Stored(own, base=base, cut=kept)
        changes = _worthwhile(tensor, start)
        if changes is not None:
            new[name] = torch.frombuffer(bytearray(changes), dtype=torch.uint8)
            return Stored(own, name=name, base=base, cut=kept)
    new[name] = tensor.detach().cpu().contiguous().clone()
    return Stored(own, name=name)


def _worthwhile(tensor: Tensor, start: Tensor) -> bytes | None:
    """Return the difference of a tensor to another, or None if it is not clearly smaller than the tensor."""
    is_alike = (start.dtype, start.shape) == (tensor.dtype, tensor.shape)
    if not is_alike or tensor.nbytes < MIN_DIFFERENCE_BYTES:
        return None
    changes = difference.difference(tensor, start)
    return changes if len(changes) <= _WORTH_FRACTION * tensor.nbytes else None


def _source_data(source: Stored) -> list[Any]:
    base = [_source_data(source.base), source.cut] if source.base else []
    return [source.digest, source.file, source.name, *base]


def _source_from_data(data: Any) -> Stored:
    own, file, name, *rest = data
    if not rest:
        return Stored(own, file, name)
    base, cut = rest
    return Stored(own, file, name, _source_from_data(base), tuple((axis, tuple(kept)) for axis, kept in cut))


def _key(file: str) -> str:
    return f"tensors-{file}.safetensors"
