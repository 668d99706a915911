"""The way from an image to the input of a pretrained network, as timm and torchvision record it with the weights."""

import math
from dataclasses import dataclass
from typing import Any

from nacdeploy.base.errors import UsageError, unknown
from nacdeploy.models import external

_INTERPOLATIONS = ("bilinear", "bicubic", "nearest")
FORMS = "'timm', 'timm:NAME', 'torchvision' or 'torchvision:WEIGHTS' (such as ResNet50_Weights.IMAGENET1K_V2)"


@dataclass(frozen=True)
class Preset:
    """One way of preparing images.

    Attributes:
        resize: the length of the shorter side, None if the image is squashed to the square of `crop`.
        crop: the side of the middle square that is kept.
        interpolation: of the resizing.
        mean, std: per channel, of red, green and blue in [0, 1].
    """

    resize: int | None
    crop: int
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def at(self, side: int) -> "Preset":
        """Return the same way to images of another side: the margin of the crop stays in proportion."""
        resize = None if self.resize is None else round(self.resize * side / self.crop)
        return Preset(resize, side, self.interpolation, self.mean, self.std)


def preset(spec: str, model: str) -> Preset:
    """Return the preset that a text names; without a name behind the library it is that of the model.

    Raises:
        MissingExtraError: timm is needed and not installed.
        UsageError: no such preset, or one that is more than resizing, cropping and normalising.
    """
    library, colon, name = spec.partition(":")
    if library not in ("timm", "torchvision") or (colon and not name):
        raise UsageError(f"images.preprocess = '{spec}' is none of {FORMS}")
    if not colon:
        of_model, _, name = model.partition(":")
        if of_model != library:
            raise UsageError(
                f"images.preprocess = '{spec}' takes the model's own, and '{model}' is not of {spec}; {FORMS}"
            )
        return _of_timm(name, spec) if library == "timm" else _of_torchvision(_default_weights(name), spec)
    return _of_timm(name, spec) if library == "timm" else _of_torchvision(_weights(name), spec)


def _of_timm(name: str, spec: str) -> Preset:
    external.check_timm(name)
    import timm
    from timm.data import resolve_data_config  # type: ignore[attr-defined]

    known = timm.get_pretrained_cfg(name)
    if known is None:
        raise UsageError(f"images.preprocess = '{spec}': timm knows no pretrained weights of '{name}'")
    config = resolve_data_config({}, pretrained_cfg=known.to_dict())
    _, height, width = config["input_size"]
    mode = config["crop_mode"]
    if height != width or mode not in ("center", "squash"):
        raise UsageError(
            f"images.preprocess = '{spec}': images of {height}x{width}, crop mode '{mode}', are not made here"
        )
    if mode == "squash" and config["crop_pct"] != 1:
        raise UsageError(
            f"images.preprocess = '{spec}' squashes and crops; set images.input_size, mean and std instead"
        )
    resize = None if mode == "squash" else math.floor(height / config["crop_pct"])
    return _preset(spec, resize, height, config["interpolation"], config["mean"], config["std"])


def _default_weights(name: str) -> Any:
    external.check_torchvision(name)
    from torchvision import models

    return models.get_model_weights(name).DEFAULT


def _weights(name: str) -> Any:
    from torchvision import models

    known = [f"{each.__name__}.{one.name}" for n in models.list_models(models) for each in [_enum(n)] for one in each]
    if name not in known:
        raise unknown("torchvision weights", name, sorted(set(known)))
    return models.get_weight(name)


def _enum(name: str) -> Any:
    from torchvision import models

    return models.get_model_weights(name)


def _of_torchvision(weights: Any, spec: str) -> Preset:
    made = weights.transforms()
    side, resize = (values[0] for values in (made.crop_size, made.resize_size))
    return _preset(spec, resize, side, made.interpolation.value, made.mean, made.std)


def _preset(spec: str, resize: int | None, side: int, interpolation: str, mean: Any, std: Any) -> Preset:
    if interpolation not in _INTERPOLATIONS:
        raise UsageError(
            f"images.preprocess = '{spec}' resizes by '{interpolation}'; here it is one of "
            f"{', '.join(_INTERPOLATIONS)}: set images.resize = {resize}, images.crop = {side}, mean and std instead"
        )
    return Preset(resize, side, interpolation, tuple(map(float, mean)), tuple(map(float, std)))
