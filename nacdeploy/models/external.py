"""Models of libraries: torchvision and timm."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from nacdeploy.base.errors import MissingExtraError, UsageError, one_line, unknown

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
        raise UsageError(f"model '{name}' cannot be built for {height}x{width} images: {one_line(error)}") from error
    return GrayToColor(model) if channels == 1 else model
