"""The facts of timm and torchvision about a network's pretrained weights: normalisation, classes, licence."""

from dataclasses import dataclass

from nacdeploy.base.errors import UsageError
from nacdeploy.models import external
from nacdeploy.profile.tables.training import DataTable

# Ported from TensorFlow. torchvision puts a layer that turns ImageNet's normalisation into theirs before the pretrained
# ones only; ours are built without it.
_PORTED = ("googlenet", "inception_v3")
_PORTED_SCALE = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Pretraining:
    """Mean and standard deviation per channel of pixels in [0, 1], and the number of classes."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    n_classes: int


def pretraining(name: str) -> Pretraining | None:
    """Return the facts about a named network, or None if no library has any.

    Raises:
        MissingExtraError: timm is needed and not installed.
        UsageError: timm or torchvision has no such model.
    """
    library, _, rest = name.partition(":")
    if library == "timm":
        return _of_timm(rest)
    return _of_torchvision(rest) if library == "torchvision" else None


def license_of(name: str) -> str:
    """Return what a library says of the licence of its weights for a network, and who says so; "" where none does
    (torchvision says nothing).

    Raises:
        MissingExtraError: timm is needed and not installed.
        UsageError: timm has no such model.
    """
    library, _, rest = name.partition(":")
    if library != "timm":
        return ""
    external.check_timm(rest)
    import timm

    config = timm.get_pretrained_cfg(rest)
    return f"{config.license} (timm of its own weights)" if config is not None and config.license else ""


def settled(name: str, table: DataTable) -> DataTable:
    """Return the table with the network's numbers: `mean` and `std` in place of "model", and `n_classes` of "index".

    Raises:
        UsageError: nothing is known of the network; the message names the key to set.
    """
    asked = [key for key in ("mean", "std") if getattr(table, key) == "model"]
    if table.classes == "index" and table.n_classes is None:
        asked.append("n_classes")
    if not asked:
        return table
    known = pretraining(name)
    own = {key: getattr(known, key, None) for key in asked}
    own |= {key: table.seen(value) for key, value in own.items() if key != "n_classes" and value}
    unknown = [
        f"images.{key}" for key, value in own.items() if not value
    ]  # weights without a classifier have 0 classes
    if unknown:
        raise UsageError(f"nothing says how model '{name}' was trained; set {' and '.join(unknown)} to numbers")
    return table.model_copy(update=own)


def _of_timm(name: str) -> Pretraining | None:
    external.check_timm(name)
    import timm

    config = timm.get_pretrained_cfg(name)
    if config is None or config.mean is None or config.std is None:
        return None
    return Pretraining(_numbers(config.mean), _numbers(config.std), config.num_classes)


def _of_torchvision(name: str) -> Pretraining:
    external.check_torchvision(name)
    from torchvision import models

    weights = models.get_model_weights(name).DEFAULT
    images, n_classes = weights.transforms(), len(weights.meta["categories"])
    if name in _PORTED:
        return Pretraining(_PORTED_SCALE, _PORTED_SCALE, n_classes)
    return Pretraining(_numbers(images.mean), _numbers(images.std), n_classes)


def _numbers(values: list[float] | tuple[float, ...]) -> tuple[float, ...]:
    return tuple(map(float, values))
