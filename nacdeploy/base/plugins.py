"""What other packages register: the entry points of a group, and what they name."""

from importlib.metadata import EntryPoint, entry_points
from typing import Any

from nacdeploy.base.errors import UsageError


def entries(group: str) -> list[EntryPoint]:
    """The entry points of a group, in an order that does not depend on the machine."""
    return sorted(entry_points(group=group), key=lambda entry: (package(entry), entry.name))


def package(entry: EntryPoint) -> str:
    """The distribution that registers an entry point; its module where that is not known."""
    return entry.dist.name if entry.dist is not None else entry.value.partition(":")[0]


def called(kind: str, entry: EntryPoint) -> str:
    """An entry point as messages call it: `target 'dsp' of package dsp-runtime`."""
    return f"{kind} '{entry.name}' of package {package(entry)}"


def load(entry: EntryPoint) -> Any:
    """What an entry point names.

    Raises:
        UsageError: it does not load, for whatever the other package's code raises.
    """
    try:
        return entry.load()
    except Exception as error:  # the code of another package
        why = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UsageError(f"{entry.value} does not load ({why})") from error
