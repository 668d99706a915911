"""The network or task that a function in a user's own file makes. The file runs only if this user named it.

`net.py:small?width=0.5&depth=8` calls the function with these numbers besides what it is offered. The name is what
records, workers and checkpoints keep.
"""

import copy
import inspect
import math
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, cast

from torch import nn

from nacdeploy.base.errors import UsageError, nearest, one_line
from nacdeploy.models.users import importing, project, trust
from nacdeploy.models.users.project import Project

_MADE: dict[tuple[str, str, str], Any] = {}  # tasks, by file, function and content


def split_file_name(name: str) -> tuple[Path, str]:
    """Split `path/file.py:factory` into the file and the factory's name, without the arguments behind it.

    Raises:
        UsageError: the file or the factory is missing.
    """
    path, _, rest = name.rpartition(":")
    factory = rest.partition("?")[0]
    if not path.endswith(".py") or not factory.isidentifier():
        raise UsageError(f"model '{name}' must be of the form path/file.py:factory")
    return Path(path).expanduser(), factory


def arguments(name: str) -> dict[str, int | float]:
    """Return the numbers that a name gives its factory.

    Raises:
        UsageError: what follows the `?` is not understood.
    """
    found: dict[str, int | float] = {}
    for part in filter(None, name.rpartition(":")[2].partition("?")[2].split("&")):
        key, _, value = part.partition("=")
        number = _number(value)
        if not key.isidentifier() or number is None:
            raise UsageError(f"model '{name}': '{part}' is no argument=number, such as width=0.5")
        found[key] = number
    return found


def named(name: str, given: Mapping[str, int | float]) -> str:
    """Return the name of a factory with other arguments."""
    bare, found = name.rpartition("?")[0] or name, {**arguments(name), **given}
    return f"{bare}?{'&'.join(f'{key}={value!r}' for key, value in found.items())}" if found else bare


def defaults(name: str, source_sha256: str | None) -> dict[str, int | float]:
    """Return the numbers that a factory takes where its name gives none, by argument.

    Raises:
        UsageError: as `file_object`.
    """
    found = inspect.signature(_function(name, source_sha256)).parameters.values()
    return {
        each.name: each.default
        for each in found
        if isinstance(each.default, int | float) and not isinstance(each.default, bool)
    }


def _number(text: str) -> int | float | None:
    for kind in (int, float):
        with suppress(ValueError):
            number = kind(text)
            return number if math.isfinite(number) else None
    return None


def name_file(name: str) -> None:
    """Let a user's file run, since this user has named it; a missing file is refused when it is used."""
    try:
        found = project.read(split_file_name(name)[0])
    except UsageError:
        return
    trust.accept(found.path, found.sha256)


def accept_here(name: str, source_sha256: str) -> None:
    """Let a user's file of this content run in this process."""
    path = Path(os.path.abspath(split_file_name(name)[0]))  # noqa: PTH100 - as `project.read` names it
    trust.accept(path, source_sha256, keep=False)


def located(name: str, source_sha256: str | None) -> str:
    """Return the name of a user's file from a record, with a path that leads to the file from the current folder."""
    path = split_file_name(name)[0]
    if source_sha256 is None or (path.is_file() and project.read(path).sha256 == source_sha256):
        return name
    found = trust.located(path, source_sha256)
    return name if found is None else f"{found}:{name.rpartition(':')[2]}"


class Brought(Protocol):
    """Anything but a module that a user's function makes: a task, which has a network.

    >>> from nacdeploy import Task
    >>> callable(Task.network)
    True
    """

    def network(self) -> nn.Module: ...


def file_model(
    name: str, *, n_classes: int, channels: int, input_size: tuple[int, int], source_sha256: str | None
) -> nn.Module:
    """Call a user's factory with the keywords that its signature names, and return its module; of a task, a copy of its
    network.

    Raises:
        UsageError: the file or the factory is missing, fails, returns no module; the file or an imported file of its
            project has changed; or this user has not named the file.
    """
    offered = {
        "n_classes": n_classes,
        "num_classes": n_classes,
        "channels": channels,
        "in_channels": channels,
        "input_size": input_size,
    }
    model = file_object(name, source_sha256, **offered)
    if hasattr(model, "network"):
        return copy.deepcopy(model.network())
    if not isinstance(model, nn.Module):
        raise UsageError(f"model '{name}' returned {type(model).__name__}, not a torch.nn.Module")
    return model


def file_object(name: str, source_sha256: str | None, **offered: Any) -> Any:
    """Call a user's function with those of the offered keywords that its signature names, and return what it makes.

    A task is made once in a process for one content of its file.

    Raises:
        UsageError: the file or the function is missing or fails; the file or an imported file of its project has
            changed; or this user has not named the file.
    """
    found = _project(name, source_sha256)
    key = (str(found.path), name.rpartition(":")[2], found.sha256)
    if key in _MADE:
        return _MADE[key]
    factory, given = _function(name, source_sha256), arguments(name)
    accepted = inspect.signature(factory).parameters
    if unknown := next((argument for argument in given if argument not in accepted), None):
        raise UsageError(f"model '{name}': its function has no argument '{unknown}'{nearest(unknown, accepted)}")
    try:
        with importing.at_hand(found):
            model = factory(**{key: value for key, value in {**offered, **given}.items() if key in accepted})
    except (Exception, SystemExit) as error:
        raise UsageError(f"model '{name}' failed: {one_line(error)}") from error
    if hasattr(model, "network") and not isinstance(model, nn.Module):
        _MADE[key] = model
    return model


def _project(name: str, source_sha256: str | None) -> Project:
    """Return the file of a name with its imports, unchanged and let run by this user."""
    path = split_file_name(located(name, source_sha256))[0]
    found = project.read(path)
    if source_sha256 not in (None, found.sha256):
        raise UsageError(
            f"model file {path}{_with_imports(found)} has changed: sha256 {found.sha256[:12]}, recorded "
            f"{str(source_sha256)[:12]}; restore it or start anew"
        )
    trust.check(found.path, found.sha256, f"pass --model {name}")
    return found


def _function(name: str, source_sha256: str | None) -> Callable[..., Any]:
    found, (path, factory_name) = _project(name, source_sha256), split_file_name(located(name, source_sha256))
    factory = getattr(_imported(found, path), factory_name, None)
    if not callable(factory):
        raise UsageError(f"model file {path} has no function '{factory_name}'")
    return cast(Callable[..., Any], factory)


def _imported(found: Project, path: Path) -> ModuleType:
    try:
        return importing.module(found)
    except (Exception, SystemExit) as error:
        raise UsageError(
            f"model file {path} cannot be imported: {one_line(error)}{_looked_in(error, found)}"
        ) from error


def _looked_in(error: BaseException, found: Project) -> str:
    """Say where a missing module was searched."""
    if not isinstance(error, ModuleNotFoundError):
        return ""
    return f"; looked for in {', '.join(map(str, found.roots.first))}, and among what is installed"


def _with_imports(found: Project) -> str:
    """Name the project's modules that are hashed with a file, the first few by name."""
    names = found.imported
    return f" with what it imports ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else ""
