"""Probes of this CPU: what the kernels of ONNX Runtime (or another runtime) here are fast and exact with, found by
running small models.

Grids, weight widths and channel multiples are chosen by what these measure, not by what the CPU's flags promise.
One thread, batch 1, a few seconds at most; a result is kept for the life of the process.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Literal

import numpy as np
import onnx

from nacdeploy.base import latency
from nacdeploy.exporters.targets.ort.probe_models import Signs, conv_stack, linear_stack, worst_case
from nacdeploy.exporters.targets.ort.runner import OnnxRunner
from nacdeploy.exporters.targets.runtime import Maker

Kind = Literal["conv", "linear"]
Precision = Literal["float32", "int8"]

# A choice other than the default must win by this much: what is chosen shapes artifacts, and timing is noisy.
MARGIN = 1.1
MULTIPLES = (1, 4, 8, 16)
CHANNELS = (32, 37, 40, 43, 44, 46, 48, 50, 52, 53, 56, 58, 60, 63, 64)

_DEFAULT: dict[Kind, Signs] = {"conv": "unsigned", "linear": "signed"}
_CONVS = ((32, 28), (64, 14), (128, 14))
_LINEARS = ((64, 192), (64, 384))
_N_ROUNDS, _ROUND_MS = 7, 4.0


@dataclass(frozen=True)
class EncodingTime:
    """The median time of one small model with INT8 weights and activations of either sign."""

    model: str
    signs: Signs
    p50_ms: float


@dataclass(frozen=True)
class Encoding:
    """The activations that one kind of layer is fastest with here, and the weight width it is exact with.

    `signed_over_unsigned` is the geometric mean over the models of signed time over unsigned time (above 1: unsigned
    activations are faster). `weight_bits` is 8, or 7 where sums of two 8-bit products saturate in the optimised
    session; `is_exact` says that the optimised session then answers as the unoptimised one on the worst inputs.
    """

    kind: Kind
    signs: Signs
    weight_bits: int
    is_exact: bool
    signed_over_unsigned: float
    times: tuple[EncodingTime, ...]


@dataclass(frozen=True)
class ChannelTime:
    """The time of a stack of convolutions with `channels` in and out, and that time over the time which the counts of
    the largest multiple on both sides let expect (interpolated on logarithmic axes)."""

    channels: int
    precision: Precision
    p50_ms: float
    over_expected: float


@dataclass(frozen=True)
class ChannelMultiple:
    """The multiple that channel counts should have here, by precision, and what was measured."""

    float32: int
    int8: int
    times: tuple[ChannelTime, ...]

    @property
    def by_precision(self) -> dict[str, int]:
        """The two by the name of their precision."""
        return {"float32": self.float32, "int8": self.int8}


@dataclass(frozen=True)
class Measured:
    """Everything the probes say of this machine."""

    machine: str
    encodings: tuple[Encoding, ...]
    channels: ChannelMultiple


def measure() -> Measured:
    """Run all probes."""
    return Measured(latency.machine(), (best_conv_encoding(), best_linear_encoding()), channel_multiple())


@cache
def best_conv_encoding() -> Encoding:
    """Signs of activations and bits of weights for convolutions, measured (unsigned unless signed wins by 10 %)."""
    models = {
        f"conv 3x3, {channels} channels, {side} px": (partial(conv_stack, channels, side), (1, channels, side, side))
        for channels, side in _CONVS
    }
    return _encoding("conv", models)


@cache
def best_linear_encoding() -> Encoding:
    """The same for linear layers over tokens (signed unless unsigned wins by 10 %)."""
    models = {
        f"linear {width} to {width}, {tokens} tokens": (partial(linear_stack, width), (1, tokens, width))
        for tokens, width in _LINEARS
    }
    return _encoding("linear", models)


def best_grid() -> str:
    """The name of the grid that the kernels here are fastest with and compute exactly. Linear layers read signed
    integers on all of them: unsigned products lose accuracy under ONNX Runtime's fusions."""
    conv, linear = best_conv_encoding(), best_linear_encoding()
    is_wide = min(conv.weight_bits, linear.weight_bits) == 8
    return f"ort{'-signed' if conv.signs == 'signed' else ''}{'-8bit' if is_wide else ''}"


