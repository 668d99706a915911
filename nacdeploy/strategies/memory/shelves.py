"""Shelves: where the states of trainings under way lie, so that a command that was killed goes on from its last epoch.

A search keeps them in its memory, every other command in one folder of the runs, by keys of their own: the same command
called again finds them. They go when the training's result is safe, the least recently used ones first if they take
more than their budget.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from nacdeploy.base import records
from nacdeploy.base.errors import NacdeployError
from nacdeploy.base.progress import Say, nobody
from nacdeploy.network.network import Network
from nacdeploy.profile.tables.training import TrainTable
from nacdeploy.strategies.baseline import Teacher
from nacdeploy.strategies.memory.store import Store
from nacdeploy.strategies.state import Metrics, plain_key, state_key
from nacdeploy.strategies.steps.advance import Trained, context
from nacdeploy.task import Task, training
from nacdeploy.task.loop.unfinished import Unfinished


@dataclass(frozen=True)
class StoreShelf:
    """The place of one training in a store."""

    store: Store
    key: str

    @property
    def _name(self) -> str:
        return f"unfinished-{records.sha256_data(self.key)[:32]}.safetensors"

    def read(self) -> bytes | None:
        return self.store.get(self._name)

    def write(self, data: bytes) -> None:
        self.store.put(self._name, data)

    def drop(self) -> None:
        self.store.drop(self._name)


@dataclass
class Shelves:
    """The trainings under way of a command, in one folder that exists only while there are any.

    It stands in for the memory of a chain: nothing is remembered but what is unfinished, until `close`.
    """

    root: Path
    budget_bytes: int
    say: Say = nobody
    _store: Store | None = None
    _used: set[str] = field(default_factory=set)

    def training(self, key: str, make: Callable[[], Trained]) -> Trained:
        """Train: what ended before an interruption ends again at once, from its last state."""
        return make()

    def metrics(self, key: str, make: Callable[[], Metrics]) -> Metrics:
        return make()

    def unfinished(self, key: str) -> Unfinished:
        """Return what is kept of the training of a key."""
        self._used.add(key)
        return Unfinished(_LateShelf(self, key), say=self.say)

    def of_network(
        self, network: Network, task: Task, recipe: TrainTable, seed: int, teacher: Teacher | None = None
    ) -> Unfinished:
        """Return what is kept of the training of a network that is no letter of a chain."""
        taught = {} if teacher is None else {"teacher": plain_key(teacher.network), "how": vars(teacher.how)}
        how = {"recipe": recipe.model_dump(mode="json"), "seed": seed, "code": training.VERSION, **taught}
        return self.unfinished(records.sha256_data({"start": state_key(network), **how, **context(task)}))

    def close(self) -> None:
        """Forget the trainings of this command, whose results are safe, and the folder if no others lie there."""
        if self.root.is_dir():
            for key in self._used:
                StoreShelf(self.opened(), key).drop()
            with suppress(OSError):  # others lie there
                self.root.rmdir()
        self._used.clear()

    def opened(self) -> Store:
        """Return the store, opened when first needed.

        Raises:
            NacdeployError: its folder cannot be made.
        """
        if self._store is None:
            self._store = Store.open(self.root, self.budget_bytes, self.say)
        return self._store


@dataclass(frozen=True)
class _LateShelf:
    """The place of one training, whose store is made when something is to be kept."""

    shelves: Shelves
    key: str

    def read(self) -> bytes | None:
        return StoreShelf(self.shelves.opened(), self.key).read() if self.shelves.root.is_dir() else None

    def write(self, data: bytes) -> None:
        try:
            store = self.shelves.opened()
        except NacdeployError as error:  # the training is worth more than its state
            self.shelves.say(f"the training is not kept while it is under way: {error}")
            return
        StoreShelf(store, self.key).write(data)

    def drop(self) -> None:
        if self.shelves.root.is_dir():
            StoreShelf(self.shelves.opened(), self.key).drop()
