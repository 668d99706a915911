"""Tasks that a Python program made: they have a name in records, and are at hand in that program alone."""

from typing import Any

from nacdeploy.base.errors import UsageError

PREFIX = "python:"
_LIVE: dict[str, Any] = {}


def register(task: Any) -> str:
    """Return the name of a task that lives in this process, `python:NAME`; a later task of the name takes its place."""
    own = getattr(task, "name", "") or type(getattr(task, "model", task)).__name__
    _LIVE[PREFIX + own] = task
    return PREFIX + own


def is_live(name: str) -> bool:
    """Tell whether a model's name names a task of a Python program."""
    return name.startswith(PREFIX)


def find(name: str) -> Any:
    """Return the task of a name.

    Raises:
        UsageError: it is not at hand in this process.
    """
    if name not in _LIVE:
        raise UsageError(
            f"'{name}' is a task of the Python program that made it: give it again with task=, or write it as a "
            "function in a file and name it, --task path/file.py:function"
        )
    return _LIVE[name]
