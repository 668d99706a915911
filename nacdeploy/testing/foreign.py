"""Networks that were not written for this package, with weights in which every branch matters, and a task for them.

Weights are random: torch's own initialisation, with new draws for values that torch leaves at zero or nearly so (the
last norm of a residual branch, layer scale, class tokens), norms that differ from channel to channel, and batch-norm
statistics of smooth random images, moved a little, so that settling them anew changes the answer.
"""

import copy
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from nacdeploy import data as datasets
from nacdeploy import profile as profiles
from nacdeploy.data import Dataset, ImageSet
from nacdeploy.models import ModelSpec
from nacdeploy.network.network import Network
from nacdeploy.profile import Profile
from nacdeploy.strategies.baseline import initial_state
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.operators.quantize.settings import QuantizeTable
from nacdeploy.strategies.state import CompressionState
from nacdeploy.strategies.steps.advance import advance
from nacdeploy.task import Task

N_CLASSES, N_TRAIN, N_VALIDATION, N_TEST = 10, 32, 16, 16
TINY = 1e-3  # the largest magnitude of a parameter that is as good as absent


@dataclass(frozen=True, eq=False)
class Foreign:
    """A float network in evaluation mode, which nothing changes, with a profile and a task to compress and judge it."""

    original: nn.Module
    task: Task
    profile: Profile

    @cached_property
    def start(self) -> CompressionState:
        """Return the state of a copy before any letter."""
        shape = (self.task.data.channels, *self.task.data.input_size)
        grid = self.profile.target.grid(self.profile.of(QuantizeTable).grid)
        return initial_state(Network(copy.deepcopy(self.original), grid, shape).eval(), self.task)

    @cached_property
    def quantized(self) -> CompressionState:
        """Return the state after Q alone."""
        return self.after("Q")

    def after(self, chain: str, state: CompressionState | None = None) -> CompressionState:
        """Return the state after a chain."""
        state = state or self.start
        for link in Chain.parse(chain).links:
            state = advance(state, link, self.task, self.profile)
        return state

    def images(self, n: int = N_TEST) -> Tensor:
        """Return normalised test images (n, C, H, W)."""
        return self.task.data.normalize(self.task.data.test.images[:n])

    def answers(self, n: int = N_TEST) -> Tensor:
        """Return the original's logits (n, K) on these images."""
        return outputs(self.original, self.images(n))

    @cached_property
    def calibration(self) -> Tensor:
        """Return the normalised images (N, C, H, W) for calibrating ranges."""
        return self.task.data.normalize(self.task.data.train.whole())


def foreign(name: str, size: int, *, grid: str = "ort", seed: int = 0) -> Foreign:
    """Make a network by its name (`torchvision:NAME`, `timm:NAME`, `path/file.py:factory`) for images (3, size,
    size)."""
    data = smooth_images(size, seed)
    task = Task(ModelSpec(name, N_CLASSES, 3, (size, size)), data)
    return Foreign(randomised(task.build(seed), data.normalize(data.train.whole()), seed), task, small_profile(grid))


def of_module(module: nn.Module, size: int, *, grid: str = "ort", seed: int = 0) -> Foreign:
    """Make a foreign network of a module with ten classes; the module's weights are changed in place."""
    data = smooth_images(size, seed)
    task = Task(ModelSpec("module.py:make", N_CLASSES, 3, (size, size), source_sha256="0" * 64), data)
    module = randomised(module.eval(), data.normalize(data.train.whole()), seed)
    return Foreign(module, task, small_profile(grid))


def small_profile(grid: str = "ort") -> Profile:
    """Return a profile with few images, one epoch and units of one channel; nothing is timed and no layer is left
    out."""
    recipe = {"epochs": 1, "batch_size": 16, "learning_rate": 1e-3}
    tables = {
        "finetune": {**recipe, "early_stop_patience": None},
        "prune": {"multiple": 1, "scope": "uniform", "n_calibration": 16},
        "quantize": {"grid": grid, "n_calibration": N_TRAIN},
        "decompose": {"multiple": 1},
        "exits": {"recipe": recipe},
        "settle": {"n_images": N_TRAIN, "batch_size": 16},
        "export": {
            "guard": False,
            "min_agreement": 0.0,  # random networks have near-ties everywhere, and amplify roundings
            "min_snr_db": 10.0,
            "n_parity": N_VALIDATION,
            "compute_capabilities": ["SM89"],
        },
    }
    return profiles.from_mapping({"name": "foreign", "target": "ort", **tables})


