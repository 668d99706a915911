"""Settings that a profile leaves to measurement, found on the machine at hand: the integer grid of ONNX Runtime or
OpenVINO, the channels of one unit."""

from nacdeploy import profile as profiles
from nacdeploy.exporters.targets.openvino.runner import OpenVinoRunner
from nacdeploy.exporters.targets.ort import probe as probes
from nacdeploy.exporters.targets.ort.runner import OnnxRunner
from nacdeploy.layers.fake_quant import GRIDS
from nacdeploy.profile import Profile
from nacdeploy.progress import Progress
from nacdeploy.strategies.operators.base import target_multiple

MEASURED = "measured"
RUNTIMES = {"ort": OnnxRunner, "openvino": OpenVinoRunner}
TITLES = {"ort": "ONNX Runtime", "openvino": "OpenVINO"}
SMALLEST_BLOCK = 8  # what Q leaves in float runs in blocks of at least so many channels on every CPU

_UNITS = {"prune": "P", "decompose": "D"}  # tables with a `multiple`, and their letters


def resolved(profile: Profile, letters: str, progress: Progress) -> Profile:
    """The profile with numbers and names in place of what it leaves to the target, for chains of `letters`. What the
    kernels of a runtime on this CPU want is measured.

    Raises:
        MissingExtraError: the target is OpenVINO, which is not installed.
    """
    if profile.target in RUNTIMES and profile.quantize.grid == MEASURED:
        profile = _on_best_grid(profile, profile.target, progress)
    left = [key for key, letter in _UNITS.items() if letter in letters and getattr(profile, key).multiple == "target"]
    if left:
        multiple = _multiple(profile.target, "Q" in letters, progress)
        profile = profiles.override(profile, {key: {"multiple": multiple} for key in left})
    return profile


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
    if profile.quantize.grid.partition("-")[0] != target:
        return _on_best_grid(profile, target, progress)
    grid = GRIDS[profile.grid_for(target)]
    if grid.max_weight_bits == 7 or _weight_bits(target) == 8:
        return profile
    progress.say(f"grid {grid.name} saturates on this CPU and is left")
    return _on_best_grid(profile, target, progress)


def _on_best_grid(profile: Profile, target: str, progress: Progress) -> Profile:
    name = best_grid(target)
    progress.say(f"integers for {TITLES[target]} on this CPU, as measured: {_described(name)}")
    return profiles.override(profile, {"quantize": {"grid": name}})


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
