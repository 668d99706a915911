"""Models from elsewhere: torchvision, timm, and a factory in a user's own Python file."""

import copy
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from torch import Tensor, nn

from nacdeploy.base.errors import MissingExtraError, UsageError, unknown
from nacdeploy.models import importing, project, trust
from nacdeploy.models.project import Project

# Auxiliary heads answer in training mode only, and with a tuple.
_NO_AUXILIARY_HEADS = {"aux_logits": False, "init_weights": False}
_TORCHVISION_KEYWORDS: dict[str, dict[str, Any]] = {
    "googlenet": _NO_AUXILIARY_HEADS,
    "inception_v3": _NO_AUXILIARY_HEADS,
}


_BROUGHT: dict[tuple[str, str, str], Any] = {}


class GrayToColor(nn.Module):
    """Shows `(N, 1, H, W)` grey images to a model made for `(N, 3, H, W)`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.expand(-1, 3, -1, -1))


def check_torchvision(name: str) -> None:
    """Check that torchvision has a classification model of this name.

    Raises:
        UsageError: torchvision has none.
    """
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise unknown("torchvision model", name, known)


def torchvision_model(name: str, *, n_classes: int, channels: int, input_size: tuple[int, int]) -> nn.Module:
    """Build a torchvision classification model without weights, for the image size if the model takes one.

    Raises:
        UsageError: no such model, or it cannot be built for these images.
    """
    check_torchvision(name)
    from torchvision import models

    def factory() -> nn.Module:
        keywords = _TORCHVISION_KEYWORDS.get(name, {}) | _torchvision_size(name, input_size)
        return models.get_model(name, weights=None, num_classes=n_classes, **keywords)

    return _color(f"torchvision:{name}", factory, channels, input_size)


def _torchvision_size(name: str, input_size: tuple[int, int]) -> dict[str, Any]:
    if name.startswith("maxvit"):
        return {"input_size": input_size}
    if not name.startswith("vit_"):
        return {}
    if input_size[0] != input_size[1]:
        raise ValueError("its images must be square; set images.input_size")
    return {"image_size": input_size[0]}


def check_timm(name: str) -> None:
    """Check that timm is installed and has a model of this name.

    Raises:
        MissingExtraError: timm is not installed.
        UsageError: timm has no such model.
    """
    try:
        import timm
    except ModuleNotFoundError as error:
        raise MissingExtraError("timm", "timm", f"model 'timm:{name}'") from error
    if not timm.is_model(name):
        raise unknown("timm model", name, timm.list_models())


def timm_model(name: str, *, n_classes: int, channels: int, input_size: tuple[int, int]) -> nn.Module:
    """Build a timm model without weights, for the image size if the model takes one.

    Raises:
        MissingExtraError: timm is not installed.
        UsageError: no such model, or it cannot be built for these images.
    """
    check_timm(name)
    import timm

    def factory() -> nn.Module:
        try:
            return timm.create_model(name, pretrained=False, num_classes=n_classes, img_size=input_size)
        except TypeError as error:
            # timm does not say beforehand which architectures have this keyword.
            if "img_size" not in str(error):
                raise
            return timm.create_model(name, pretrained=False, num_classes=n_classes)

    return _color(f"timm:{name}", factory, channels, input_size)


def _color(name: str, factory: Callable[[], nn.Module], channels: int, input_size: tuple[int, int]) -> nn.Module:
    if channels not in (1, 3):
        raise UsageError(f"model '{name}' takes images of 1 or 3 channels, not {channels}; write a file.py:factory")
    try:
        model = factory()
    except Exception as error:
        height, width = input_size
        raise UsageError(f"model '{name}' cannot be built for {height}x{width} images: {_reason(error)}") from error
    return GrayToColor(model) if channels == 1 else model


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
    if key in _BROUGHT:
        return _BROUGHT[key]
    factory = getattr(_imported(found, path), factory_name, None)
    if not callable(factory):
        raise UsageError(f"model file {path} has no function '{factory_name}'")
    try:
        with importing.at_hand(found):
            accepted = inspect.signature(factory).parameters
            model = factory(**{key: value for key, value in offered.items() if key in accepted})
    except (Exception, SystemExit) as error:
        raise UsageError(f"model '{name}' failed: {_reason(error)}") from error
    if hasattr(model, "network") and not isinstance(model, nn.Module):
        _BROUGHT[key] = model
    return model


def _imported(found: Project, path: Path) -> ModuleType:
    try:
        return importing.module(found)
    except (Exception, SystemExit) as error:
        raise UsageError(f"model file {path} cannot be imported: {_reason(error)}{_looked_in(error, found)}") from error


def _looked_in(error: BaseException, found: Project) -> str:
    """Say where a missing module was searched."""
    if not isinstance(error, ModuleNotFoundError):
        return ""
    return f"; looked for in {', '.join(map(str, found.roots.first))}, and among what is installed"


def _with_imports(found: Project) -> str:
    """Name the project's modules that are hashed with a file, the first few by name."""
    names = found.imported
    return f" with what it imports ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else ""


def _reason(error: BaseException) -> str:
    """Return an exception as one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