@cache
def channel_multiple(runtime: Maker = OnnxRunner) -> ChannelMultiple:
    """Which multiple of channels pays here, for 3x3 convolutions of 32 to 64 channels on 14 x 14 pixels."""
    side = 14
    signs: dict[Precision, Signs | None] = {"float32": None, "int8": "unsigned"}
    models = {
        f"{precision} {channels}": (conv_stack(channels, side, signs[precision]), (1, channels, side, side))
        for channels in CHANNELS
        for precision in signs
    }
    p50_ms = _times(models, runtime)
    times = {precision: {channels: p50_ms[f"{precision} {channels}"] for channels in CHANNELS} for precision in signs}
    rows = (ChannelTime(c, p, t, t / expected_ms(times[p], c)) for p in signs for c, t in times[p].items())
    return ChannelMultiple(best_multiple(times["float32"]), best_multiple(times["int8"]), tuple(rows))


def expected_ms(times_ms: Mapping[int, float], channels: int) -> float:
    """The time for `channels` between those of the multiples of 16 around it, on logarithmic axes."""
    aligned = sorted(c for c in times_ms if c % MULTIPLES[-1] == 0)
    logs = np.interp(np.log(channels), np.log(aligned), np.log([times_ms[c] for c in aligned]))
    return float(np.exp(logs))


def best_multiple(times_ms: Mapping[int, float]) -> int:
    """The smallest of `MULTIPLES` whose channel counts take, on average and within the margin, no longer than expected.

    `times_ms` are times by channel count.
    """
    over = {channels: t / expected_ms(times_ms, channels) for channels, t in times_ms.items()}
    mean = {m: np.mean([over[c] for c in over if c % m == 0]) for m in MULTIPLES}
    return next(m for m in MULTIPLES if mean[m] <= MARGIN)


def choose_signs(kind: Kind, signed_over_unsigned: float) -> Signs:
    """The default of the kind, unless the other is faster by more than the margin."""
    if _DEFAULT[kind] == "unsigned":
        return "signed" if signed_over_unsigned < 1 / MARGIN else "unsigned"
    return "unsigned" if signed_over_unsigned > MARGIN else "signed"


def _encoding(kind: Kind, models: Mapping[str, tuple[partial[onnx.ModelProto], tuple[int, ...]]]) -> Encoding:
    signs: tuple[Signs, ...] = ("unsigned", "signed")
    p50_ms = _times({f"{s} {name}": (make(s), shape) for name, (make, shape) in models.items() for s in signs})
    ratios = [p50_ms[f"signed {name}"] / p50_ms[f"unsigned {name}"] for name in models]
    ratio = math.exp(float(np.mean(np.log(ratios))))
    chosen = choose_signs(kind, ratio)
    bits = 8 if is_exact(kind, chosen, 8) else 7
    times = tuple(EncodingTime(name, s, p50_ms[f"{s} {name}"]) for name in models for s in signs)
    return Encoding(kind, chosen, bits, is_exact(kind, chosen, bits), ratio, times)


def is_exact(kind: Kind, signs: Signs, weight_bits: int, runtime: Maker = OnnxRunner) -> bool:
    """Whether a runtime answers as ONNX Runtime's unoptimised session, to one step of its output grid, where every
    activation and every weight is at its limit: there pairs of products saturate if they can."""
    model, images, step = worst_case(kind, signs, weight_bits)
    content = model.SerializeToString()
    found, plain = (
        runner.run(images)[0] for runner in (runtime(content), OnnxRunner(content, optimization="disabled"))
    )
    return bool(np.abs(found - plain).max() <= 1.01 * step)


def _times(
    models: Mapping[str, tuple[onnx.ModelProto, tuple[int, ...]]], runtime: Maker = OnnxRunner
) -> dict[str, float]:
    """The median time of each model in ms, in turns."""
    calls = {
        name: runtime(model.SerializeToString()).subject(np.ones(shape, np.float32))
        for name, (model, shape) in models.items()
    }
    compared = latency.compare(
        calls, baseline=next(iter(calls)), batch_size=1, threads=1, n_rounds=_N_ROUNDS, round_ms=_ROUND_MS
    )
    return {name: found.p50_ms for name, found in compared.latencies.items()}
