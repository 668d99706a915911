"""The memory of a search: trainings, measurements and whole states by the hash of all their inputs.

The memory lies in a store that runs, users and machines may share. A damaged or missing entry is reported in one line
and made again. If an entry cannot be written, the search goes on without it.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from nacdeploy.base import records
from nacdeploy.base.progress import Say, nobody
from nacdeploy.network.network import content
from nacdeploy.profile import Profile
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.memory import difference
from nacdeploy.strategies.memory.entries import DamagedError, Entries, entry_name
from nacdeploy.strategies.memory.shelves import StoreShelf
from nacdeploy.strategies.memory.store import Store
from nacdeploy.strategies.memory.tensors import Manifest, Tensors, keys_of, manifest_data, manifest_from_data
from nacdeploy.strategies.settle import SETTLE_VERSION
from nacdeploy.strategies.state import MEASURE_VERSION, CompressionState, Metrics, state_key
from nacdeploy.strategies.steps import checkpoint, letters
from nacdeploy.strategies.steps.advance import Trained, context
from nacdeploy.surgery.channels.channel_pruning import Cut
from nacdeploy.task import Task, training
from nacdeploy.task.loop.unfinished import Unfinished

# What of a profile no state of a chain depends on, given its baseline and its task.
_WITHOUT_EFFECT = {"name", "description", "model", "width", "data", "images", "train", "search", "export", "bench"}


def open_store(location: Path | str, profile: Profile, say: Say = nobody) -> Store:
    """Open the store at a path or a URL of fsspec, with the profile's budget.

    Raises:
        NacdeployError: the store cannot be made or reached.
    """
    return Store.open(location, int(profile.search.cache_gib * 2**30), say)


class DiskMemory:
    """Trainings and metrics by key, and the states of evaluated chains. Made by `DiskMemory.open`."""

    def __init__(self, store: Store, task: Task, profile: Profile, baseline: CompressionState, say: Say) -> None:
        self._store, self._task, self._profile, self._baseline = store, task, profile, baseline
        self._say = say
        self._entries, self._tensors = Entries(store, say), Tensors(store)
        self._is_baseline_kept = False
        self._at_hand: WeakValueDictionary[str, CompressionState] = WeakValueDictionary({"": baseline})
        self.n_trainings = 0

    @classmethod
    def open(
        cls,
        location: Path | str,
        task: Task,
        profile: Profile,
        baseline: CompressionState,
        say: Say = nobody,
    ) -> "DiskMemory":
        """Open the memory at a path or a URL of fsspec; all processes that open the same location share it.

        Raises:
            NacdeployError: the location cannot be made or reached.
        """
        return cls(open_store(location, profile, say), task, profile, baseline, say)

    @property
    def location(self) -> str:
        """The location by which another process opens the same memory."""
        return self._store.location

    def training(self, key: str, make: Callable[[], Trained]) -> Trained:
        """Return the training under `key`; run `make` if it is missing."""
        found = self._entries.read("training", key, self._trained, _needs)
        if found is not None:
            return found
        self.n_trainings += 1
        trained = make()
        if self._is_baseline(trained.start):
            self._keep_baseline()
        manifest = self._tensors.write(trained.values, trained.start)
        if manifest is not None:
            data = {"n_epochs": trained.n_epochs, "values": manifest_data(manifest)}
            self._entries.write("training", key, data, keys_of(manifest))
        StoreShelf(self._store, key).drop()
        return trained

    def unfinished(self, key: str) -> Unfinished:
        """Return what is kept of a training under way."""
        return Unfinished(StoreShelf(self._store, key), say=self._say)

    def metrics(self, key: str, make: Callable[[], Metrics]) -> Metrics:
        """Return the measurement under `key`; run `make` if it is missing."""
        found = self._entries.read("metrics", key, lambda data: records.from_data(Metrics, data))
        if found is not None:
            return found
        measured = make()
        self._entries.write("metrics", key, records.to_data(measured))
        return measured

    def remember(self, state: CompressionState) -> None:
        """Keep a state, so that its chain can be continued without running it again."""
        key = state.key
        needed = self._kept(key) or self._keep_values(key, state)
        if needed:
            history = {
                "state_key": key,
                "grid": state.network.grid.name,
                "steps": [checkpoint.step_data(step) for step in state.steps],
                "metrics": records.to_data(state.metrics),
            }
            self._entries.write("chain", self._chain_key(state.chain), history, needed)
        self._at_hand[str(state.chain)] = state

    def recall(self, chain: str, baseline: Metrics) -> CompressionState | None:
        """Return the kept state of a chain, or None if there is none or it cannot be restored bit by bit."""
        key = self._chain_key(Chain.parse(chain))
        state = self._entries.read("chain", key, lambda data: self._rebuilt(data, baseline))
        if state is not None:
            self._at_hand[chain] = state
        return state

    def _rebuilt(self, data: dict[str, Any], baseline: Metrics) -> CompressionState | None:
        key = data["state_key"]
        values = self._values(key)
        if values is None:
            return None
        steps = tuple(checkpoint.step_from_data(step) for step in data["steps"])
        network = checkpoint.rebuild(self._task.spec, data["grid"], self._profile, steps)
        checkpoint.fill(network, values, "the cache")
        if state_key(network) != key:
            raise DamagedError("its steps do not lead to its values")
        metrics = records.from_data(Metrics, data["metrics"])
        return CompressionState(network, metrics, baseline, steps, origin=self._baseline.network)

    def _values(self, key: str) -> dict[str, Tensor] | None:
        """Return the values of the state of that content, or None if they are not kept."""
        return self._entries.read("state", key, lambda data: self._tensors.read(_manifest(data)), _needs)

    def _trained(self, data: dict[str, Any]) -> Trained:
        return Trained(self._tensors.read(_manifest(data)), int(data["n_epochs"]))

    def _kept(self, key: str) -> list[str]:
        """Return the entry of the values of that content and the files that the entry needs, or nothing if they are
        not kept."""
        known = self._entries.read("state", key, lambda data: self._tensors.note(_manifest(data)), _needs)
        return [] if known is None else [entry_name("state", key), *keys_of(known)]

    def _is_baseline(self, values: Mapping[str, Tensor]) -> bool:
        own = content(self._baseline.network, with_exits=False)
        return values.keys() == own.keys() and all(torch.equal(own[name], tensor) for name, tensor in values.items())

    def _keep_baseline(self) -> None:
        """Keep the baseline's values once per process: the first letters cut them or differ from them."""
        if not self._is_baseline_kept:
            self._is_baseline_kept = True
            key = self._baseline.key
            if not self._kept(key):
                self._keep_values(key, self._baseline)

    def _keep_values(self, key: str, state: CompressionState) -> list[str]:
        """Write the state's values and return the keys of the files they need; empty if the budget is full."""
        manifest = self._tensors.write(content(state.network), self._values_before(state), _cuts(state))
        if manifest is None:
            return []
        needed = keys_of(manifest)
        is_kept = self._entries.write("state", key, {"values": manifest_data(manifest)}, needed)
        return [entry_name("state", key), *needed] if is_kept else []

    def _values_before(self, state: CompressionState) -> Mapping[str, Tensor]:
        """Return the values before the state's last step, as far as they are known."""
        if not state.steps:
            return {}
        beginning = Chain(state.chain.links[:-1])
        if not beginning.links:
            self._keep_baseline()
        parent = self._at_hand.get(str(beginning))
        if parent is not None:
            return content(parent.network)
        key = self._entries.read("chain", self._chain_key(beginning), lambda data: str(data["state_key"]))
        return (self._values(key) if key else None) or {}

    def _chain_key(self, chain: Chain) -> str:
        """Return the hash of all inputs of a chain's state."""
        versions = letters.versions(set(chain.word))
        parts = {
            "chain": str(chain),
            "baseline": self._baseline.key,
            "settings": self._profile.model_dump(mode="json", exclude=_WITHOUT_EFFECT),
            "code": {**versions, "train": training.VERSION, "settle": SETTLE_VERSION, "measure": MEASURE_VERSION},
            **context(self._task),
        }
        return records.sha256_data(parts)


def _manifest(data: dict[str, Any]) -> Manifest:
    return manifest_from_data(data["values"])


def _needs(data: dict[str, Any]) -> list[str]:
    return keys_of(_manifest(data))


def _cuts(state: CompressionState) -> dict[str, difference.Cut]:
    """Return, by tensor, the slices that the state's last step kept of the tensors before it."""
    slices: dict[str, list[tuple[int, Sequence[int]]]] = {}
    decided = vars(state.steps[-1].decision).values() if state.steps else ()
    for one in (one for value in decided if isinstance(value, Cut) for one in value.slices):
        slices.setdefault(one.tensor, []).append((one.axis, one.kept))
    return {tensor: difference.as_cut(kept) for tensor, kept in slices.items()}
