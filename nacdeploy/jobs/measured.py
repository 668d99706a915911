"""Settings that a profile leaves to measurement, found on the machine at hand: the integer grid of ONNX Runtime or
OpenVINO, the channels of one unit."""

from typing import Any

from nacdeploy import profile as profiles
from nacdeploy.layers.fake_quant import GRIDS
from nacdeploy.profile import Profile
from nacdeploy.profile.settings import Layer
from nacdeploy.progress import Progress
from nacdeploy.runners import probes
from nacdeploy.runners.onnx import OnnxRunner
from nacdeploy.runners.openvino import OpenVinoRunner
from nacdeploy.strategies.operators.base import target_multiple
from nacdeploy.strategies.operators.quantize.settings import QuantizeTable

MEASURED = "measured"
RUNTIMES = {"ort": OnnxRunner, "openvino": OpenVinoRunner}
TITLES = {"ort": "ONNX Runtime", "openvino": "OpenVINO"}
SMALLEST_BLOCK = 8  # what Q leaves in float runs in blocks of at least so many channels on every CPU

_UNITS = {"prune": "P", "decompose": "D"}  # tables with a `multiple`, and their letters


def layers(profile: Profile, letters: str, progress: Progress) -> tuple[Layer, ...]:
    """Numbers and names in place of what a profile leaves to the target, for chains of `letters`. What the kernels of a
    runtime on this CPU want is measured.

    Raises:
        MissingExtraError: the target is OpenVINO, which is not installed.
    """
    source = "measured on this machine" if profile.target in RUNTIMES else f"target {profile.target}"
    tables: dict[str, dict[str, Any]] = {}
    if profile.target in RUNTIMES and profile.of(QuantizeTable).grid == MEASURED:
        tables["quantize"] = {"grid": _best_grid(profile.target, progress)}
    left = [key for key, letter in _UNITS.items() if letter in letters and getattr(profile, key).multiple == "target"]
    if left:
        multiple = _multiple(profile.target, "Q" in letters, progress)
        tables |= {key: {"multiple": multiple} for key in left}
    return ((source, tables),) if tables else ()


def _multiple(target: str, is_quantized: bool, progress: Progress) -> int:
    """The channels of one unit of P, or ranks of one of D."""
    if target not in RUNTIMES:
        return target_multiple(target, is_quantized)
    found = probes.channel_multiple(RUNTIMES[target])
    multiple = max(found.int8 if is_quantized else found.float32, SMALLEST_BLOCK)
    progress.say(f"units of {multiple} channels; measured here: {found.float32} pay in FP32, {found.int8} in INT8")
    return multiple


def exact_here(profile: Profile, target: str, progress: Progress) -> Profile:
    """The profile with a grid that this CPU computes exactly, where it was made on another one or for another target;
    for other targets than those on the CPU it is as it was.

    Raises:
        MissingExtraError: the target is OpenVINO, which is not installed.
    """
    if target not in RUNTIMES:
        return profile
    if profile.of(QuantizeTable).grid.partition("-")[0] != target:
        return _on_best_grid(profile, target, progress)
    grid = GRIDS[profile.grid_for(target)]
    if grid.max_weight_bits == 7 or _weight_bits(target) == 8:
        return profile
    progress.say(f"grid {grid.name} saturates on this CPU and is left")
    return _on_best_grid(profile, target, progress)


def _on_best_grid(profile: Profile, target: str, progress: Progress) -> Profile:
    return profiles.override(profile, {"quantize": {"grid": _best_grid(target, progress)}})


def _best_grid(target: str, progress: Progress) -> str:
    name = best_grid(target)
    progress.say(f"integers for {TITLES[target]} on this CPU, as measured: {_described(name)}")
    return name


def best_grid(target: str) -> str:
    """The name of the grid that the kernels of "ort" or "openvino" here are fastest with and compute exactly, as
    measured. Linear layers read signed integers on all of them: unsigned products lose accuracy under ONNX Runtime's
    fusions."""
    is_signed = target == "ort" and probes.best_conv_encoding().signs == "signed"
    return f"{target}{'-signed' if is_signed else ''}{'-8bit' if _weight_bits(target) == 8 else ''}"


def _weight_bits(target: str) -> int:
    if target == "openvino":
        return probes.openvino_weight_bits()
    return min(probes.best_conv_encoding().weight_bits, probes.best_linear_encoding().weight_bits)


def _described(name: str) -> str:
    grid = GRIDS[name]
    signs = "unsigned" if "conv" in grid.affine_inputs else "signed"
    saturating = "8-bit weights are exact" if grid.max_weight_bits == 8 else "8-bit weights would saturate"
    return f"{name} ({signs} activations before convolutions, weights within {grid.max_weight_bits} bits: {saturating})"
