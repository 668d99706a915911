"""Models from elsewhere: torchvision, timm, and a factory in a user's own Python file."""

import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from nacdeploy.errors import MissingExtraError, UsageError, unknown

# Auxiliary heads answer in training mode only, and with a tuple.
_NO_AUXILIARY_HEADS = {"aux_logits": False, "init_weights": False}
_TORCHVISION_KEYWORDS: dict[str, dict[str, Any]] = {
    "googlenet": _NO_AUXILIARY_HEADS,
    "inception_v3": _NO_AUXILIARY_HEADS,
}


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
        UsageError: it has none.
    """
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise unknown("torchvision model", name, known)


def torchvision_model(name: str, *, n_classes: int, channels: int, input_size: tuple[int, int]) -> nn.Module:
    """A torchvision classification model without weights, made for the image size where it has one.

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
        UsageError: it has no such model.
    """
    try:
        import timm
    except ModuleNotFoundError as error:
        raise MissingExtraError("timm", "timm", f"model 'timm:{name}'") from error
    if not timm.is_model(name):
        raise unknown("timm model", name, timm.list_models())


def timm_model(name: str, *, n_classes: int, channels: int, input_size: tuple[int, int]) -> nn.Module:
    """A timm model without weights, made for the image size where it has one.

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
    """`path/file.py:factory` as the file and the factory's name.

    Raises:
        UsageError: one of the two is missing.
    """
    path, _, factory = name.rpartition(":")
    if not path.endswith(".py") or not factory.isidentifier():
        raise UsageError(f"model '{name}' must be of the form path/file.py:factory")
    return Path(path).expanduser(), factory


def read_source(path: Path) -> tuple[bytes, str]:
    """A user's file as bytes and their sha256 in hex.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        source = path.read_bytes()
    except OSError as error:
        raise UsageError(f"model file {path} cannot be read ({error.strerror})") from error
    return source, hashlib.sha256(source).hexdigest()


def file_model(
    name: str, *, n_classes: int, channels: int, input_size: tuple[int, int], source_sha256: str | None
) -> nn.Module:
    """What a user's factory returns, given those of our keywords that its signature names.

    Raises:
        UsageError: the file or the factory is missing, fails, returns no module, or the file has changed.
    """
    path, factory_name = split_file_name(name)
    source, digest = read_source(path)
    if source_sha256 not in (None, digest):
        raise UsageError(
            f"model file {path} has changed: sha256 {digest[:12]}, recorded {str(source_sha256)[:12]}; "
            "restore the file or start anew"
        )
    factory = getattr(_imported(path, source), factory_name, None)
    if not callable(factory):
        raise UsageError(f"model file {path} has no function '{factory_name}'")
    offered = {
        "n_classes": n_classes,
        "num_classes": n_classes,
        "channels": channels,
        "in_channels": channels,
        "input_size": input_size,
    }
    try:
        accepted = inspect.signature(factory).parameters
        model = factory(**{key: value for key, value in offered.items() if key in accepted})
    except (Exception, SystemExit) as error:
        raise UsageError(f"model '{name}' failed: {_reason(error)}") from error
    if not isinstance(model, nn.Module):
        raise UsageError(f"model '{name}' returned {type(model).__name__}, not a torch.nn.Module")
    return model


@cache
def _imported(path: Path, source: bytes) -> ModuleType:
    """The module of a user's file, run from the very bytes that were hashed: a cached .pyc may be older than they."""
    where = str(path.absolute())
    module_name = f"nacdeploy_file_{path.stem}_{hashlib.sha256(where.encode() + source).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(module_name, where)
    if spec is None:
        raise UsageError(f"model file {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        exec(compile(source, where, "exec"), module.__dict__)
    except BaseException as error:
        del sys.modules[module_name]
        if isinstance(error, Exception | SystemExit):
            raise UsageError(f"model file {path} cannot be imported: {_reason(error)}") from error
        raise
    return module


def _reason(error: BaseException) -> str:
    """An exception as one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
