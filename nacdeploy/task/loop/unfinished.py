"""Unfinished: what is kept of a training that is under way, so that one that was killed goes on from its last epoch.

Everything that decides the rest of a training is kept: values, optimizer, schedule, random generators, the best epoch
so far. So the weights at the end are those of a training that nobody killed, bit for bit. The clock decides only how
often: a kill costs an epoch, or some seconds of short ones, and keeping costs a twentieth of the time at most.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from nacdeploy.base.progress import Say, nobody
from nacdeploy.task.loop import trees

EVERY_S = 10.0  # the least time between two states that are kept
_SHARE = 0.05  # of the time, that keeping may take


class Shelf(Protocol):
    """A place for the bytes of one training; `key` names its start, its recipe, and all else that decides it.

    >>> class InMemory:
    ...     key, data = "training", None
    ...     def read(self):
    ...         return self.data
    ...     def write(self, data):
    ...         self.data = data
    ...     def drop(self):
    ...         self.data = None
    >>> shelf: Shelf = InMemory()
    >>> shelf.write(b"state")
    >>> shelf.read()
    b'state'
    """

    @property
    def key(self) -> str: ...
    def read(self) -> bytes | None: ...
    def write(self, data: bytes) -> None: ...
    def drop(self) -> None: ...


@dataclass
class Unfinished:
    """The state of one training on its shelf; without a shelf nothing is kept.

    Attributes:
        generators: random generators of the training's data, which go on from where they were.
    """

    shelf: Shelf | None = None
    generators: Sequence[torch.Generator] = ()
    say: Say = nobody
    _last: float = field(default_factory=time.monotonic)
    _cost_s: float = 0.0

    def state(self) -> dict[str, Any] | None:
        """Return the last state that was kept, the generators set as they were then; None if the training is new."""
        data = self.shelf.read() if self.shelf is not None else None
        if self.shelf is None or data is None:
            return None
        try:
            found: dict[str, Any] = trees.unpacked(data, self.shelf.key)
            self._set(found["generators"])
        except (trees.DamagedError, RuntimeError, KeyError, TypeError, ValueError) as error:
            self.useless(str(error))
            return None
        return found

    def useless(self, reason: str) -> None:
        """Say that the state which was kept is of no use, and drop it."""
        self.say(f"the state of a training that was interrupted is of no use ({reason}): the training begins anew")
        self.drop()

    def keep(self, state: dict[str, Any]) -> None:
        """Keep a state, which comes from values that change, if the last one is old enough."""
        begun = time.monotonic()
        if self.shelf is None or begun - self._last < max(EVERY_S, self._cost_s / _SHARE):
            return
        generators = [_state(each) for each in _of_torch()] + [each.get_state() for each in self.generators]
        self.shelf.write(trees.packed({**state, "generators": generators}, self.shelf.key))
        self._last = time.monotonic()
        self._cost_s = self._last - begun

    def drop(self) -> None:
        """Forget the training."""
        if self.shelf is not None:
            self.shelf.drop()

    def _set(self, states: list[Tensor]) -> None:
        devices = _of_torch()
        if len(states) != len(devices) + len(self.generators):
            raise ValueError("it is of a machine with other devices")
        for device, state in zip(devices, states, strict=False):
            torch.set_rng_state(state) if device is None else torch.cuda.set_rng_state(state, device)
        for generator, state in zip(self.generators, states[len(devices) :], strict=True):
            generator.set_state(state)


def _of_torch() -> list[int | None]:
    """List the devices of torch's own generators; None is the CPU."""
    return [None, *range(torch.cuda.device_count() if torch.cuda.is_available() else 0)]


def _state(device: int | None) -> Tensor:
    return torch.get_rng_state() if device is None else torch.cuda.get_rng_state(device)
