"""Sealing: the test data cannot be read while a user's loss or metric runs, so that no decision rests on them."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from nacdeploy.base.errors import UsageError

_CLASSES: dict[type, type] = {}
_READING = ("__getitem__", "__getitems__", "__iter__")


@contextmanager
def sealed(task: Any) -> Iterator[None]:
    """Refuse within the block to read the test data of a task; objects that also hold other splits stay open.

    Tensors and lists cannot be sealed.
    """
    others = {id(part) for split in ("train", "validation", "calibration") for part in _parts(getattr(task, split))}
    with ExitStack() as stack:
        for part in _parts(task.test):
            if id(part) not in others:
                stack.enter_context(_closed(part))
        yield


def _parts(given: Any) -> Iterator[Any]:
    if given is not None:
        yield given
        yield from _parts(getattr(given, "dataset", None))


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
    def refuse(*_: Any, **__: Any) -> Any:
        raise UsageError("it reads the test data while networks are compared; leave them to the scores at the end")

    return type(own.__name__, (own,), {name: refuse for name in _READING if hasattr(own, name)})
