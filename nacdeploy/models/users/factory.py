"""The network or task that a function in a user's own file makes. The file runs only if this user named it."""

import copy
import inspect
import os
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from torch import nn

from nacdeploy.base.errors import UsageError, one_line
from nacdeploy.models.users import importing, project, trust
from nacdeploy.models.users.project import Project

_MADE: dict[tuple[str, str, str], Any] = {}  # tasks, by file, function and content


def split_file_name(name: str) -> tuple[Path, str]:
    """Split `path/file.py:factory` into the file and the factory's name.

    Raises:
        UsageError: the file or the factory is missing.
    """
    path, _, factory = name.rpartition(":")
    if not path.endswith(".py") or not factory.isidentifier():
        raise UsageError(f"model '{name}' must be of the form path/file.py:factory")
    return Path(path).expanduser(), factory


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
    path, factory = split_file_name(name)
    if source_sha256 is None or (path.is_file() and project.read(path).sha256 == source_sha256):
        return name
    found = trust.located(path, source_sha256)
    return name if found is None else f"{found}:{factory}"


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
    path, factory_name = split_file_name(located(name, source_sha256))
    found = project.read(path)
    if source_sha256 not in (None, found.sha256):
        raise UsageError(
            f"model file {path}{_with_imports(found)} has changed: sha256 {found.sha256[:12]}, recorded "
            f"{str(source_sha256)[:12]}; restore it or start anew"
        )
    trust.check(found.path, found.sha256, f"pass --model {name}")
    key = (str(found.path), factory_name, found.sha256)
    if key in _MADE:
        return _MADE[key]
    factory = getattr(_imported(found, path), factory_name, None)
    if not callable(factory):
        raise UsageError(f"model file {path} has no function '{factory_name}'")
    try:
        with importing.at_hand(found):
            accepted = inspect.signature(factory).parameters
            model = factory(**{key: value for key, value in offered.items() if key in accepted})
    except (Exception, SystemExit) as error:
        raise UsageError(f"model '{name}' failed: {one_line(error)}") from error
    if hasattr(model, "network") and not isinstance(model, nn.Module):
        _MADE[key] = model
    return model


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
