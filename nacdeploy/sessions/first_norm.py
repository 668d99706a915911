"""The check whether images arrive at a network as in its training: the first batch norm remembers its inputs.

A wrong normalisation is seldom fatal (76 instead of 95 %), and nothing else shows it. The present input of the first
norm is compared with its running statistics, under the normalisation at hand and under the usual ones.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from nacdeploy.data import Dataset
from nacdeploy.data.normalization import IMAGENET, Scale, statistics
from nacdeploy.strategies.settle import calibration_images

# Measured: up to 0.16 on digits (ResNet8, ResNet20, MobileNetV2, MobileNetV3) and 0.29 on photographs (EfficientNet-
# lite0) under the right normalisation, from 0.47 and 0.57 under wrong ones. Images of another kind than those of the
# training reach 0.6 (blurred) to 1.5 (digits), and no other normalisation is nearer by more than a seventh.
FAR, VERY_FAR, NEARER = 0.35, 1.0, 0.6
N_IMAGES, N_PIXELS = 256, 1 << 20


@dataclass(frozen=True)
class Normalization:
    """Mean and deviation per channel, and their name for `--normalize`."""

    option: str
    mean: Scale
    std: Scale


@dataclass(frozen=True)
class Arrival:
    """The input of the first batch norm, called `layer`, and its distance from the remembered statistics.

    `distance` is the root mean square over channels of the shift of the mean, in deviations, and of the logarithm of
    the ratio of deviations: 0 if all is as in training, about 0.7 if deviations are doubled or halved.
    """

    layer: str
    distance: float


@dataclass(frozen=True)
class Mismatch:
    """Images arrive otherwise than in training; `better` is a normalisation under which they nearly would not, if
    there is one."""

    now: Arrival
    better: Normalization | None = None
    distance: float = 0.0

    def __str__(self) -> str:
        reach = f"the images reach '{self.now.layer}' otherwise than in the checkpoint's training"
        if self.better is None:
            return (
                f"{reach} (distance {self.now.distance:.2f}) and no usual normalisation is nearer: set images.mean and "
                "images.std to those of its training, unless the images are of another kind"
            )
        mean, std = (_toml(scale) for scale in (self.better.mean, self.better.std))
        return (
            f"{reach} (distance {self.now.distance:.2f}, {self.distance:.2f} under another normalisation): set "
            f"images.mean = {mean} and images.std = {std}, or --normalize {self.better.option}"
        )


def mismatch(backbone: nn.Module, data: Dataset, known: Sequence[Normalization] = ()) -> Mismatch | None:
    """Return what is wrong with the images' normalisation for a trained network, by its first batch norm, or None.

    None says that nothing is wrong, or that nothing can tell. `known` are normalisations to compare with beside the
    usual ones.
    """
    now = arrival(backbone, data)
    if now is None or now.distance < FAR:
        return None
    others = [(_under(one, backbone, data), one) for one in (*known, *_usual(data))]
    distance, best = min(others, key=lambda pair: pair[0])
    if distance < NEARER * now.distance:
        return Mismatch(now, best, distance)
    return Mismatch(now) if now.distance > VERY_FAR else None


def _under(one: Normalization, backbone: nn.Module, data: Dataset) -> float:
    found = arrival(backbone, replace(data, mean=one.mean, std=one.std, channel_order="rgb", value_range="0..1"))
    return float("inf") if found is None else found.distance


def _usual(data: Dataset) -> Iterator[Normalization]:
    """Yield the normalisations of training scripts: the data's, ImageNet's, to [-1, 1], to [0, 1], none, MNIST's."""
    n = data.channels
    yield Normalization("data", *statistics(data.train.images))
    if n == len(IMAGENET[0]):
        yield Normalization("imagenet", *IMAGENET)
    for mean, std in ((0.5, 0.5), (0.0, 1.0), (0.0, 1 / 255), (0.449, 0.226), (0.1307, 0.3081)):
        yield Normalization(f"{mean:g}/{std:g}", (mean,) * n, (std,) * n)


def _toml(scale: Scale) -> str:
    values = [f"{value:.4g}" for value in scale]
    return values[0] if len(set(values)) == 1 else f"[{', '.join(values)}]"


def arrival(backbone: nn.Module, data: Dataset) -> Arrival | None:
    """Return the arrival of some training images, or None if the network has no batch norm with statistics."""
    height, width = data.input_size
    n_images = max(16, min(N_IMAGES, N_PIXELS // (height * width)))
    images = data.normalize(calibration_images(data, n_images).whole())
    seen = _first_input(backbone, images)
    if seen is None:
        return None
    layer, norm, x = seen
    mean, var = norm.running_mean, norm.running_var
    if not isinstance(mean, Tensor) or not isinstance(var, Tensor) or _is_fresh(mean, var):
        return None
    if x.dim() < 2 or x.shape[1] != len(mean):  # a norm of another kind, with channels elsewhere
        return None
    return Arrival(layer, _distance(x, mean.double(), var.double()))


def _distance(x: Tensor, mean: Tensor, var: Tensor) -> float:
    """Return the distance of the channels of `x` `(N, C, ...)` from means and variances `(C,)`."""
    values = x.double().transpose(0, 1).flatten(1)
    floor = 1e-3 * var.mean() + 1e-12  # a channel that is always the same says little
    now, then = values.var(1) + floor, var + floor
    shift = (values.mean(1) - mean) ** 2 / (now + then) * 2
    return float((shift + (0.5 * (now / then).log()) ** 2).mean().sqrt())


def _is_fresh(mean: Tensor, var: Tensor) -> bool:
    """Tell whether a norm is as it was built."""
    return bool((mean == 0).all() and (var == 1).all())


class _SeenError(Exception):
    """The first norm was reached; the rest of the forward pass is not needed."""


def _first_input(backbone: nn.Module, images: Tensor) -> tuple[str, nn.Module, Tensor] | None:
    """Return the batch norm that is called first: its name, itself, and its input."""
    found: list[tuple[str, nn.Module, Tensor]] = []

    def stop(name: str, module: nn.Module, x: Tensor) -> None:
        found.append((name, module, x.detach()))
        raise _SeenError

    with torch.inference_mode(), _hooked(backbone, stop), contextlib.suppress(_SeenError):
        backbone(images)
    return found[0] if found else None


@contextmanager
def _hooked(backbone: nn.Module, call: Callable[[str, nn.Module, Tensor], None]) -> Iterator[None]:
    """Run `call` before every module with running statistics, by name."""
    norms = [(n, m) for n, m in backbone.named_modules() if isinstance(getattr(m, "running_mean", None), Tensor)]
    handles = []
    for name, norm in norms:

        def hook(module: nn.Module, args: Any, kwargs: Any, name: str = name) -> None:
            call(name, module, (*args, *kwargs.values())[0])

        handles.append(norm.register_forward_pre_hook(hook, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