def smooth_images(size: int, seed: int = 0) -> Dataset:
    """Make low-frequency noise as images, with labels in turn: they hold nothing to learn."""
    generator = torch.Generator().manual_seed(seed)
    n = N_TRAIN + N_VALIDATION + N_TEST
    noise = torch.zeros(n, 3, size, size)
    for side, strength in ((3, 1.0), (8, 0.5)):
        coarse = torch.randn(n, 3, side, side, generator=generator)
        noise += strength * functional.interpolate(coarse, (size, size), mode="bicubic", align_corners=False)
    images = (128 + 55 * noise).clamp(0, 255).to(torch.uint8)
    whole = ImageSet(images, torch.arange(n) % N_CLASSES)
    train, validation, test = (whole.subset(part) for part in torch.arange(n).split([N_TRAIN, N_VALIDATION, N_TEST]))
    mean, std = datasets.statistics(train.images)
    names = tuple(map(str, range(N_CLASSES)))
    return Dataset("smooth-noise", train, validation, test, names, mean, std, seed, "drawn", "none")


def randomised(module: nn.Module, images: Tensor, seed: int = 0) -> nn.Module:
    """Change the module in place: parameters that all matter, and batch-norm statistics from `images` (N, C, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        norms = {name: each for name, each in module.named_modules() if _is_norm(each)}
        for name, parameter in module.named_parameters():
            if parameter.is_floating_point() and parameter.numel():
                owner, _, kind = name.rpartition(".")
                if owner in norms:
                    _draw_norm(parameter, isinstance(norms[owner], _BatchNorm), kind, generator)
                else:
                    _draw(parameter, kind, generator)
        _fill_statistics(module, images, generator)
    return module


def outputs(module: nn.Module, x: Tensor) -> Tensor:
    """Return the answer of a module in evaluation mode."""
    with torch.no_grad():
        answer: Tensor = module(x)
    return answer


def _is_norm(module: nn.Module) -> bool:
    """Tell whether a module is a norm itself: its parameters are its own, not those of layers within."""
    is_named_so = isinstance(module, _BatchNorm) or "norm" in type(module).__name__.lower()
    return is_named_so and not any(True for child in module.children() for _ in child.parameters())


def _draw_norm(parameter: Tensor, of_batch: bool, kind: str, generator: torch.Generator) -> None:
    """Draw scales and shifts that differ from channel to channel.

    Batch norms leave activations mostly above zero and branches small: with gains of one and shifts of zero, many
    layers of them magnify any rounding (Yang et al., 2019, "A mean field theory of batch normalization"), and even the
    best quantizer would be at 5 dB, unlike in trained networks.
    """
    drawn = torch.randn if kind == "bias" else torch.rand
    offset, width = {
        (True, "bias"): (0.3, 0.2),
        (True, "weight"): (0.4, 0.4),
        (False, "bias"): (0.0, 0.1),
    }.get((of_batch, kind), (0.7, 0.6))
    parameter.copy_(offset + width * drawn(parameter.shape, generator=generator))


def _draw(parameter: Tensor, kind: str, generator: torch.Generator) -> None:
    """Draw new values for constants and for values near zero."""
    shape, least, most = parameter.shape, float(parameter.min()), float(parameter.max())
    noise = torch.randn(shape, generator=generator)
    if max(abs(least), abs(most)) >= TINY:
        if least == most and parameter.numel() > 1:  # a scale of ones, a table of constants
            parameter.mul_(1 + 0.2 * noise)
    elif kind == "bias":
        parameter.copy_(0.1 * noise)
    elif parameter.squeeze().dim() <= 1:  # layer scale, a gate, a class token
        parameter.copy_(0.2 + 0.3 * torch.rand(shape, generator=generator))
    else:
        parameter.copy_(noise / parameter[0].numel() ** 0.5)


def _fill_statistics(module: nn.Module, images: Tensor, generator: torch.Generator) -> None:
    """Set running means and variances to those of the images, moved a little."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    former = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum, norm.training = None, True
    module(images)
    for norm, momentum in zip(norms, former, strict=True):
        norm.momentum, norm.training = momentum, False
        _move(norm, generator)


def _move(norm: _BatchNorm, generator: torch.Generator) -> None:
    mean, variance = norm.running_mean, norm.running_var
    if mean is not None and variance is not None:
        mean.add_(0.1 * variance.sqrt() * torch.randn(mean.shape, generator=generator))
        variance.mul_(0.8 + 0.4 * torch.rand(variance.shape, generator=generator)).clamp_(min=1e-3)
