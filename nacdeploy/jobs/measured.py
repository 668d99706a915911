"""Settings that a profile leaves to measurement, found on the machine at hand: the integer grid of ONNX Runtime, the
channels of one unit."""

from nacdeploy import profile as profiles
from nacdeploy.layers.fake_quant import GRIDS
from nacdeploy.profile import Profile
from nacdeploy.progress import Progress
from nacdeploy.runners import probes
from nacdeploy.strategies.operators.prune import target_multiple

MEASURED = "measured"
SMALLEST_BLOCK = 8  # what Q leaves in float runs in blocks of at least so many channels on every CPU


def resolved(profile: Profile, letters: str, progress: Progress) -> Profile:
    """The profile with numbers and names in place of what it leaves to the target, for chains of `letters`. What ONNX
    Runtime's kernels here want is measured."""
    if profile.target == "ort" and profile.quantize.grid == MEASURED:
        profile = _on_best_grid(profile, progress)
    if profile.prune.multiple == "target" and "P" in letters:
        multiple = _multiple(profile.target, "Q" in letters, progress)
        profile = profiles.override(profile, {"prune": {"multiple": multiple}})
    return profile


def _multiple(target: str, is_quantized: bool, progress: Progress) -> int:
    """The channels of one unit of P."""
    if target != "ort":
        return target_multiple(target, is_quantized)
    found = probes.channel_multiple()
    multiple = max(found.int8 if is_quantized else found.float32, SMALLEST_BLOCK)
    progress.say(
        f"P takes units of {multiple} channels; measured here: {found.float32} pay in FP32, {found.int8} in INT8"
    )
    return multiple


def exact_here(profile: Profile, progress: Progress) -> Profile:
    """The profile with a grid that this CPU computes exactly, where it was made on another one."""
    if profile.quantize.grid == MEASURED:
        return _on_best_grid(profile, progress)
    grid = GRIDS[profile.grid_for("ort")]
    if grid.max_weight_bits == 7 or _weight_bits() == 8:
        return profile
    progress.say(f"grid {grid.name} saturates on this CPU and is left")
    return _on_best_grid(profile, progress)


def _on_best_grid(profile: Profile, progress: Progress) -> Profile:
    name = best_grid()
    progress.say(f"integers for ONNX Runtime on this CPU, as measured: {_described(name)}")
    return profiles.override(profile, {"quantize": {"grid": name}})


def best_grid() -> str:
    """The name of the grid that ONNX Runtime's kernels here are fastest with and compute exactly, as measured. Linear
    layers read signed integers on all of them: unsigned products lose accuracy under ONNX Runtime's fusions."""
    signs = "-signed" if probes.best_conv_encoding().signs == "signed" else ""
    return f"ort{signs}{'-8bit' if _weight_bits() == 8 else ''}"


def _weight_bits() -> int:
    return min(probes.best_conv_encoding().weight_bits, probes.best_linear_encoding().weight_bits)


def _described(name: str) -> str:
    grid = GRIDS[name]
    signs = "unsigned" if "conv" in grid.affine_inputs else "signed"
    saturating = "8-bit weights are exact" if grid.max_weight_bits == 8 else "8-bit weights would saturate"
    return f"{name} ({signs} activations before convolutions, weights within {grid.max_weight_bits} bits: {saturating})"
