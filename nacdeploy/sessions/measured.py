"""Settings that a profile leaves to measurement, found on the machine at hand: the integer grid of a runtime on this
CPU, and the channels of one unit."""

from typing import Any

from nacdeploy import profile as profiles
from nacdeploy.base.precision import Grid
from nacdeploy.base.progress import Progress
from nacdeploy.exporters.targets import Target
from nacdeploy.exporters.targets.runtime import runtime_of
from nacdeploy.profile import Profile
from nacdeploy.profile.settings import Layer
from nacdeploy.strategies.operators.quantize.settings import QuantizeTable

MEASURED = "measured"
SMALLEST_BLOCK = 8  # what Q leaves in float runs in blocks of at least so many channels on every CPU

_UNITS = {"prune": "P", "decompose": "D"}  # tables with a `multiple`, and their letters


def layers(profile: Profile, letters: str, progress: Progress, by_time: bool = False) -> tuple[Layer, ...]:
    """Return numbers and names for the settings that a profile leaves to the target, for chains of `letters`.

    The grid and units of a runtime on this CPU are measured. `by_time` says that a P leaves a time: where a Q may come,
    it is the time in integers.

    Raises:
        MissingExtraError: the target's runtime is not installed.
    """
    target = profile.target
    source = f"target {target.name}" if runtime_of(target).multiples is None else "measured on this machine"
    tables: dict[str, dict[str, Any]] = {}
    if profile.of(QuantizeTable).grid == MEASURED and (grid := _best_grid(target, progress)):
        tables["quantize"] = {"grid": grid}
    left = [key for key, letter in _UNITS.items() if letter in letters and getattr(profile, key).multiple == "target"]
    if left:
        multiple = unit(target, "Q" in letters, progress)
        tables |= {key: {"multiple": multiple} for key in left}
    found: list[Layer] = [(source, tables)] if tables else []
    if by_time and "Q" in letters:
        found.append(("a Q that may come", {"prune": {"runs_as": "int8"}}))
    return tuple(found)


def unit(target: Target, is_quantized: bool, progress: Progress) -> int:
    """Return the channels of one unit of P, or ranks of one of D."""
    measure = runtime_of(target).multiples
    if measure is None:
        return target.multiple(is_quantized)
    found = measure()
    multiple = max(found["int8" if is_quantized else "float32"], SMALLEST_BLOCK)
    progress.say(
        f"units of {multiple} channels; measured here: {found['float32']} pay in FP32, {found['int8']} in INT8"
    )
    return multiple


def exact_here(profile: Profile, target: Target, progress: Progress) -> Profile:
    """Return the profile with a grid that this CPU computes exactly.

    The grid changes only if it was chosen on another CPU or for another target, and never for a target with a fixed
    grid.

    Raises:
        MissingExtraError: the target's runtime is not installed.
    """
    best_grid = runtime_of(target).best_grid
    if best_grid is None:
        return profile
    now = profile.of(QuantizeTable).grid
    grid = target.grid(now)
    if grid.name == now:
        if grid.max_weight_bits == 7 or target.grid(best_grid()).max_weight_bits == 8:
            return profile
        progress.say(f"grid {grid.name} saturates on this CPU and is left")
    return profiles.override(profile, {"quantize": {"grid": _best_grid(target, progress)}})


def _best_grid(target: Target, progress: Progress) -> str | None:
    """Return the name of the grid with which the target's kernels here are fastest, as measured, or None for a fixed
    grid."""
    best_grid = runtime_of(target).best_grid
    if best_grid is None:
        return None
    grid = target.grid(best_grid())
    progress.say(f"integers for {target.title} on this CPU, as measured: {_described(grid)}")
    return grid.name


def _described(grid: Grid) -> str:
    signs = "unsigned" if "conv" in grid.affine_inputs else "signed"
    saturating = "8-bit weights are exact" if grid.max_weight_bits == 8 else "8-bit weights would saturate"
    bits = grid.max_weight_bits
    return f"{grid.name} ({signs} activations before convolutions, weights within {bits} bits: {saturating})"
