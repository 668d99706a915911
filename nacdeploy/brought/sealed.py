"""Sealing: the test data cannot be read while a user's loss, metric or training runs, so that no decision rests on
them."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from nacdeploy.base.errors import UsageError

_CLASSES: dict[type, type] = {}
_READING = ("__getitem__", "__getitems__", "__iter__")
_BLOCKS: list[tuple[str, list[str]]] = []  # of the blocks that run now: what they do, and the reads they tried


@contextmanager
def sealed(task: Any, during: str = "networks are compared", tensors: bool = False) -> Iterator[list[str]]:
    """Refuse within the block to read the test data of a task; objects that also hold other splits stay open.

    Lists and arrays cannot be sealed; with `tensors`, tensors within tuples, lists and data sets are. Yields the
    refusals, since a user's code may catch them.
    """
    splits = ("train", "validation", "calibration")
    others = {id(part) for split in splits for part in _parts(getattr(task, split), tensors)}
    _BLOCKS.append((during, []))
    try:
        with ExitStack() as stack:
            for part in _parts(task.test, tensors):
                if id(part) not in others:
                    stack.enter_context(_closed(part))
            yield _BLOCKS[-1][1]
    finally:
        _BLOCKS.pop()


def _parts(given: Any, tensors: bool) -> Iterator[Any]:
    if given is None:
        return
    if tensors and isinstance(given, tuple | list | Mapping):
        for each in given.values() if isinstance(given, Mapping) else given:
            yield from _parts(each, tensors)
        return
    yield given
    yield from _parts(getattr(given, "dataset", None), tensors)
    if tensors and not isinstance(given, Tensor):
        yield from _parts(getattr(given, "tensors", None), tensors)


@contextmanager
def _closed(given: Any) -> Iterator[None]:
    own = type(given)
    try:
        object.__setattr__(given, "__class__", _CLASSES.get(own) or _CLASSES.setdefault(own, _closing(own)))
    except TypeError:  # a built-in type
        yield
        return
    try:
        yield
    finally:
        object.__setattr__(given, "__class__", own)


def _closing(own: type) -> type:
    if own is Tensor:
        return type(own.__name__, (own,), {"__torch_function__": classmethod(_shape_only)})
    return type(own.__name__, (own,), {name: _refuse for name in _READING if hasattr(own, name)})


def _refuse(*_: Any, **__: Any) -> Any:
    during, reads = _BLOCKS[-1] if _BLOCKS else ("networks are compared", [])
    reads.append(f"it reads the test data while {during}; leave them to the scores at the end")
    raise UsageError(reads[-1])


def _shape_only(_: type, function: Any, __: Any, given: Any = (), named: Any = None) -> Any:
    """Answer what a tensor's shape, type or device is, and refuse every value."""
    if getattr(function, "__name__", "") in ("__get__", "__len__", "dim", "size"):
        with torch._C.DisableTorchFunctionSubclass():
            found = function(*given, **(named or {}))
        if not isinstance(found, Tensor):
            return found
    return _refuse()
