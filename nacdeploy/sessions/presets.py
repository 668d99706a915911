"""The settings of images that `images.preprocess` stands for; what a source says of a key itself is stronger."""

from typing import Any

from nacdeploy.models import presets
from nacdeploy.profile.settings import Layer, Settings


def layers(settings: Settings, model: str) -> tuple[Layer, ...]:
    """Return the sizes and the normalisation that `images.preprocess` names, for the keys that no source gives; no
    layer where it names nothing. `model` is the network that comes.

    Raises:
        UsageError: no such preset.
    """
    images = settings.profile.images
    if images.preprocess is None:
        return ()
    found = presets.preset(images.preprocess, model)
    if images.input_size is not None:
        found = found.at(images.input_size)
    keys: dict[str, Any] = {"interpolation": found.interpolation}
    keys |= {"mean": list(images.seen(found.mean)), "std": list(images.seen(found.std))}
    wanted = {key: value for key, value in keys.items() if f"images.{key}" not in settings.given}
    if images.resize is None and images.crop is None:
        is_squashed = found.resize is None
        wanted |= {"input_size": found.crop if is_squashed else None}
        wanted |= {} if is_squashed else {"resize": found.resize, "crop": found.crop}
    return ((f"preprocess {images.preprocess}", {"images": wanted}),)
